"""What carries each sink head: P0's token, its position id, the causal mask, or distance.

Three things make P0's stream: its token, its position id (where positions are embedded), and that
it sees itself alone (the causal mask). Each is taken from P0, and given to another position p. A
sink head is carried by

    token       if another token at P0 takes LOST of its sink, or BOS at p gives p INDUCED
    id          if other ids take LOST of it, or P0's id gives p INDUCED
    distance    both of that in a model whose P0 stream does not follow its id
    mask        if it keeps more than LOST with another token and another id at once (I3), or if
                p, made to see itself alone (S1) or to look so (S2), gains INDUCED
    query bias  if it loses LOST without query biases: what asks, whatever is asked for

More than one may hold. But where no BOS is given to p, a head whose sink p gains by seeing itself
alone is the mask's only: the token it depends on is a condition, for S1's control gives p that too.
The mass of a carrier is the part of the sink that its heads have; its
interval resamples prompts, and heads are assigned anew each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sinkscope.causal.evidence import (
    BOTH,
    POSITION,
    POSITION_GIVEN,
    QUERY_BIAS,
    SUFFICIENCY,
    TOKEN,
    TOKEN_GIVEN,
    Test,
)
from sinkscope.causal.power import UNSPECIFIC
from sinkscope.causal.sink_heads import SinkHeads
from sinkscope.causal.thresholds import INDUCED, LOST
from sinkscope.result import Measured
from sinkscope.stats import RESAMPLES, resampled, widened_tail

BY_TOKEN, BY_ID, BY_MASK, BY_DISTANCE = "token", "position id", "causal mask", "distance"
BY_QUERY, BY_NOTHING = "query bias", "nothing tested"


@dataclass(frozen=True, eq=False)
class Carrier:
    """The sink heads that something carries.

    heads  [k] boolean, by means over all prompts
    mass   part of the sink that is theirs
    """

    heads: np.ndarray
    mass: Measured


def carriers(tests: Sequence[Test], heads: SinkHeads, seed: int = 0) -> dict[str, Carrier]:
    """What carries each sink head; by nothing tested where none of the first four does.

    tests  judged rows; one whose control does as much is left out
    """
    weights = _weights(len(heads.share), seed)
    share = _means(weights, heads.share)
    held = _sets(tests, heads, weights, share)
    of_sink = share / np.maximum(share.sum(1, keepdims=True), 1e-9)
    tail = widened_tail(len(heads.share)) if len(heads.share) > 1 else 0.5
    found = {}
    for name, carried in held.items():
        mass = (of_sink * carried).sum(1)
        found[name] = Carrier(carried[0], resampled(float(mass[0]), mass[1:], tail))
    return found


def of_role(tests: Sequence[Test], role: str) -> list[Test]:
    """The deciding rows of a role."""
    return [test for test in tests if test.claim and test.extra.get("role") == role]


def follows_ids(tests: Sequence[Test]) -> bool | None:
    """Whether P0's stream follows its position id; None where ids were not changed."""
    return next((t.extra["follows_ids"] for t in tests if "follows_ids" in t.extra), None)


HELD = "in edit and control p holds the token of P0"  # said of S1 where it does


def depends_on_token(tests: Sequence[Test]) -> bool:
    """Whether another token at P0 takes LOST of a sink whose token no row gives to p (no BOS)."""
    lost = any(-test.size >= LOST for test in of_role(tests, TOKEN))
    return lost and not of_role(tests, TOKEN_GIVEN)


def on_condition(tests: Sequence[Test]) -> bool:
    """Whether it depends on the token, and S1 was tried with that token in edit and control."""
    return depends_on_token(tests) and any(HELD in test.note for test in raising(tests))


def raising(tests: Sequence[Test]) -> list[Test]:
    """Rows of S1 and S2 that decide."""
    return [test for test in tests if test.id in ("S1", "S2") and test.claim]


def _sets(
    tests: Sequence[Test], heads: SinkHeads, weights: np.ndarray, share: np.ndarray
) -> dict[str, np.ndarray]:
    """Carrier -> [resamples, k] whether it carries a head; the first resample is all prompts."""
    none = np.zeros(share.shape, dtype=bool)
    scale, gap = heads.scale_of(), heads.gap_of()

    def lost(role: str) -> np.ndarray:
        sizes = [_means(weights, t.by_head) for t in of_role(tests, role) if t.by_head is not None]
        if not sizes:
            return none
        return -np.min(sizes, 0) * scale / np.maximum(share, 1e-9) >= LOST

    def given(rows: Sequence[Test]) -> np.ndarray:
        able = [t for t in rows if t.kind == SUFFICIENCY and t.outcome != UNSPECIFIC]
        sizes = [_means(weights, t.by_head) for t in able if t.by_head is not None]
        if not sizes:
            return none
        with np.errstate(invalid="ignore"):
            return np.max(sizes, 0) * gap / np.maximum(heads.gap, 1e-6) >= INDUCED

    ids, moved = lost(POSITION), given(of_role(tests, POSITION_GIVEN))
    follows = follows_ids(tests)
    kept = ~lost(BOTH) if of_role(tests, BOTH) else none
    raised = given(raising(tests))
    token = lost(TOKEN) & ~raised if on_condition(tests) else lost(TOKEN)
    found = {
        BY_TOKEN: token | given(of_role(tests, TOKEN_GIVEN)),
        BY_ID: (ids | moved) if follows else none,
        BY_MASK: kept | raised,
        BY_DISTANCE: (ids & moved) if follows is False else none,
    }
    found[BY_NOTHING] = ~np.any(list(found.values()), 0)
    return {**found, BY_QUERY: lost(QUERY_BIAS)}


def _weights(n: int, seed: int) -> np.ndarray:
    """[1 + RESAMPLES, n] how often each prompt is drawn; once each in the first row."""
    picks = np.random.default_rng(seed).integers(n, size=(RESAMPLES, n))
    drawn = np.zeros((RESAMPLES, n))
    np.add.at(drawn, (np.arange(RESAMPLES)[:, None], picks), 1)
    return np.concatenate([np.ones((1, n)), drawn])


def _means(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """[resamples, k] weighted means of [n, k]; NaN where no drawn prompt has a value."""
    known = np.isfinite(values)
    count = weights @ known
    with np.errstate(invalid="ignore", divide="ignore"):
        return weights @ np.where(known, values, 0.0) / count
