"""Does a signal tell how much loss is still to come? Each run is left out in turn.

For a signal s and baselines b (the loss so far, its slope, step, gradient norm), linear fits of the
remaining loss on all other runs predict the one left out:

    alone   R² of the prediction from s
    added   R² from the baselines and s, minus R² from the baselines

R² is against the mean of the left-out run, so a signal that says nothing scores 0 or less. The
learning rate falls with the step in every schedule, so what follows the step follows the rate too:
`added` is what a signal says beyond it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sinkscope.stats import spearman

SIGNALS = ("sink", "log_norm", "concentration_2", "turn", "distance")
BASELINES = ("log_step", "loss", "loss_slope", "gradient_norm")
LEAST_RUNS, LEAST_CHECKPOINTS = 3, 4


@dataclass(frozen=True)
class Judged:
    """One signal or baseline over the runs that were left out.

    alone, added, rank  median over runs: R², gain in R² over the baselines, Spearman correlation
    runs                R² alone for each run
    """

    name: str
    alone: float
    added: float | None
    rank: float
    runs: dict[str, float]


def remaining_loss(loss: np.ndarray) -> np.ndarray:
    """Loss still to come, [c] in nats: loss [c] minus that of the last checkpoint."""
    return loss - loss[-1]


def baselines(
    steps: Sequence[int], loss: np.ndarray, gradient_norm: np.ndarray | None
) -> dict[str, np.ndarray]:
    """What anyone has without looking inside: [c] each. The slope is per log step, looking back."""
    x = np.log1p(np.asarray(steps, float))
    slope = np.zeros(len(x))
    slope[1:] = np.diff(loss) / np.maximum(np.diff(x), 1e-9)
    found = {"log_step": x, "loss": loss, "loss_slope": slope}
    if gradient_norm is not None:
        found["gradient_norm"] = gradient_norm
    return found


def judge(runs: dict[str, dict[str, np.ndarray]]) -> list[Judged]:
    """Judge every signal that all runs have.

    runs  name -> {"remaining": [c], signal or baseline: [c], ..}; rows with a value that is not
          finite are left out. The last checkpoint, where nothing remains by definition, too.

    Returns nothing for fewer than LEAST_RUNS runs.
    """
    tables = {name: _clean(columns) for name, columns in runs.items()}
    tables = {name: t for name, t in tables.items() if len(t["remaining"]) >= LEAST_CHECKPOINTS}
    if len(tables) < LEAST_RUNS:
        return []
    common = set.intersection(*(set(t) for t in tables.values()))
    base = [name for name in BASELINES if name in common]
    whole = {run: _left_out(tables, run, base) for run in tables}
    found = []
    for name in (*(s for s in SIGNALS if s in common), *base):
        alone = {run: _left_out(tables, run, [name]) for run in tables}
        added = None
        if name in SIGNALS:
            gains = [_left_out(tables, run, [*base, name]) - whole[run] for run in tables]
            added = float(np.median(gains))
        ranks = [spearman(t[name], t["remaining"]) or 0.0 for t in tables.values()]
        found.append(
            Judged(
                name, float(np.median(list(alone.values()))), added, float(np.median(ranks)), alone
            )
        )
    return found


def _clean(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rows in which everything is finite, without the last one; columns of NaN are dropped."""
    kept = {
        name: np.asarray(values, float)[:-1]
        for name, values in columns.items()
        if np.isfinite(np.asarray(values, float)[:-1]).mean() > 0.5
    }
    if "remaining" not in kept:
        return {"remaining": np.zeros(0)}
    finite = np.all([np.isfinite(values) for values in kept.values()], axis=0)
    return {name: values[finite] for name, values in kept.items()}


def _left_out(tables: dict[str, dict[str, np.ndarray]], run: str, names: list[str]) -> float:
    """R² on one run of a linear fit on all the others."""
    others = [t for name, t in tables.items() if name != run]
    x = np.concatenate([_design(t, names) for t in others])
    y = np.concatenate([t["remaining"] for t in others])
    spread = np.maximum(x.std(0), 1e-12)
    spread[0] = 1.0
    fit = np.linalg.lstsq(x / spread, y, rcond=None)[0]
    left = tables[run]
    predicted = _design(left, names) / spread @ fit
    truth = left["remaining"]
    total = ((truth - truth.mean()) ** 2).sum()
    return float(1.0 - ((truth - predicted) ** 2).sum() / max(total, 1e-12))


def _design(table: dict[str, np.ndarray], names: list[str]) -> np.ndarray:
    return np.stack([np.ones(len(table["remaining"])), *(table[name] for name in names)], 1)
