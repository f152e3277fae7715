"""What so many prompts can show: the smallest p they reach, and whether an effect is there or not.

An effect is *shown* where it reaches its bound, significantly more than a control that stays below
that bound and below SPECIFIC of the effect. It is *absent* only where its whole interval lies
within the bound of nothing. Everything between is *in part* (the interval ends below the bound) or
*undetermined*: that is a lack of prompts, and says nothing against the effect.

How many would do is estimated from how far the mean lies from the bound, in standard deviations d,
of which so few prompts give only an upper bound: N = ((z_{1-α} + z_{POWER}) / d)².
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

import numpy as np

from sinkscope.causal.thresholds import ALPHA, NEGLIGIBLE, SPECIFIC
from sinkscope.stats import EXACT_FLIPS, FLIPS, bootstrap

POWER = 0.95  # chance with which the prompts that are asked for settle a row
MOST_ROWS = 6  # rows of one id that decide, at most
ADVISED = 16  # prompts that are asked for at least: what `verify` takes by itself
TOO_MANY = 100_000
RARE = 0.25  # of the prompts: a sink that fewer hold may be missed

SHOWN, ABSENT, PART = "shown", "absent", "in part"
UNSPECIFIC, UNDETERMINED = "unspecific", "undetermined"


@dataclass(frozen=True)
class Outcome:
    """What a row says.

    passed  whether the effect holds; None where that is undetermined
    needs   prompts that would settle an undetermined row; None where no number would
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


LEAST = prompts_for(MOST_ROWS)  # below that no verdict is given


def prompts_that_hold(needed: int, held: int, of: int) -> int:
    """Prompts of which so many hold the sink (POWER), where `held` of `of` do.

    Their share is taken as (held + 1) / (of + 1/RARE): a few prompts say little of it.
    """
    from scipy.stats import nbinom

    return needed + int(nbinom.ppf(POWER, needed, (held + 1) / (of + 1 / RARE)))


# Prompts from which one sink at least is seen (POWER) that RARE of them hold
SEEN = next(n for n in count(1) if (1 - RARE) ** n < 1 - POWER)


def prompts_to_settle(values: np.ndarray, bound: float, tests: int = 1) -> int | None:
    """Prompts that tell the mean of values [n] from a bound, tests of them together (POWER).

    The standard deviation is taken at the upper end of its 90 % interval (chi-square); None where
    the mean lies on the bound.
    """
    from scipy.stats import chi2, norm

    values = values[np.isfinite(values)]
    n = len(values)
    if n < 2:
        return ADVISED
    spread = float(values.std(ddof=1)) * float(np.sqrt((n - 1) / chi2.ppf(0.1, n - 1)))
    away = abs(float(values.mean()) - bound)
    if away < 1e-9:
        return None
    quantiles = norm.ppf(1 - ALPHA / max(tests, 1)) + norm.ppf(POWER)
    needed = int(np.ceil((quantiles * spread / away) ** 2))
    return None if needed > TOO_MANY else max(needed, ADVISED, n + 1)


def outcome(
    effect: np.ndarray,
    bound: float,
    p_holm: float | None,
    specificity: float | None,
    tests: int,
    over: np.ndarray | None = None,
) -> Outcome:
    """What a row says whose predicted effect is positive.

    effect       [n] per prompt, in units of its bound and of NEGLIGIBLE
    specificity  effect of the control over that of the edit; None for an effect of nothing
    tests        tests that Holm adjusts together
    over         [n] the effect less that of its control, which p is of
    """
    interval = bootstrap(effect)
    if interval.value is None:
        return Outcome(UNDETERMINED, None)
    if interval.value >= bound:
        control_alone = None if specificity is None else specificity * interval.value
        if specificity is None or specificity > SPECIFIC or (control_alone or 0.0) >= bound:
            return Outcome(UNSPECIFIC, False)
        if p_holm is not None and p_holm < ALPHA:
            return Outcome(SHOWN, True)
        needs = prompts_to_settle(effect if over is None else over, 0.0, tests)
        return Outcome(UNDETERMINED, None, needs)
    if interval.low is None or interval.high is None or interval.high >= bound:
        return Outcome(UNDETERMINED, None, prompts_to_settle(effect, bound))
    absent = interval.low > -NEGLIGIBLE and interval.high < NEGLIGIBLE
    return Outcome(ABSENT if absent else PART, False)
