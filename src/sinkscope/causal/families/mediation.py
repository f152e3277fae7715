"""M1: does the effect of one stage pass through the next?

A stage is edited and the next is held at its intact value. What the sink gets back, over what the
edit took, is the part that passes through the held stage:

    mediated = (S_edited+held − S_edited) / (S_intact − S_edited)

with S the late share of P0 on the reading heads, and prompts resampled together. The control holds
the same thing at another position. Stage 2 is held as P0's component along the sink direction,
stage 3 as P0's keys in the blocks that read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sinkscope.causal.evidence import MEDIATION, Planned, Test, in_words
from sinkscope.causal.testing import CausalBench
from sinkscope.causal.thresholds import ALPHA, NEGLIGIBLE, SPECIFIC
from sinkscope.errors import Unsupported
from sinkscope.intervene.edits import Stream
from sinkscope.intervene.edits.base import Edit
from sinkscope.intervene.edits.hold import HoldDirection, HoldKeys, record
from sinkscope.result import Measured
from sinkscope.stats import holm, sign_flip_p

MEDIATED = 0.5  # from here on the larger part passes through the held stage


def mediation(lab: CausalBench, tests: Sequence[Test]) -> list[Test]:
    """M1 for both arrows, on the edits of N1 to N5 that took most of the sink.

    tests  necessity rows that were run before; an arrow whose edit took next to nothing has no
           effect to pass on, and is left out with a note
    """
    first = _strongest(tests, ("N1",), lab.start)
    second = _strongest(tests, ("N3", "N3s", "N4"), lab.first_read) or _direction(lab)
    try:
        intact = lab.recorded if lab.recorded.keys else record(lab.engine, (0, lab.position))
    except Unsupported as refusal:
        lab.notes.append(f"M1: {refusal}")
        return []
    points = tuple(range(lab.start, lab.last_read + 1))
    blocks = tuple(sorted({block for block, _ in lab.heads}))
    rows = []
    if first is None:
        lab.notes.append("M1: no edit of stage 1 took enough of the sink to pass it on.")
    elif lab.engine.direction is None:
        lab.notes.append("M1: there is no sink direction, so stage 2 cannot be held.")
    else:
        holds = [HoldDirection(at, intact, points) for at in (0, lab.position)]
        rows.append(_row(lab, first, holds, "stage 1 -> stage 2 -> stage 4"))
    if second is None:
        lab.notes.append("M1: no edit of stage 2 took enough of the sink to pass it on.")
    else:
        keys = [HoldKeys(at, intact, blocks) for at in (0, lab.position)]
        rows.append(_row(lab, second, keys, "stage 2 -> stage 3 -> stage 4"))
    return _settled(rows)


def _strongest(tests: Sequence[Test], ids: tuple[str, ...], before: int) -> list[Edit] | None:
    """The edits of the row that took most of the sink, in blocks before the held points.

    One that was run in full already is taken before one that was only screened.
    """
    able = [
        test
        for test in tests
        if test.id in ids and -test.size > NEGLIGIBLE and _last_block(test) < before
    ]
    return list(min(able, key=lambda test: (not test.confirmed, test.size)).edits) if able else None


def _last_block(test: Test) -> int:
    return max((getattr(edit, "block", 0) for edit in test.edits), default=0)


def _direction(lab: CausalBench) -> list[Edit] | None:
    """Where no write is strong alone: the sink direction taken out of P0's stream (N5)."""
    if lab.engine.direction is None:
        return None
    points = range(lab.start, lab.last_read + 1)
    edits: list[Edit] = [Stream(point, 0, "remove") for point in points]
    effect = lab.sink_effect(lab.run(edits))
    return edits if -float(np.nanmean(effect)) > NEGLIGIBLE else None


def _row(lab: CausalBench, edits: list[Edit], holds: Sequence[Edit], arrow: str) -> Test:
    """The edit with the next stage held at P0, against the same hold at position p."""
    held, control = ([*edits, hold] for hold in holds)
    note = "effect: sink given back by the hold, over the intact sink"
    test = lab.test(Planned("M1", MEDIATION, held, [control], arrow=arrow, note=note))
    edited, given, other = (lab.run(each).on(lab.heads) for each in (edits, held, control))
    scale = max(float(np.nanmean(lab.intact_sink)), 1e-9)
    effect, control_effect = (given - edited) / scale, (other - edited) / scale
    taken = lab.intact_sink - edited
    return replace(
        test,
        effect=effect,
        control_effect=control_effect,
        p=sign_flip_p(effect - control_effect),
        control_p=sign_flip_p(control_effect - NEGLIGIBLE),
        extra={
            "edited": in_words(edits),
            "taken": lab.draw.change(edited, lab.intact_sink, lab.intact_sink),
            "mediated": lab.draw.change(given, edited, taken),
            "control_mediated": lab.draw.change(other, edited, taken),
        },
    )


def mediated(tests: Sequence[Test], arrow: str) -> Measured | None:
    """The mediated part for an arrow that begins so, such as "stage 1"."""
    for test in tests:
        if test.kind == MEDIATION and test.arrow.startswith(arrow):
            return test.extra["mediated"]
    return None


def _settled(tests: list[Test]) -> list[Test]:
    """With p adjusted over the rows (Holm), and whether the larger part passes through."""
    settled = []
    for test, p in zip(tests, holm([test.p for test in tests])):
        part, control = (test.extra[name].value or 0.0 for name in ("mediated", "control_mediated"))
        holds = part >= MEDIATED and p is not None and p < ALPHA and control <= SPECIFIC * part
        settled.append(replace(test, p_holm=p, passed=bool(holds)))
    return settled
