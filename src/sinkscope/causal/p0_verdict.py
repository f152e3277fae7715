"""The verdict on a sink at P0: what carries its heads, part by part.

Each sink head is assigned to what carries it (`carriers`). A carrier that surely holds PART of the
sink is a part of the verdict: its BOS token, its position id, distance, a query bias, or, where the
mask alone does, the circuit. The circuit needs more: a write of P0's must be necessary in its
heads, more than under a control. What so many prompts can neither show nor exclude, and half of the
sink without a carrier, leave the verdict undetermined.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
    on_condition,
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
    prompts_that_hold,
)
from sinkscope.causal.sink_heads import SinkHeads
from sinkscope.causal.thresholds import ALPHA, INDUCED, LOST, MINOR, NECESSARY, PART
from sinkscope.causal.verdict import VERDICTS, Verdict
from sinkscope.causal.words import (
    gains,
    in_a_sentence,
    not_needed,
    not_shown,
    percent,
    removed,
    straddles,
    without_carrier,
    would_change,
)
from sinkscope.circuit.model import Circuit
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
        """All rows on some heads (chosen [k], boolean), judged again."""
        return judge([self.heads.on(test, chosen) for test in self.tests])

    def asks(self, chosen: np.ndarray) -> Test | None:
        """The row without query biases, where heads (chosen [k]) lose their sink by it."""
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
            f"together, which takes {LEAST}; take {ADVISED} prompts"
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
            missing.append(straddles(by, _rows(tests, by), carrier, prompts))
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
        missing = missing or [without_carrier(tests, found[BY_NOTHING])]
        return Verdict("undetermined", "Not every arrow is shown.", detail, missing, missing)
    several = len(names) > 1
    because = " ".join(
        (f"{part.name} ({_held(carrier)}): " if several else "") + part.because
        for part, carrier, _ in parts
    )
    changes = [
        f"{change} (on the {_heads(carrier)} that are {part.name})" if several else change
        for part, carrier, _ in parts
        for change in part.changes
    ]
    return Verdict("+".join(names), because, detail, [], changes)


def in_whole(verdict: Verdict, held: int, of: int) -> Verdict:
    """The verdict on `held` of all prompts, with how many of all would do where it is open."""
    if verdict.verdict != UNDETERMINED:
        return verdict
    needed = ADVISED if held < LEAST else 2 * held
    lack = (
        f"prompts: {held} of {of} hold the sink, and {needed} such prompts are wanted; "
        f"take {prompts_that_hold(needed, held, of)} prompts"
    )
    other = verdict.missing if held >= LEAST else []  # how many of their kind is said by this
    return replace(verdict, missing=[*other, lack])


def detail_of(circuit: Circuit) -> VerdictDetail:
    """Where the circuit lies, to stand beside the verdict."""
    block = circuit.emergence_block
    return {
        "blocks": None if block is None else "two-block" if block <= 1 else "deeper",
        "emergence_block": block,
        "amplification": circuit.amplification,
    }


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
            said = f"Without query biases {percent(-asked.size)} of the sink is gone."
            return Found("query-bias", said, changes=(would_change(asked, -LOST, "take less"),))
        much = (carrier.mass.value or 0.0) >= LOST
        return Found("", missing=without_carrier(tests, carrier) if much else "")
    rows = _rows(tests, by)
    shown = [test for test in rows if test.passed]
    if not shown:
        return Found("", missing=not_shown(by, rows))
    said = "; ".join(map(in_a_sentence, shown)) + "."
    bound = INDUCED if shown[0].kind == SUFFICIENCY else -LOST
    changes = [would_change(shown[0], bound, "do less")]
    if by == BY_TOKEN:
        return Found("bos-token" if evidence.bos == "with" else "other", said, "", tuple(changes))
    name = "position-embedding" if by == BY_ID else "rotary-distance"
    if by == BY_DISTANCE:
        said += " Position zero's own stream does not follow its id, so that it is the distance."
    if asked is not None:
        said += f" Without query biases {percent(-asked.size)} of it is gone."
        changes.append(would_change(asked, -LOST, "take less"))
    return Found("query-bias" if asked is not None else name, said, "", tuple(changes))


def _circuit(evidence: Evidence, tests: Sequence[Test], carrier: Carrier) -> Found:
    necessary = _necessary(tests)
    if not necessary:
        return Found("", missing=not_needed([t for t in tests if t.id in NEEDED and t.claim]))
    best = min(necessary, key=lambda test: test.size)
    said = [f"{best.edit[:1].upper()}{best.edit[1:]}: that removes {removed(best)}"]
    changes = [would_change(best, -NECESSARY, "remove less than half of the sink")]
    raised = [test for test in raising(tests) if test.passed]
    if raised:
        top = max(raised, key=lambda test: test.size)
        said.append(f"{top.edit}: that position {gains(top)}")
        changes.append(would_change(top, INDUCED, f"gain less than {INDUCED:.0%} of the gap"))
    if on_condition(tests):
        most = max(-test.size for test in of_role(tests, TOKEN))
        said.append(f"it depends on the token there too: another one takes {percent(most)} of it")
    for test in of_role(tests, BOTH):
        if -test.size < LOST:
            kept = f"{percent(1 + test.size)} of the sink"
            said.append(f"with another token and another position id at once it keeps {kept}")
            changes.append(would_change(test, -LOST, "lose half of the sink"))
    because = "; ".join(said) + "."
    needed = tuple(sorted({test.edit for test in necessary}))
    return Found("p0-circuit", because, "", tuple(changes), needed)


def _rows(tests: Sequence[Test], by: str) -> list[Test]:
    """The deciding rows that tell whether something carries the sink."""
    return [test for role in ROLES.get(by, (BOTH,)) for test in of_role(tests, role)]


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


def _heads(carrier: Carrier) -> str:
    return f"{int(carrier.heads.sum())} of {len(carrier.heads)} sink heads"


def _held(carrier: Carrier) -> str:
    return f"{_heads(carrier)} with {percent(carrier.mass.value or 0.0)} of the sink"
