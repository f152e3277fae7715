"""Means, intervals and tests: the prompt is the unit, or the document where several share one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sinkscope.result import Measured

RESAMPLES = 2000
EXACT_FLIPS, FLIPS = 12, 20000
SUSTAINED = 3  # points in a row: training curves overshoot and dip
LEAST_UNITS = 7  # intervals of fewer cover less than 93 %
PER_SKEWNESS = 10  # a skewed mean needs this times its squared skewness (after Cochran, 1977)


def bootstrap(values: np.ndarray, seed: int = 0, units: np.ndarray | None = None) -> Measured:
    """Mean over prompts with its 95 % percentile bootstrap interval (2,000 resamples).

    values [n]; NaN entries are prompts for which the figure is not defined. units [n]: document of
    each prompt. It is drawn as by `ratio_of_means`.
    """
    values = np.asarray(values, dtype=np.float64)
    return ratio_of_means(values, np.ones_like(values), seed, units)


def resampled(value: float, drawn: np.ndarray | list[float], tail: float = 0.025) -> Measured:
    """A figure with the interval between the tails of what it is in resamples, drawn [resamples].

    Rounding in the resamples must not put the figure outside its own interval.
    """
    low, high = np.percentile(drawn, [100 * tail, 100 - 100 * tail])
    return Measured(value=value, low=min(float(low), value), high=max(float(high), value))


def _by_unit(values: np.ndarray, units: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of the known values [n] of each unit; units [n]."""
    values = np.asarray(values, dtype=np.float64)
    known = np.isfinite(values)
    if units is None:
        return values[known], np.ones(known.sum())
    _, index = np.unique(np.asarray(units)[known], return_inverse=True)
    return np.bincount(index, values[known]), np.bincount(index).astype(float)


def units_needed(values: np.ndarray, units: np.ndarray | None = None) -> int:
    """How many units (prompts, or documents) the interval of `bootstrap` needs to cover 95 %.

    values, units [n] as there. At least LEAST_UNITS, and PER_SKEWNESS times the squared skewness of
    the units' means: a figure that few of them make large has a skewed mean. What no unit shows
    cannot be told from these.
    """
    sums, counts = _by_unit(values, units)
    means = sums / counts
    if means.size < 2 or means.std() < 1e-9:
        return LEAST_UNITS
    skewness = float(((means - means.mean()) ** 3).mean() / means.std() ** 3)
    return max(LEAST_UNITS, int(np.ceil(PER_SKEWNESS * skewness**2)))


def paired_change(
    edited: np.ndarray,
    intact: np.ndarray,
    scale: np.ndarray | None = None,
    seed: int = 0,
    units: np.ndarray | None = None,
) -> Measured:
    """Mean of edited − intact [n] over prompts, in units of the mean of `scale`, or of 1."""
    scale = np.ones_like(intact) if scale is None else scale
    return ratio_of_means(edited - intact, scale, seed, units)


def ratio_of_means(
    values: np.ndarray, base: np.ndarray, seed: int = 0, units: np.ndarray | None = None
) -> Measured:
    """Mean of values over the mean of base, with a 95 % interval.

    values, base [n] are paired by prompt and resampled together (2,000 times). Prompts of one
    document (units [n], as in `bootstrap`) are drawn together; the interval is then as wide as that
    of prompts drawn apart, or wider, since few documents can look more alike than prompts do by
    chance alone (the larger of both errors: Angrist and Pischke 2009, section 8.2). The percentile
    levels are widened for few units as Hesterberg (2015, arXiv 1411.5279) proposes
    (`widened_tail`). NaN entries are left out; one unit gives no interval.
    """
    rows = np.stack([values, base]).astype(np.float64)
    known = np.asarray(np.isfinite(rows).all(0))
    if not known.any() or abs(rows[1, known].mean()) < 1e-12:
        return Measured(value=None)
    rows = rows[:, known]
    value = float(rows[0].mean() / rows[1].mean())
    drawn = [rows]
    if units is not None:
        of = np.asarray(units)[known]
        drawn.append(np.stack([_by_unit(row, of)[0] for row in rows]))
    if drawn[-1].shape[1] < 2:
        return Measured(value=value)
    lows, highs = zip(*(_ends(sums, seed) for sums in drawn), strict=True)
    return Measured(value=value, low=min([*lows, value]), high=max([*highs, value]))


def _ends(sums: np.ndarray, seed: int) -> tuple[float, float]:
    """Ends of the interval of the ratio of two rows of sums [2, n] over units."""
    n = sums.shape[1]
    picks = np.random.default_rng(seed).integers(n, size=(RESAMPLES, n))
    tail = 100 * widened_tail(n)
    low, high = np.percentile(sums[0][picks].sum(1) / sums[1][picks].sum(1), [tail, 100 - tail])
    return float(low), float(high)


@dataclass(frozen=True, eq=False)
class Draw:
    """How intervals over some prompts are drawn.

    units  [n] document of each prompt, or None where prompts are apart; of values of the first
           prompts alone, the first are taken. Windows of one document alone are drawn one by one:
           the interval then speaks of that document
    """

    units: np.ndarray | None = None
    seed: int = 0

    def mean(self, values: np.ndarray) -> Measured:
        """`bootstrap` of values [k] of the first k prompts."""
        return bootstrap(values, self.seed, self._first(values))

    def change(
        self, edited: np.ndarray, intact: np.ndarray, scale: np.ndarray | None = None
    ) -> Measured:
        """`paired_change` of values [k] of the first k prompts."""
        return paired_change(edited, intact, scale, self.seed, self._first(intact))

    def ratio(self, values: np.ndarray, base: np.ndarray) -> Measured:
        """`ratio_of_means` of values, base [k] of the first k prompts."""
        return ratio_of_means(values, base, self.seed, self._first(values))

    def of_units(self, values: np.ndarray) -> np.ndarray:
        """A value for each unit that `mean` draws, with the mean of values [k]: [units].

        What a unit of sum s and size c adds to that mean m: m + (s − m c) / mean size.
        """
        sums, counts = _by_unit(values, self._first(values))
        mean = sums.sum() / counts.sum()
        return mean + (sums - mean * counts) / counts.mean()

    def _first(self, values: np.ndarray) -> np.ndarray | None:
        first = None if self.units is None else self.units[: len(values)]
        return None if first is None or len(np.unique(first)) < 2 else first


