"""Which screened edits are confirmed by full passes (`causal.screen` says why)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sinkscope.causal.evidence import Planned, Test
from sinkscope.causal.testing import CausalBench
from sinkscope.causal.thresholds import NECESSARY, NEGLIGIBLE
from sinkscope.stats import nan_mean

Pick = Callable[[np.ndarray], Collection[int]]
STRONGEST = 2  # edits of a kind that are confirmed where each removes NECESSARY of the sink
ENOUGH = 3  # screened edits from which one that does nothing is confirmed too


def decide(lab: CausalBench, planned: Sequence[Planned], pick: Pick) -> list[Test]:
    """A row for each plan: those that `pick` chooses by their sizes are confirmed.

    pick  indices from sizes [plans], the mean effects through P0's key

    A plan that has no such effect is run in full, as are all where P0's key is not at hand. One
    that the screen puts at about nothing is confirmed on a few prompts.
    """
    keys = lab.key_by_head([plan.edits for plan in planned])
    sizes = np.array([0.0 if key is None else float(np.nanmean(key)) for key in keys])
    chosen = set(pick(sizes))
    rows = []
    for i, (plan, key) in enumerate(zip(planned, keys)):
        if key is None or i in chosen:
            few = key is not None and _idle(sizes[i])
            rows.append(lab.test(plan, few=True if few else None))
        else:
            rows.append(_screened(lab, plan, key))
    return rows


def strongest(sizes: np.ndarray) -> list[int]:
    """Indices of the edits that are confirmed, from sizes [plans], negative where the sink shrinks.

    The one that takes most, another that takes half, and of many one that takes nothing.
    """
    order = np.argsort(sizes, kind="stable")
    able = [int(i) for i in order if -sizes[i] >= NECESSARY][:STRONGEST]
    chosen = able or [int(i) for i in order[:1]]
    idle = np.flatnonzero(_idle(sizes))
    if len(sizes) >= ENOUGH and len(idle) and int(idle[-1]) not in chosen:
        chosen.append(int(idle[-1]))  # the last one runs the fewest blocks
    return chosen


def _idle(size: Any) -> Any:
    return np.abs(size) < NEGLIGIBLE / 10


def _screened(lab: CausalBench, plan: Planned, key: np.ndarray) -> Test:
    """A row that was not run in full: key [n, heads] is its effect through P0's key."""
    return Test(
        **vars(replace(plan, controls=(), control="", claim=False)),
        position=0,
        confirmed=False,
        key_change=lab.share_change(nan_mean(key, 1)),
        effect=nan_mean(key, 1),
        by_head=key,
    )
