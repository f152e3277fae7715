"""The verdict on a sink at P0: what carries its heads, part by part.

Each sink head is assigned to what carries it (`carriers`). A carrier that surely holds PART of the
sink is a part of the verdict: its BOS token, its position id, distance, a query bias, or, where the
mask alone does, the circuit. The circuit needs more: a write of P0's must be necessary in its
heads, more than under a control. What so many prompts can neither show nor exclude, and half of the
sink without a carrier, leave the verdict undetermined.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sinkscope.causal.carriers import (
    BY_DISTANCE,
    BY_ID,
    BY_MASK,
    BY_NOTHING,
    BY_QUERY,
    BY_TOKEN,
    Carrier,
    carriers,
    of_role,
    raising,
)
from sinkscope.causal.evidence import (
    BOTH,
    POSITION,
    POSITION_GIVEN,
    QUERY_BIAS,
    SUFFICIENCY,
    TOKEN,
    TOKEN_GIVEN,
    Test,
    judge,
)
from sinkscope.causal.power import (
    ADVISED,
    LEAST,
    MOST_ROWS,
    UNDETERMINED,
    UNSPECIFIC,
    prompts_to_settle,
)
from sinkscope.causal.sink_heads import SinkHeads
from sinkscope.causal.thresholds import ALPHA, INDUCED, LOST, MINOR, NECESSARY, NEGLIGIBLE, PART
from sinkscope.causal.verdict import VERDICTS, Verdict
from sinkscope.schema.verify import VerdictDetail, VerdictPart

NEEDED = ("N1", "N2", "N3", "N3s", "N4", "N6")  # ids that show a write of P0's to be necessary
ROLES = {
    BY_TOKEN: (TOKEN, TOKEN_GIVEN),
    BY_ID: (POSITION, POSITION_GIVEN),
    BY_DISTANCE: (POSITION, POSITION_GIVEN),
}


@dataclass(frozen=True)
class Found:
    """One carrier's part: its verdict and why, or what is missing to say so."""

    name: str
    because: str = ""
    missing: str = ""
    changes: tuple[str, ...] = ()
    necessary: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Evidence:
    """The judged rows, and the same on the heads of one carrier (`on`)."""

    tests: Sequence[Test]
    heads: SinkHeads
    bos: str

    def on(self, chosen: np.ndarray) -> list[Test]:
        """All rows on some heads, judged again."""
        return judge([self.heads.on(test, chosen) for test in self.tests])

    def asks(self, chosen: np.ndarray) -> Test | None:
        """The row without query biases, where these heads lose their sink by it."""
        rows = [self.heads.on(test, chosen) for test in of_role(self.tests, QUERY_BIAS)]
        return next((test for test in rows if -test.size >= LOST), None)


def with_p0_sink(
    tests: Sequence[Test], heads: SinkHeads, bos: str, detail: VerdictDetail, seed: int = 0
) -> Verdict:
    """Position zero is a sink: what carries it."""
    prompts = len(heads.share)
    if prompts < LEAST:
        lack = (
            f"prompts: {prompts} cannot bring p below {ALPHA} in {MOST_ROWS} rows that decide "
            f"together, which takes {LEAST}; take {ADVISED}"
        )
        return Verdict("undetermined", "So few prompts decide nothing.", detail, [lack])
    evidence = Evidence(tests, heads, bos)
    found = carriers(tests, heads, seed)
    parts: list[tuple[Found, Carrier, str]] = []
    missing: list[str] = []
    for by in (BY_MASK, BY_TOKEN, BY_ID, BY_DISTANCE, BY_NOTHING):
        carrier = found[by]
        held = holds(carrier)
        if held is None:
            missing.append(_straddles(evidence, by, carrier, prompts))
        if not held:
            continue
        part = _part(evidence, by, carrier)
        if part.missing:
            missing.append(part.missing)
        elif part.name:
            parts.append((part, carrier, by))
    names = sorted({part.name for part, *_ in parts}, key=VERDICTS.index)
    detail = {**detail, **_detail(evidence, parts)}
    if missing or not names:
        missing = missing or [_nothing(evidence, found[BY_NOTHING])]
        return Verdict("undetermined", "Not every arrow is shown.", detail, missing, missing)
    several = len(names) > 1
    because = " ".join(
        (f"{part.name} ({_held(carrier)}): " if several else "") + part.because
        for part, carrier, _ in parts
    )
    changes = [change for part, *_ in parts for change in part.changes]
    return Verdict("+".join(names), because, detail, [], changes)


