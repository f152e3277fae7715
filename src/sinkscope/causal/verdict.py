"""The classes of a verdict, and the verdict on a model without a sink at P0.

Then there is one on a learned logit, at certain tokens, or nowhere. What carries a sink at P0 is
for `p0_verdict` to say; several carriers are joined by a plus sign.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from sinkscope.causal.thresholds import ELSEWHERE, LEARNED, OVER_UNIFORM
from sinkscope.detect.attention import SINK
from sinkscope.detect.decision import LEAST_SHARE
from sinkscope.intervene.readout import Readout
from sinkscope.intervene.token_mass import TokenMass
from sinkscope.schema.verify import VerdictDetail
from sinkscope.stats import nan_mean

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
MIN_TOKEN_SHARE = 0.05  # a token with less is not counted among those that hold the mass


@dataclass(frozen=True)
class Verdict:
    """One class, how it was reached, what it lacks, and what would change it."""

    verdict: str
    because: str
    detail: VerdictDetail = field(default_factory=VerdictDetail)
    missing: list[str] = field(default_factory=list)
    what_would_change_it: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Elsewhere:
    """Heads that sink away from P0: on a learned logit, or on a few kinds of token."""

    learned_heads: list[list[int]]
    token_heads: list[list[int]]
    tokens: list[int]
    learned: float
    visible: int

    def enough(self, heads: list[list[int]]) -> bool:
        """Whether these are enough heads for the model to count as sinking there."""
        return bool(heads) and len(heads) >= LEAST_SHARE * self.visible


def elsewhere(intact: Readout, mass: TokenMass) -> Elsewhere:
    """Look for sinks that are not P0 (intact readings of a model without a P0 sink).

    What a head puts on a few kinds of token is held against the queries that can see one of them.
    """
    learned = nan_mean(intact.learned)
    shares, even = mass.shares()
    chosen = (shares > OVER_UNIFORM * even[:, None]) & (shares > MIN_TOKEN_SHARE)
    held = np.where(chosen, shares, 0.0)
    total = held.sum(-1)
    for block, head in np.argwhere(chosen.any(-1)):
        total[block, head] /= max(mass.seen(chosen[block, head]), MIN_TOKEN_SHARE)
    heads = np.argwhere(total > ELSEWHERE)
    tokens = held[tuple(heads.T)].sum(0) if len(heads) else np.zeros(held.shape[-1])
    order = np.argsort(-tokens, kind="stable")[:3]
    return Elsewhere(
        learned_heads=np.argwhere(learned > LEARNED).tolist(),
        token_heads=heads.tolist(),
        tokens=[int(mass.tokens[i]) for i in order if tokens[i] > 0],
        learned=float(np.nanmax(learned, initial=0.0)),
        visible=int(np.isfinite(nan_mean(intact.share[:, 0])).sum()),
    )


def without_p0_sink(found: Elsewhere) -> Verdict:
    """No sink at P0: on a learned logit, elsewhere, or nowhere."""
    heads = len(found.learned_heads)
    if found.enough(found.learned_heads):
        because = f"{heads} heads put more than {LEARNED:.0%} of their mass on a learned logit"
        return Verdict("learned-sink", f"No head sinks at position zero; {because}.")
    if found.enough(found.token_heads):
        return Verdict(
            "other",
            f"No head sinks at position zero; {len(found.token_heads)} heads sink at certain "
            "tokens wherever they stand.",
            {"tokens": found.tokens},
        )
    change = [
        f"a head whose late queries put more than {SINK:.0%} of their attention on position zero, "
        f"more than {LEARNED:.0%} on a learned logit, or more than {ELSEWHERE:.0%} on a few kinds "
        "of token"
    ]
    return Verdict("none", "No head sinks anywhere.", what_would_change_it=change)
