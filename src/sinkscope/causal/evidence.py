"""A test as evidence: an edit beside its control, and the rule by which it holds.

Necessity is the change of the sink at P0 on the reading heads, relative to intact (−1: gone):
through P0's key with everything else held, since that is the path of the circuit, and in all beside
it. What else an edit does goes through the other positions and says nothing about the circuit.
Sufficiency is the change of the margin at another position p, with P0 left out of the keys, since
P0 competes with p; in nats, and as a part of the gap between P0's margin and that of p.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from sinkscope.causal.power import outcome
from sinkscope.causal.thresholds import INDUCED, NECESSARY, NEGLIGIBLE
from sinkscope.intervene.edits.base import Edit
from sinkscope.result import Measured
from sinkscope.stats import holm, sign_flip_p

NECESSITY, SUFFICIENCY = "necessity", "sufficiency"
IDENTITY = "identity"  # judged as necessity: does the sink need that token, that position id
MEDIATION = "mediation"  # rows that `families.mediation` judges by itself
# Roles of rows. Taken away from P0: its token, its position id, both at once; given to p: its
# token, its id.
TOKEN, POSITION, BOTH = "token at P0", "position ids", "token and position id"
TOKEN_GIVEN, POSITION_GIVEN = "P0's token elsewhere", "P0's position id elsewhere"
QUERY_BIAS = "query bias"


@dataclass(frozen=True, eq=False)
class Planned:
    """A test before it is run: an edit beside its control, and what is said of it.

    kind      sufficiency: the effect is the change of the margin at p over `SinkHeads.gap_of`;
              necessity, identity, mediation: the relative change of the sink at P0, of necessity
              through P0's key where that is at hand
    controls  the same edits where they must do nothing; several: random draws, which are averaged
    control   the control in words
    arrow     between stages of the circuit; block, dose: where the edit acts, and how much of it
    claim     whether the row is evidence: doses and variants are shown and do not decide
    shifted   the text moves along, so that logits speak of other positions than the intact ones
    extra     what only some families measure, under its name in `schema.TestRow`
    """

    id: str
    kind: str
    edits: Sequence[Edit]
    controls: Sequence[Sequence[Edit]] = ()
    control: str = ""
    arrow: str = ""
    block: int | None = None
    dose: float | None = None
    claim: bool = True
    note: str = ""
    shifted: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def edit(self) -> str:
        """The edits in words."""
        return in_words(self.edits)


@dataclass(frozen=True, eq=False, kw_only=True)
class Test(Planned):
    """What came of a test.

    prompts         it was run on in full
    confirmed       whether it was run in full; a screened row has its effect through the key alone
    key_change      change through P0's key, of the share relative to the intact sink at P0
    others_change   the rest of sink_change: it goes through the other positions
    p               one-sided and paired: the edit does more than its control
    control_p       one-sided: the control itself does more than a negligible effect
    sink_change     change of the late share at the position, relative to the intact sink at P0
    p0_norm         norm of P0 over the median of the others, at the last read point
    p0_cosine       cosine of P0 to the sink direction, mean over the inputs of reading blocks
    effect, control_effect  [n] per prompt; draws [m] mean effect of each random control
    by_head, control_by_head  [n, heads] the same in each sink head, in the same units
    p_holm, control_p_holm, passed, outcome, needs  are given by `judge` (`causal.power`)
    """

    __test__ = False  # not a test of pytest

    position: int
    effect: np.ndarray
    prompts: int = 0
    confirmed: bool = True
    key_change: Measured | None = None
    others_change: Measured | None = None
    sink_change: Measured | None = None
    margin_change: Measured | None = None
    ce_change: Measured | None = None
    kl: Measured | None = None
    p0_norm: float | None = None
    p0_cosine: float | None = None
    mass_moved_to: dict[str, Any] | None = None
    control_key_change: Measured | None = None
    control_change: Measured | None = None
    control_margin_change: Measured | None = None
    control_effect: np.ndarray | None = None
    by_head: np.ndarray | None = None
    control_by_head: np.ndarray | None = None
    draws: np.ndarray | None = None
    p: float | None = None
    control_p: float | None = None
    p_holm: float | None = None
    control_p_holm: float | None = None
    passed: bool | None = None
    outcome: str = ""
    needs: int | None = None

    @property
    def size(self) -> float:
        """Mean effect."""
        return float(np.nanmean(self.effect))

    @property
    def specificity(self) -> float | None:
        """Effect of the control over the effect; None where there is none."""
        if self.control_effect is None or abs(self.size) < 1e-9:
            return None
        return float(np.nanmean(self.control_effect)) / self.size


def p_values(kind: str, effect: np.ndarray, control: np.ndarray) -> dict[str, Any]:
    """The p values of a row: [n] effects of the edit and of its control."""
    sign = 1.0 if kind == SUFFICIENCY else -1.0
    return {
        "p": sign_flip_p(sign * (effect - control)),
        "control_p": sign_flip_p(sign * control - NEGLIGIBLE),
        "control_effect": control,
    }


def in_words(edits: Sequence[Edit]) -> str:
    """A list of edits as one line."""
    return "; ".join(map(str, edits))


def judge(tests: Sequence[Test]) -> list[Test]:
    """The tests with p adjusted over the deciding rows of each id (Holm), and their outcomes.

    A row holds if the edit does what the circuit predicts by enough, significantly more than its
    control, and the control has at most half of its effect. Rows that are no claim have a p of
    their own and are not judged; mediation rows are judged already.
    """
    judged = list(tests)
    for id in sorted({test.id for test in tests if test.kind != MEDIATION}):
        rows = [n for n, test in enumerate(tests) if test.id == id and test.claim]
        own = holm([tests[n].p for n in rows])
        of_control = holm([tests[n].control_p for n in rows])
        family = sum(p is not None for p in own)
        for n, p, control_p in zip(rows, own, of_control):
            if p is not None:
                judged[n] = replace(_judged(tests[n], p, family), control_p_holm=control_p)
    return judged


def _judged(test: Test, p_holm: float, family: int) -> Test:
    gained = test.kind == SUFFICIENCY
    sign, bound = (1.0, INDUCED) if gained else (-1.0, NECESSARY)
    over = None if test.control_effect is None else sign * (test.effect - test.control_effect)
    found = outcome(sign * test.effect, bound, p_holm, test.specificity, family, over)
    note = found.note(int(np.isfinite(test.effect).sum()))
    return replace(
        test,
        p_holm=p_holm,
        passed=found.passed,
        outcome=found.word,
        needs=found.needs,
        note="; ".join(filter(None, (test.note, note))),
    )