def holds(carrier: Carrier) -> bool | None:
    """Whether a carrier holds a part of the sink worth naming; None where that is open."""
    low, high = carrier.mass.low or 0.0, carrier.mass.high or 0.0
    return True if low >= PART else False if high < MINOR else None


def hidden_circuit(
    tests: Sequence[Test], heads: SinkHeads, bos: str, seed: int = 0
) -> list[str] | None:
    """Carriers beside the mask that may keep the sink alive where no write of P0's is needed.

    None where nothing hides: the mask carries nothing, a write is needed, or it is all alone.
    """
    found = carriers(tests, heads, seed)
    mask = found[BY_MASK].heads
    if not mask.any() or _necessary(Evidence(tests, heads, bos).on(mask)):
        return None
    return [by for by in (BY_TOKEN, BY_ID) if (found[by].heads & mask).any()] or None


def _part(evidence: Evidence, by: str, carrier: Carrier) -> Found:
    tests = evidence.on(carrier.heads)
    if by == BY_MASK:
        return _circuit(evidence, tests, carrier)
    asked = evidence.asks(carrier.heads)
    if by == BY_NOTHING:
        if asked is not None:
            said = f"Without query biases {_percent(-asked.size)} of the sink is gone."
            return Found("query-bias", said, changes=(_margin(asked, -LOST, "take less"),))
        much = (carrier.mass.value or 0.0) >= LOST
        return Found("", missing=_nothing(evidence, carrier) if much else "")
    rows = [test for role in ROLES[by] for test in of_role(tests, role)]
    shown = [test for test in rows if test.passed]
    if not shown:
        return Found("", missing=_not_shown(by, rows))
    said = "; ".join(map(_said, shown)) + "."
    changes = [_margin(shown[0], -LOST if shown[0].kind != SUFFICIENCY else INDUCED, "do less")]
    if by == BY_TOKEN:
        return Found("bos-token" if evidence.bos == "with" else "other", said, "", tuple(changes))
    name = "position-embedding" if by == BY_ID else "rotary-distance"
    if by == BY_DISTANCE:
        said += " Position zero’s own stream does not follow its id, so that it is the distance."
    if asked is not None:
        said += f" Without query biases {_percent(-asked.size)} of it is gone."
        changes.append(_margin(asked, -LOST, "take less"))
    return Found("query-bias" if asked is not None else name, said, "", tuple(changes))


def _circuit(evidence: Evidence, tests: Sequence[Test], carrier: Carrier) -> Found:
    necessary = _necessary(tests)
    if not necessary:
        return Found("", missing=_not_needed(tests))
    best = min(necessary, key=lambda test: test.size)
    said = [f"Taken from position zero, it removes {_removed(best)} ({best.edit})"]
    changes = [_margin(best, -NECESSARY, "remove less than half of the sink")]
    raised = [test for test in raising(tests) if test.passed]
    if raised:
        top = max(raised, key=lambda test: test.size)
        said.append(f"{top.edit}: that position {_gains(top)}")
        changes.append(_margin(top, INDUCED, f"gain less than {_percent(INDUCED)} of the gap"))
    for test in of_role(tests, BOTH):
        if -test.size < LOST:
            kept = f"{_percent(1 + test.size)} of the sink"
            said.append(f"with another token and another position id at once it keeps {kept}")
            changes.append(_margin(test, -LOST, "lose half of the sink"))
    because = "; ".join(said) + "."
    needed = tuple(sorted({test.edit for test in necessary}))
    return Found("p0-circuit", because, "", tuple(changes), needed)


def _necessary(tests: Sequence[Test]) -> list[Test]:
    return [test for test in tests if test.id in NEEDED and test.claim and test.passed]


def _detail(evidence: Evidence, parts: list[tuple[Found, Carrier, str]]) -> VerdictDetail:
    detail: VerdictDetail = {"parts": [_row(*part) for part in parts], "necessary": []}
    for part, carrier, by in parts:
        if by == BY_MASK:
            detail["necessary"] = list(part.necessary)
            if evidence.asks(carrier.heads) is not None:
                detail["asked_by"] = BY_QUERY
        if part.name == "other":
            detail["carried_by"] = "token at P0"
    return detail


def _row(part: Found, carrier: Carrier, by: str) -> VerdictPart:
    heads = int(carrier.heads.sum())
    return {
        "verdict": part.name,
        "by": by,
        "heads": heads,
        "share_of_heads": heads / len(carrier.heads),
        "mass": carrier.mass,
    }


