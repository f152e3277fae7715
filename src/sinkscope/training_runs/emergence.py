"""When something emerged: the first sustained crossing of its null, with an interval.

The criterion stands before any look at the data: the first checkpoint from which three
checkpoints in a row lie above the 99th percentile of the null. The interval is about the moment at
which the curve without noise crosses: it cannot be narrower than the grid of checkpoints, and it is
wider where several checkpoints lie within noise of the null. With z_i the distance of checkpoint i
from the null in standard errors, a crossing between i−1 and i has the weight

    Π_{k<i} Φ(−z_k) · Π_{k≥i} Φ(z_k)

over the checkpoints near the crossing (a flat prior on where each lies, one change of sign). Within
a gap of the grid nothing tells one moment from another, so the interval is of whole gaps: from the
checkpoint before the 2.5th percentile of the crossing to the one behind the 97.5th.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import log_ndtr
from scipy.stats import norm

from sinkscope.stats import first_sustained

# While a sink emerges most of its curve bends, in a short series nearly all of it.
STRAIGHT = 0.25  # share of the second differences that may be taken for noise
CERTAIN = 4.0  # standard errors beyond which a checkpoint is surely on its side
LEVEL = 0.95


@dataclass(frozen=True)
class Emergence:
    """When a signal emerged.

    step        first checkpoint of the sustained crossing
    low, high   checkpoints between which it crosses, with 95 % or more; low is None where it may
                have crossed before the first
    before      the checkpoint before it, None where there is none
    """

    step: int
    low: float | None
    high: float
    before: int | None


def emergence(
    steps: Sequence[int], values: np.ndarray, null: np.ndarray | float, error: np.ndarray | float
) -> Emergence | None:
    """First sustained crossing of a curve over its null; None where there is none.

    steps   [c] rising
    values  [c] the curve, on a scale on which its noise does not depend on its height
    null    [c] or one number: 99th percentile of the null, on the same scale
    error   [c] or one number: standard error of the values (see `noise`)
    """
    values = np.asarray(values, float)
    null = np.broadcast_to(np.asarray(null, float), values.shape)
    error = np.broadcast_to(np.asarray(error, float), values.shape)
    return crossing_at(steps, (values - null) / np.maximum(error, 1e-12))


def crossing_at(steps: Sequence[int], z: np.ndarray, lasts: bool = False) -> Emergence | None:
    """First sustained crossing of a curve over zero; None where there is none.

    z      [c] in standard errors
    lasts  whether two checkpoints above at the end of the series are enough
    """
    above = z > 0
    found = first_sustained(np.append(above, lasts and above[-2:].all()))
    if found is None:
        return None
    step = int(steps[found])
    before = int(steps[found - 1]) if found else None
    if found == 0 and z[0] > CERTAIN:
        return Emergence(step, None, float(steps[0]), None)
    low, high = _interval(steps, z, found)
    return Emergence(step, low, high, before)


def error_over_prompts(values: np.ndarray) -> np.ndarray | float:
    """Standard error of the mean over prompts of values [c, prompt], at each checkpoint: [c].

    What differs between prompts at every checkpoint alike is no noise here: the same prompts are
    used throughout, so the error is that of each prompt's course around the common one.
    """
    prompts = values.shape[1]
    if prompts == 1:
        return 0.0
    return (values - values.mean(0)).std(1, ddof=1) / np.sqrt(prompts)


def noise(values: np.ndarray, error: np.ndarray | float = 0.0, quantile: float = 0.5) -> float:
    """Standard deviation of a curve around its own course, from second differences.

    values [c]; second differences of a smooth course vanish, those of white noise of deviation s
    have the deviation √6·s; a quantile of their absolute values ignores jumps and bends, the more
    of them the lower it is. Never below the median of `error` [c] (`error_over_prompts`).
    """
    values = np.asarray(values, float)
    least = float(np.nanmedian(np.asarray(error, float)))
    if len(values) < 5:
        return least
    expected = float(norm.ppf(0.5 + quantile / 2)) * math.sqrt(6.0)
    return max(float(np.quantile(np.abs(np.diff(values, 2)), quantile)) / expected, least)


def _interval(steps: Sequence[int], z: np.ndarray, found: int) -> tuple[float | None, float]:
    """Checkpoints around the percentiles of the crossing; gap i lies before checkpoint i."""
    first = found
    while first > 0 and z[first - 1] > -CERTAIN:
        first -= 1
    last = found
    while last + 1 < len(z) and z[last] < CERTAIN:
        last += 1
    gaps = np.arange(first, last + 1)
    zone = z[first : last + 1]
    under, over = log_ndtr(-zone), log_ndtr(zone)
    weight = np.array([under[:k].sum() + over[k:].sum() for k in range(len(gaps))])
    share = np.exp(weight - weight.max())
    share /= share.sum()
    tail = (1.0 - LEVEL) / 2.0
    below = np.cumsum(share)
    low = int(gaps[np.searchsorted(below, tail, side="right")])
    high = int(gaps[np.searchsorted(below, 1.0 - tail)])
    return (float(steps[low - 1]) if low else None, float(steps[high]))
