"""The classes of a verdict, and the verdict on a model without a sink at P0.

Then there is one on a learned logit, at certain tokens, or nowhere. What carries a sink at P0 is
for `p0_verdict` to say; several carriers are joined by a plus sign.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sinkscope.causal.power import LEAST, RARE, SEEN, prompts_that_hold
from sinkscope.detect.attention import SINK
from sinkscope.detect.decision import ELSEWHERE, LEARNED, WEAK, Sinks
from sinkscope.schema.verify import VerdictDetail

VERDICTS = (
    "p0-circuit",
    "bos-token",
    "position-embedding",
    "learned-sink",
    "query-bias",
    "rotary-distance",
    "other",
    "none",
    "undetermined",
)


@dataclass(frozen=True)
class Verdict:
    """One class, how it was reached, what it lacks, and what would change it."""

    verdict: str
    because: str
    detail: VerdictDetail = field(default_factory=VerdictDetail)
    missing: list[str] = field(default_factory=list)
    what_would_change_it: list[str] = field(default_factory=list)


def without_p0_sink(sinks: Sinks, prompts: int, by_ids: bool = False) -> Verdict:
    """No sink at P0: on a learned logit, elsewhere, nowhere, or out of sight.

    prompts  how many were looked at: that there is no sink, few of them cannot say
    by_ids   whether a sink at other positions follows their ids (`elsewhere`)
    """
    if sinks.kind == "not visible":
        return _open(
            "No late query sees position zero, and no other sink is seen.",
            "late queries that see position zero: take shorter prompts",
        )
    if sinks.kind in ("learned", "positions", "tokens"):
        return _another_sink(sinks, by_ids)
    if prompts < SEEN:
        return _open(
            f"No head is seen to sink in {prompts} prompts.",
            f"prompts: {prompts} may miss a sink that one in {1 / RARE:.0f} has, {SEEN} would not; "
            f"take {prompts_that_hold(LEAST, 0, 0)} prompts",
        )
    change = [
        f"a head whose late queries put more than {SINK:.0%} of their attention on position zero "
        f"({WEAK:.0%} for a weak sink) or on a few positions, more than {LEARNED:.0%} on a learned "
        f"logit, or more than {ELSEWHERE:.0%} on a few kinds of token"
    ]
    return Verdict("none", "No head sinks anywhere.", what_would_change_it=change)


def _open(said: str, lack: str) -> Verdict:
    return Verdict("undetermined", said, missing=[lack], what_would_change_it=[lack])


def _another_sink(sinks: Sinks, by_ids: bool) -> Verdict:
    """A sink on a learned logit, at other positions or at certain tokens."""
    heads = int(sinks.elsewhere.sum())
    if sinks.kind == "learned":
        because = f"{heads} heads put more than {LEARNED:.0%} of their mass on a learned logit"
        return Verdict("learned-sink", f"No head sinks at position zero; {because}.")
    if sinks.kind == "tokens":
        return Verdict(
            "other",
            f"No head sinks at position zero; {heads} heads sink at certain tokens wherever they "
            "stand.",
            {"carried_by": "tokens", "tokens": list(sinks.tokens)},
        )
    places = ", ".join(map(str, sinks.positions))
    s = "s" if len(sinks.positions) > 1 else ""
    because = f"{heads} heads gather their late attention at position{s} {places}"
    moved = "; exchanged with another, their ids take it along" if by_ids else ""
    return Verdict(
        "position-embedding" if by_ids else "other",
        f"Position zero alone is no sink; {because}, whatever stands there{moved}.",
        {"carried_by": "positions", "positions": list(sinks.positions)},
    )