def _held(carrier: Carrier) -> str:
    heads = f"{int(carrier.heads.sum())} of {len(carrier.heads)} sink heads"
    return f"{heads} with {_percent(carrier.mass.value or 0.0)} of the sink"


def other_paths(tests: Sequence[Test]) -> list[str]:
    """Sentences on edits that take much of the sink, but not through P0's key."""
    said = []
    for test in tests:
        if test.others_change is None or test.sink_change is None or not test.claim:
            continue
        total = test.sink_change.value or 0.0
        if -total >= NEGLIGIBLE and -test.size < -total / 2:
            said.append(
                f"{test.id}: {test.edit} removes {_removed(test)}: most of it goes through the "
                "other positions, and is no evidence for the circuit."
            )
    return said


def _removed(test: Test) -> str:
    """How much of the sink an edit removes, on which path."""
    if test.key_change is None or test.sink_change is None:
        return _percent(-test.size)
    total = test.sink_change.value or 0.0
    return f"{_percent(-test.size)} through position zero's key ({_percent(-total)} in all)"


def _said(test: Test) -> str:
    if test.kind == SUFFICIENCY:
        return f"{test.edit}: position {test.position} {_gains(test)}"
    return f"{test.edit}: {_percent(-test.size)} of the sink is lost"


def _gains(test: Test) -> str:
    """What a position gains, in nats: a share of the gap may be more than all of it."""
    nats = (test.margin_change.value if test.margin_change is not None else None) or 0.0
    equal = f"; {nats / test.size:.1f} would make it position zero's equal" if test.size else ""
    return f"gains {nats:.1f} nats of margin{equal}"


def _percent(value: float) -> str:
    return f"{value + 0.0:.0%}"


def _margin(test: Test, bound: float, words: str) -> str:
    return f"{test.id}: were it to {words} (now {test.size:+.0%}, bound {bound:+.0%}): {test.edit}"


def _straddles(evidence: Evidence, by: str, carrier: Carrier, prompts: int) -> str:
    """A carrier that may hold a part of the sink or not."""
    roles = ROLES.get(by, (BOTH,))
    rows = [test for role in roles for test in of_role(evidence.tests, role)]
    needs = [
        prompts_to_settle(-test.effect, LOST) or 0 for test in rows if test.kind != SUFFICIENCY
    ]
    low, high = carrier.mass.low or 0.0, carrier.mass.high or 0.0
    return (
        f"{by}: it carries {_percent(low)} to {_percent(high)} of the sink; "
        f"take {max([2 * prompts, ADVISED, *needs])} prompts"
    )


def _not_shown(by: str, rows: Sequence[Test]) -> str:
    """Why a carrier is not shown though the heads say so."""
    best = max(rows, key=lambda test: abs(test.size))
    if best.outcome == UNSPECIFIC:
        why = f"its control does so too ({best.control})"
    else:
        why = f"not with p < {ALPHA} over its control" + _take(best)
    return f"{by}: {_said(best)}, but {why}"


def _take(test: Test) -> str:
    return f": take {test.needs} prompts" if test.needs is not None else ""


def _not_needed(tests: Sequence[Test]) -> str:
    rows = [test for test in tests if test.id in NEEDED and test.claim]
    if not rows:
        return "necessity: no write of position zero could be edited"
    opened = [test for test in rows if test.outcome == UNDETERMINED]
    most = min(opened or rows, key=lambda test: test.size)
    if opened or -most.size >= NECESSARY:
        return f"necessity: {most.edit} removes {_removed(most)}, but " + (
            f"{int(np.isfinite(most.effect).sum())} prompts cannot show it{_take(most)}"
            if opened
            else f"its control does so too ({most.control})"
        )
    return (
        f"necessity: no edit of what makes or amplifies position zero removes half of the sink "
        f"(most: {_removed(most)}, {most.edit})"
    )


def _nothing(evidence: Evidence, carrier: Carrier) -> str:
    """The sink in heads that no row gives or takes."""
    rows = evidence.on(carrier.heads) if carrier.heads.any() else list(evidence.tests)
    best = max(raising(rows), key=lambda test: test.size, default=None)
    tried = "could not be tried" if best is None else f"{_gains(best)} at most"
    lacks = [f"no test of the {role}" for role in (TOKEN, POSITION) if not of_role(rows, role)]
    return (
        f"sufficiency: {_percent(carrier.mass.value or 0.0)} of the sink is in heads that neither "
        f"token nor position id carries, and another position made to see itself alone {tried}"
        + "".join(f"; {lack}" for lack in lacks)
    )
