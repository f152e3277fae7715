"""What so many prompts can show: the smallest p they reach, and whether an effect is there or not.

An effect is *shown* where it reaches its bound, significantly more than a specific control. It is
*absent* only where its whole interval lies within the bound of nothing. Everything between is
*in part* (the interval ends below the bound) or *undetermined*: that is a lack of prompts, and says
nothing against the effect.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

import numpy as np

from sinkscope.causal.thresholds import ALPHA, NEGLIGIBLE, SPECIFIC
from sinkscope.stats import EXACT_FLIPS, FLIPS, bootstrap

SHOWN, ABSENT, PART = "shown", "absent", "in part"
UNSPECIFIC, UNDETERMINED = "unspecific", "undetermined"


@dataclass(frozen=True)
class Outcome:
    """What a row says.

    passed  whether the effect holds; None where that is undetermined
    needs   prompts from which the test of the row can reach ALPHA; None where it can already
    """

    word: str
    passed: bool | None
    needs: int | None = None

    def note(self, prompts: int) -> str:
        """Why so many prompts leave the row undetermined."""
        if self.needs is None:
            return ""
        return f"undetermined: {prompts} prompts cannot show it, take {self.needs}"


def smallest_p(prompts: int) -> float:
    """The smallest p that flipping the signs of so many differences can give (`sign_flip_p`).

    Where flips are drawn at random, this is the mean of that p.
    """
    return 0.5**prompts + (0 if prompts <= EXACT_FLIPS else 1 / FLIPS)


def prompts_for(tests: int) -> int:
    """Prompts from which the strongest of so many tests can fall below ALPHA after Holm."""
    return next(n for n in count(1) if n > EXACT_FLIPS or tests * smallest_p(n) < ALPHA)


def outcome(
    effect: np.ndarray, bound: float, p_holm: float | None, specificity: float | None, tests: int
) -> Outcome:
    """What a row says whose predicted effect is positive.

    effect       [n] per prompt, in units of its bound and of NEGLIGIBLE
    specificity  effect of the control over that of the edit; None for an effect of nothing
    tests        tests that Holm adjusts together
    """
    interval = bootstrap(effect)
    known = int(np.isfinite(effect).sum())
    if interval.value is None:
        return Outcome(UNDETERMINED, None)
    if interval.value >= bound:
        if specificity is None or specificity > SPECIFIC:
            return Outcome(UNSPECIFIC, False)
        if p_holm is not None and p_holm < ALPHA:
            return Outcome(SHOWN, True)
        least = prompts_for(tests)
        return Outcome(UNDETERMINED, None, least if known < least else None)
    if interval.low is None or interval.high is None or interval.high >= bound:
        return Outcome(UNDETERMINED, None)
    absent = interval.low > -NEGLIGIBLE and interval.high < NEGLIGIBLE
    return Outcome(ABSENT if absent else PART, False)
