"""N6: where another cause keeps the sink alive, is the circuit needed once that one is gone?

Two causes of one sink hide each other: with either taken away the other keeps it. So the token at
P0 is replaced, or the ids of P0 and p are swapped, and the strongest writes of P0 are ablated on
top. The effect is what they take of the sink that is left without the other cause, through all
paths; the control ablates the same writes at p.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from sinkscope.causal.carriers import BY_ID, BY_TOKEN
from sinkscope.causal.evidence import IDENTITY, NECESSITY, Planned, Test, p_values
from sinkscope.causal.families.identity import other_tokens
from sinkscope.causal.families.necessity import (
    SECOND,
    attention_plans,
    mlp_plans,
    neurons_off,
    ranked_neurons,
)
from sinkscope.causal.testing import CausalBench
from sinkscope.causal.thresholds import NEGLIGIBLE
from sinkscope.intervene.edits import PositionIds, TokenAt
from sinkscope.intervene.edits.base import Edit
from sinkscope.intervene.readout import Readout
from sinkscope.stats import nan_mean

ID = "N6"
MOST = 2  # writes that are tried, beside the writing neurons


def without_other_causes(lab: CausalBench, causes: Collection[str]) -> list[Test]:
    """A row for each of the strongest writes, the other causes taken away together."""
    removed: list[Edit] = []
    if BY_TOKEN in causes:
        removed.append(TokenAt(0, other_tokens(lab, 1)))
    if BY_ID in causes:
        removed.append(PositionIds(swap=(0, lab.position)))
    base = lab.run(removed)
    left = float(nan_mean(base.on(lab.heads))) / lab.sink_heads.scale_of()
    if not removed or left < NEGLIGIBLE:
        return []
    return [_row(lab, removed, plan, base, left) for plan in _strongest(lab, removed)]


def _strongest(lab: CausalBench, removed: list[Edit]) -> list[Planned]:
    """The writes that take most of the margin without the other token, and all writing neurons."""
    plans = attention_plans(lab, ID) + mlp_plans(lab, ID)
    without = [edit for edit in removed if isinstance(edit, TokenAt)]
    margins = lab.screen.margins([[*without, *plan.edits] for plan in plans])
    order = range(len(plans)) if margins is None else np.argsort(margins, kind="stable")
    chosen = [plans[i] for i in order[:MOST]]
    neurons = ranked_neurons(lab)
    if neurons:
        off, same = (neurons_off(neurons, at=at) for at in (0, lab.position))
        block = neurons[0].block
        chosen.append(Planned(ID, NECESSITY, off, [same], arrow=SECOND, block=block))
    return chosen


def _row(lab: CausalBench, removed: list[Edit], plan: Planned, base: Readout, left: float) -> Test:
    """One write ablated with the other causes gone, relative to what these leave of the sink."""
    edits, control = ([*removed, *each] for each in (plan.edits, plan.controls[0]))
    note = "effect: of the sink that is left without the other cause"
    test = lab.test(replace(plan, kind=IDENTITY, edits=edits, controls=[control], note=note))
    before = lab.by_head(IDENTITY, base)
    whole, same = (
        (lab.by_head(IDENTITY, lab.run(each)) - before) / left for each in (edits, control)
    )
    effect = nan_mean(whole, 1)
    tests = p_values(NECESSITY, effect, nan_mean(same, 1))
    return replace(
        test, kind=NECESSITY, effect=effect, by_head=whole, control_by_head=same, **tests
    )
