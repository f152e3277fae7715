"""From evidence to one class, with what is missing and what would change it.

The order of decisions: is there a sink at P0 at all; does it need P0's token; does it need P0's
position id; and only then, is it made by the circuit: something of P0's that makes it recognisable
or amplifies it is necessary, and something of the circuit is sufficient, each against a control.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from sinkscope.causal.evidence import NECESSITY, POSITION, QUERY_BIAS, TOKEN, Test
from sinkscope.causal.families.faithfulness import Kept
from sinkscope.causal.thresholds import (
    ALPHA,
    INDUCED,
    KEPT,
    LOST,
    NECESSARY,
    NEGLIGIBLE,
    SPECIFIC,
)
from sinkscope.detect.attention import SINK
from sinkscope.detect.decision import ELSEWHERE, LEARNED, WEAK, Sinks
from sinkscope.schema.verify import VerdictDetail

VERDICTS = (
    "p0-circuit",
    "bos-token",
    "position-embedding",
    "learned-sink",
    "query-bias",
    "other",
    "none",
    "undetermined",
)
FIRST_OR_SECOND = ("N1", "N2", "N3", "N3s", "N4")


@dataclass(frozen=True)
class Verdict:
    """One class, how it was reached, what it lacks, and what would change it."""

    verdict: str
    because: str
    detail: VerdictDetail = field(default_factory=VerdictDetail)
    missing: list[str] = field(default_factory=list)
    what_would_change_it: list[str] = field(default_factory=list)


def without_p0_sink(sinks: Sinks) -> Verdict:
    """No sink at P0: on a learned logit, elsewhere, nowhere, or out of sight."""
    heads = int(sinks.elsewhere.sum())
    if sinks.kind == "learned":
        because = f"{heads} heads put more than {LEARNED:.0%} of their mass on a learned logit"
        return Verdict("learned-sink", f"No head sinks at position zero; {because}.")
    if sinks.kind == "positions":
        places = ", ".join(map(str, sinks.positions))
        because = f"{heads} heads gather their late attention at the positions {places}"
        return Verdict(
            "other",
            f"Position zero alone is no sink; {because}, whatever stands there.",
            {"carried_by": "positions", "positions": list(sinks.positions)},
        )
    if sinks.kind == "tokens":
        return Verdict(
            "other",
            f"No head sinks at position zero; {heads} heads sink at certain tokens wherever they "
            "stand.",
            {"carried_by": "tokens", "tokens": list(sinks.tokens)},
        )
    if sinks.kind == "not visible":
        lack = ["late queries that see position zero: take shorter prompts"]
        return Verdict(
            "undetermined",
            "No late query sees position zero, and no other sink is seen.",
            missing=lack,
            what_would_change_it=lack,
        )
    change = [
        f"a head whose late queries put more than {SINK:.0%} of their attention on position zero "
        f"({WEAK:.0%} for a weak sink) or on a few positions, more than {LEARNED:.0%} on a learned "
        f"logit, or more than {ELSEWHERE:.0%} on a few kinds of token"
    ]
    return Verdict("none", "No head sinks anywhere.", what_would_change_it=change)


def with_p0_sink(
    tests: list[Test], kept: Kept | None, bos: str, detail: VerdictDetail, prompts: int
) -> Verdict:
    """Position zero is a sink: what carries it."""
    if prompts < 2:
        lack = ["more than one prompt: nothing can be tested on a single one"]
        return Verdict("undetermined", "One prompt gives no test.", detail, lack)
    token = _role(tests, TOKEN)
    if token is not None and lost(token):
        verdict = "bos-token" if bos == "with" else "other"
        what = "its BOS token" if bos == "with" else "the token that stands there"
        return Verdict(
            verdict,
            f"Position zero sinks only with {what}: other tokens there lose {-token.size:.0%}.",
            detail if bos == "with" else {**detail, "carried_by": "token at P0"},
            what_would_change_it=[_margin_of(token, -LOST, "keep more than half of the sink")],
        )
    position = _role(tests, POSITION)
    if position is not None and lost(position):
        bias = _role(tests, QUERY_BIAS)
        by_bias = bias is not None and lost(bias)
        because = f"Other position ids lose {-position.size:.0%} of the sink"
        if by_bias:
            assert bias is not None
            because += f", and without query biases {-bias.size:.0%} of it is gone"
        changes = [_margin_of(position, -LOST, "keep more than half of the sink")]
        if bias is not None:
            changes.append(_margin_of(bias, -LOST, "fall on the other side of one half"))
        verdict = "query-bias" if by_bias else "position-embedding"
        return Verdict(verdict, because + ".", detail, what_would_change_it=changes)
    return _circuit(tests, kept, detail, [token, position])


def _circuit(
    tests: list[Test], kept: Kept | None, detail: VerdictDetail, identity: list[Test | None]
) -> Verdict:
    necessary = [t for t in tests if t.id in FIRST_OR_SECOND and t.claim and t.passed]
    raised = [t for t in tests if t.id in ("S1", "S2") and t.claim and t.passed]
    faithful = kept is not None and is_faithful(kept)
    missing = []
    if not necessary:
        missing.append(_nearest(tests))
    if not raised and not faithful:
        missing.append(_not_sufficient(tests, kept))
    if not raised:  # a sink raised at another position needs neither P0's token nor its id
        missing += [
            f"a test of the {name}"
            for name, test in zip((TOKEN, POSITION), identity)
            if test is None
        ]
    detail = {**detail, "necessary": sorted({t.edit for t in necessary})}
    if missing:
        return Verdict("undetermined", "Not every arrow is shown.", detail, missing, missing)
    best = min(necessary, key=lambda t: t.size)
    changes = [_margin_of(best, -NECESSARY, "remove less than half of the sink")]
    how = []
    if raised:
        top = max(raised, key=lambda t: t.size)
        changes.append(_margin_of(top, INDUCED, f"gain less than {INDUCED:.0%} of the gap"))
        how.append(f"given to another position it makes up {top.size:.0%} of the gap to a sink")
    if faithful:
        assert kept is not None
        value = kept.faithfulness.value or 0.0
        changes.append(
            f"the circuit alone keeping less than {KEPT:.0%} of the sink (now {value:.0%})"
        )
        how.append(f"alone at position zero it keeps {value:.0%} of the sink")
    because = f"Taken from position zero it removes {_removed(best)}; " + "; ".join(how) + "."
    return Verdict("p0-circuit", because, detail, [], changes)


def other_paths(tests: list[Test]) -> list[str]:
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
        return f"{-test.size:.0%}"
    total = test.sink_change.value or 0.0
    return f"{-test.size:.0%} through position zero's key ({-total:.0%} in all)"


def is_faithful(kept: Kept) -> bool:
    """Whether the circuit alone keeps the sink, and more of it than random sets do."""
    value = kept.faithfulness.value
    random = kept.random.value if kept.random is not None else None
    if value is None or random is None or kept.p is None:
        return False
    return value >= KEPT and kept.p < ALPHA and random <= SPECIFIC * value


def lost(test: Test) -> bool:
    """Whether an identity edit takes the sink away, significantly more than its control."""
    significant = test.p_holm is None or test.p_holm < ALPHA
    return -test.size >= LOST and significant


def _role(tests: list[Test], role: str) -> Test | None:
    """The deciding row of a role; where there are several the one that takes most away."""
    rows = [t for t in tests if t.claim and t.extra.get("role") == role]
    return min(rows, key=lambda t: t.size, default=None)


def _margin_of(test: Test, bound: float, words: str) -> str:
    return f"{test.id}: were it to {words} (now {test.size:+.0%}, bound {bound:+.0%}): {test.edit}"


def _nearest(tests: list[Test]) -> str:
    rows = [t for t in tests if t.id in FIRST_OR_SECOND and t.claim and t.kind == NECESSITY]
    if not rows:
        return "necessity: no write of position zero could be edited"
    best = min(rows, key=lambda t: t.size)
    if -best.size < NECESSARY:
        return (
            f"necessity: no edit of what makes or amplifies position zero removes half of the sink "
            f"(most: {_removed(best)}, {best.edit})"
        )
    prompts = int(np.isfinite(best.effect).sum())
    return f"necessity: {best.edit} removes {_removed(best)}, but " + (
        f"{prompts} prompts cannot show it: take {best.needs}"
        if best.needs is not None
        else f"not with p < {ALPHA} over a control that does nothing"
    )


def _not_sufficient(tests: list[Test], kept: Kept | None) -> str:
    rows = [t for t in tests if t.id in ("S1", "S2") and t.claim]
    best = max(rows, key=lambda t: t.size, default=None)
    gained = "was not tried" if best is None else f"gains {best.size:.0%} of the gap at most"
    value = kept.faithfulness.value if kept is not None else None
    alone = "could not be tried" if value is None else f"keeps {value:.0%} of the sink"
    return (
        f"sufficiency: another position given what marks position zero {gained}, and the circuit "
        f"alone {alone}"
    )
