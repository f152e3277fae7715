"""Sentences on the evidence, made from the numbers of the rows that they speak of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sinkscope.causal.carriers import Carrier, of_role, raising
from sinkscope.causal.evidence import POSITION, SUFFICIENCY, TOKEN, Test
from sinkscope.causal.power import ADVISED, UNDETERMINED, UNSPECIFIC, prompts_to_settle
from sinkscope.causal.thresholds import ALPHA, LOST, NECESSARY, NEGLIGIBLE


def other_paths(tests: Sequence[Test]) -> list[str]:
    """Sentences on edits that take much of the sink, but not through P0's key."""
    said = []
    for test in tests:
        if test.others_change is None or test.sink_change is None or not test.claim:
            continue
        total = test.sink_change.value or 0.0
        if -total >= NEGLIGIBLE and -test.size < -total / 2:
            said.append(
                f"{test.id}: {test.edit} removes {removed(test)}: most of it goes through the "
                "other positions, and is no evidence for the circuit."
            )
    return said


def removed(test: Test) -> str:
    """How much of the sink an edit removes, on which path."""
    if test.key_change is None or test.sink_change is None:
        return percent(-test.size)
    total = test.sink_change.value or 0.0
    return f"{percent(-test.size)} through position zero's key ({percent(-total)} in all)"


def in_a_sentence(test: Test) -> str:
    """What a row does, with its size."""
    if test.kind == SUFFICIENCY:
        return f"{test.edit}: position {test.position} {gains(test)}"
    return f"{test.edit}: {percent(-test.size)} of the sink is lost"


def gains(test: Test) -> str:
    """What a position gains, in nats: a share of the gap may be more than all of it."""
    nats = (test.margin_change.value if test.margin_change is not None else None) or 0.0
    equal = f"; {nats / test.size:.1f} would make it position zero's equal" if test.size else ""
    return f"gains {nats:.1f} nats of margin{equal}"


def percent(value: float) -> str:
    """A share as a percentage, with the decimal that tables give it."""
    return f"{round(value, 3) + 0.0:.1%}"


def would_change(test: Test, bound: float, words: str) -> str:
    """What the row would have to be for another verdict."""
    now = round(test.size, 3) + 0.0  # no minus before a zero
    return f"{test.id}: were it to {words} (now {now:+.1%}, bound {bound:+.0%}): {test.edit}"


def straddles(by: str, rows: Sequence[Test], carrier: Carrier, prompts: int) -> str:
    """A carrier that may hold a part of the sink or not; rows: those that tell."""
    needs = [
        prompts_to_settle(-test.effect, LOST) or 0 for test in rows if test.kind != SUFFICIENCY
    ]
    low, high = carrier.mass.low or 0.0, carrier.mass.high or 0.0
    return (
        f"{by}: it carries {percent(low)} to {percent(high)} of the sink; "
        f"take {max([2 * prompts, ADVISED, *needs])} prompts"
    )


def not_shown(by: str, rows: Sequence[Test]) -> str:
    """Why a carrier is not shown though the heads say so."""
    best = max(rows, key=lambda test: abs(test.size))
    if best.outcome == UNSPECIFIC:
        why = f"its control does so too ({best.control})"
    else:
        why = f"not with p < {ALPHA} over its control" + _take(best)
    return f"{by}: {in_a_sentence(best)}, but {why}"


def _take(test: Test) -> str:
    return f": take {test.needs} prompts" if test.needs is not None else ""


def not_needed(rows: Sequence[Test]) -> str:
    """Why no write of P0's is shown to be necessary; rows: those that could show it."""
    if not rows:
        return "necessity: no write of position zero could be edited"
    opened = [test for test in rows if test.outcome == UNDETERMINED]
    most = min(opened or rows, key=lambda test: test.size)
    if opened or -most.size >= NECESSARY:
        return f"necessity: {most.edit} removes {removed(most)}, but " + (
            f"{int(np.isfinite(most.effect).sum())} prompts cannot show it{_take(most)}"
            if opened
            else f"its control does so too ({most.control})"
        )
    return (
        f"necessity: no edit of what makes or amplifies position zero removes half of the sink "
        f"(most: {removed(most)}, {most.edit})"
    )


def without_carrier(rows: Sequence[Test], carrier: Carrier) -> str:
    """The sink in heads that no row gives or takes; rows: on these heads."""
    best = max(raising(rows), key=lambda test: test.size, default=None)
    tried = "could not be tried" if best is None else f"{gains(best)} at most"
    lacks = [f"no test of the {role}" for role in (TOKEN, POSITION) if not of_role(rows, role)]
    return (
        f"sufficiency: {percent(carrier.mass.value or 0.0)} of the sink is in heads that neither "
        f"token nor position id carries, and another position made to see itself alone {tried}"
        + "".join(f"; {lack}" for lack in lacks)
    )
