"""What a training run wrote about itself beside its checkpoints: losses, gradient norm, rate.

Read are `*.jsonl` files in the folder of the run (a row a step) and the `trainer_state.json` of
transformers' Trainer in its last checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sinkscope.training_runs.checkpoint import TrainingRun

# our name -> names it has in logs, most telling first
NAMES = {
    "validation_loss": ("validation.loss", "eval_loss", "val_loss", "validation_loss"),
    "training_loss": ("loss", "train_loss", "training_loss"),
    "gradient_norm": ("gradient_norm", "grad_norm"),
    "learning_rate": ("lr", "learning_rate"),
    "tokens": ("num_input_tokens_seen", "tokens_seen", "tokens"),
}
SMOOTH = 10  # logged rows over which what is noisy from batch to batch is averaged
LATEST = ("validation_loss", "learning_rate", "tokens")  # taken as last logged, not averaged


def training_log(run: TrainingRun) -> dict[str, np.ndarray]:
    """For each checkpoint what was logged up to its step: name -> [c], NaN where nothing was.

    Empty for runs that left no log.
    """
    rows = sorted(_rows(run), key=lambda row: row["step"])
    found: dict[str, np.ndarray] = {}
    for name, spellings in NAMES.items():
        logged = [
            (row["step"], value) for row in rows if (value := _value(row, spellings)) is not None
        ]
        steps = [one.step for one in run.checkpoints]
        if name in LATEST:
            values = [_latest(logged, *gap) for gap in zip([-1, *steps], steps)]
        else:
            values = [_mean(logged, step) for step in steps]
        if np.isfinite(values).any():
            found[name] = np.array(values)
    return found


def _rows(run: TrainingRun) -> Iterator[dict[str, Any]]:
    """Rows with a step, of every log there is."""
    folders = [Path(one.place) for one in run.checkpoints if one.commit is None]
    if not folders:
        return
    for path in sorted({file for folder in folders for file in folder.parent.glob("*.jsonl")}):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue  # a line that was being written when the run was stopped
            if isinstance(row, dict) and isinstance(row.get("step"), int):
                yield row
    states = [f for folder in folders if (f := folder / "trainer_state.json").is_file()]
    if states:
        try:
            history = json.loads(states[-1].read_text(encoding="utf-8")).get("log_history", [])
        except (ValueError, AttributeError, RecursionError):
            return
        yield from (row for row in history if isinstance(row, dict) and "step" in row)


def _value(row: dict[str, Any], spellings: tuple[str, ...]) -> float | None:
    for name in spellings:
        inner: Any = row
        for part in name.split("."):
            inner = inner.get(part) if isinstance(inner, dict) else None
        if isinstance(inner, (int, float)) and not isinstance(inner, bool):
            return float(inner)
    return None


def _latest(logged: list[tuple[int, float]], before: int, step: int) -> float:
    """What was logged last up to a step; NaN where that was by the checkpoint before."""
    since = [value for at, value in logged if before < at <= step]
    return since[-1] if since else float("nan")


def _mean(logged: list[tuple[int, float]], step: int) -> float:
    """Mean of the last rows up to a step; for the first steps, what was logged first after."""
    before = [value for at, value in logged if at <= step]
    if not before:
        return logged[0][1] if logged and logged[0][0] <= step + 1 else float("nan")
    return float(np.mean(before[-SMOOTH:]))