def drawn_share(hits: int, drawn: int, of: int) -> Measured:
    """Share of `of` items, from `drawn` of them at random without replacement: Wilson's interval.

    With the finite population's correction, n becomes n·(N − 1)/(N − n); all items drawn give the
    share itself, without an interval.
    """
    if drawn == 0:
        return Measured(value=None)
    share = hits / drawn
    if drawn >= of:
        return Measured(value=share)
    z, n = 1.959964, drawn * (of - 1) / (of - drawn)
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return Measured(value=share, low=min(middle - half, share), high=max(middle + half, share))


def judged(change: Measured, within: float) -> str:
    """On which side of a bound a change lies: more, less or same, where its interval says so.

    more  the whole interval lies above `within`; less  below −within; same  between the two
    Anything else, and a change without an interval, is unclear: that is no evidence of sameness.
    """
    if change.low is None or change.high is None:
        return "unclear"
    if change.low > within:
        return "more"
    if change.high < -within:
        return "less"
    return "same" if -within < change.low and change.high < within else "unclear"


def at_most(change: Measured, within: float) -> bool | None:
    """Whether a rise is within the bound; None where the interval lies across it."""
    if change.high is None or change.low is None:
        return None
    if change.high <= within:
        return True
    return False if change.low > within else None


def t_interval(values: Sequence[float], low: float = -np.inf, high: float = np.inf) -> Measured:
    """Mean of a few independent runs with its 95 % t interval, cut off at `low` and `high`.

    values [n], say one a seed. With one value there is no interval, with none no mean.
    """
    from scipy.stats import t

    n = len(values)
    if n == 0:
        return Measured(value=None)
    mean = float(np.mean(values))
    if n < 2:
        return Measured(value=mean)
    half = float(t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n))
    return Measured(value=mean, low=max(mean - half, low), high=min(mean + half, high))


def difference(one: Measured, other: Measured) -> Measured:
    """One figure minus another, with a 95 % interval that is recovered from theirs.

    The distances to the bounds add up as squares (Zou and Donner 2008, Statistics in Medicine
    27:1693), which holds for independent figures; for figures on the same texts it is too wide.
    Without an interval where one of them has none.
    """
    if one.value is None or other.value is None:
        return Measured(value=None)
    value = one.value - other.value
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return Measured(value=value)
    down = float(np.hypot(one.value - one.low, other.high - other.value))
    up = float(np.hypot(one.high - one.value, other.value - other.low))
    return Measured(value=value, low=value - down, high=value + up)


def widened_tail(n: int) -> float:
    """The percentile level at which a bootstrap of n values covers as a t interval does.

    Φ(t_{n−1}(2.5 %)·√(n/(n−1))); Hesterberg (2015), arXiv 1411.5279.
    """
    from scipy.stats import norm, t

    return float(norm.cdf(t.ppf(0.025, n - 1) * np.sqrt(n / (n - 1))))


def sign_flip_p(differences: np.ndarray) -> float | None:
    """One-sided p of paired differences [n] being above zero, by flipping their signs.

    The share of sign flips whose sum reaches the observed one. Exact for up to 12 prompts, else
    over 20,000 random flips (the observed one counted in). NaN entries are left out; None without
    any prompt. Differences of zero everywhere give 1.
    """
    values = np.asarray(differences, dtype=np.float64)
    values = values[np.isfinite(values)]
    n = values.size
    if n == 0:
        return None
    if n <= EXACT_FLIPS:
        signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    else:
        draws = np.random.default_rng(0).integers(0, 2, size=(FLIPS - 1, n))
        signs = np.concatenate([np.ones((1, n)), 1 - 2 * draws])
    sums = signs @ values
    # rounding must not break the tie of a flip with the observed sum
    return float((sums >= values.sum() - 1e-9 * np.abs(values).sum()).mean())


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down adjustment: family-wise error under any dependence. None stays None."""
    known = [(p, i) for i, p in enumerate(p_values) if p is not None]
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(sorted(known)):
        largest = max(largest, min(1.0, p * (len(known) - rank)))
        adjusted[i] = largest
    return adjusted


def spearman(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray) -> float | None:
    """Rank correlation; None for fewer than three points or a constant."""
    from scipy.stats import rankdata

    a, b = rankdata(x), rankdata(np.round(np.asarray(y, dtype=np.float64), 9))
    if len(a) < 3 or a.std() == 0 or b.std() == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def nan_mean(values: np.ndarray, axis: int | tuple[int, ...] | None = 0) -> np.ndarray:
    """Mean of values [...] over axes without NaN entries: [...] less these axes.

    NaN, without a warning, where all are.
    """
    count = np.isfinite(values).sum(axis)
    return np.where(count > 0, np.nansum(values, axis) / np.maximum(count, 1), np.nan)


def first_sustained(above: np.ndarray) -> int | None:
    """Index in a boolean curve [n] of the first of SUSTAINED True in a row; None for none.

    At the end fewer are not enough.
    """
    run = 0
    for i, is_above in enumerate(above):
        run = run + 1 if is_above else 0
        if run == SUSTAINED:
            return i - SUSTAINED + 1
    return None
