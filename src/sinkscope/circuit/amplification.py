"""Stage 2: how far position zero is pushed away from the others, by norm and by direction.

Read points are the inputs of blocks, x0 .. xL. Norm: `r_l = ‖x_0‖ / median_{t>0} ‖x_t‖`. Direction:
the sink direction u is the unit vector of (mean unit P0 over first tokens) − (mean unit others) at
one read point, and `a_l = ⟨x̂_0, u⟩ − mean ⟨x̂_t, u⟩`. The emergence block l* is the one after
whose write the curve stays above half of its rise; −1 is the embedding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from sinkscope.observe.stream import mean_cosine, unit

NORM_RISE = 1.5  # below it there is no amplification of the norm: untrained Llamas reach it
OVER_NULL = 1.5  # and it must exceed the untrained architecture's own ratio by as much
PLATEAU = 0.8  # log r within 20 % of its maximum
# A rise along u counts from here on: P0 then stands this many standard deviations of the others
# away from them, and by this much of the unit sphere.
APART, DIRECTION_RISE = 3.0, 0.15


@dataclass(frozen=True)
class Norm:
    """The norm curve, and where it emerges.

    curve    [L+1] log r at x0..xL, nats
    plateau  first and last read point; None where nothing rises
    block    emergence block; −1 the embedding, None where nothing rises
    ratio    largest r; null: that of the untrained model, None where it was not run
    """

    curve: np.ndarray
    plateau: tuple[int, int] | None
    block: int | None
    ratio: float
    null: float | None


@dataclass(frozen=True)
class Direction:
    """The direction curves, each [L+1] at x0..xL.

    curve    a_l on the unit sphere
    apart    a_l over the standard deviation of ⟨x̂_t, u⟩
    cosine   mean pairwise cosine of P0 over first tokens
    aligned  mean ⟨x̂_0, u⟩ over first tokens
    block    emergence block; −1 the embedding, None where nothing rises
    """

    curve: np.ndarray
    apart: np.ndarray
    cosine: np.ndarray
    aligned: np.ndarray
    block: int | None


def norm_amplification(
    log_ratio: np.ndarray, null: float | None = None, within: tuple[int, int] | None = None
) -> Norm:
    """Plateau and emergence block of the norm, from log r [L+1] at x0..xL (mean over prompts).

    null    largest ratio of the untrained model
    within  first and last point of the phase that counts, where there are several
    """
    top = float(np.exp(log_ratio.max()))
    rises = top >= NORM_RISE and (null is None or top >= OVER_NULL * max(1.0, null))
    if not rises:
        return Norm(log_ratio, None, None, top, null)
    first, last = within or (0, len(log_ratio) - 1)
    points = np.arange(len(log_ratio))
    counts = (first <= points) & (points <= last)
    plateau = longest_run(counts & (log_ratio >= PLATEAU * log_ratio[counts].max()))
    best = plateau[0] + int(np.argmax(log_ratio[plateau[0] : plateau[1] + 1]))
    return Norm(log_ratio, plateau, crossing(log_ratio, best), top, null)


def longest_run(flags: np.ndarray) -> tuple[int, int]:
    """First and last index of the longest run of True in flags [n]; the first of equal ones."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    starts, stops = edges[::2], edges[1::2]
    best = int(np.argmax(stops - starts))
    return int(starts[best]), int(stops[best]) - 1


def crossing(curve: np.ndarray, last: int) -> int:
    """Block whose write takes a curve [L+1] over half of its value at `last`, to stay there.

    The rise counts from zero (no difference between P0 and the others), so that what the embedding
    already holds gives −1.
    """
    above = curve[: last + 1] >= curve[last] / 2
    below = np.flatnonzero(~above)
    return int(below[-1]) if below.size else -1


def direction_amplification(
    p0: torch.Tensor, others: torch.Tensor, u: torch.Tensor, read_point: int
) -> Direction:
    """p0 [n, points, d] over first tokens, others [m, points, d] at x0..xL; u [d]."""
    at_p0, at_others = unit(p0) @ u, unit(others) @ u
    gap = (at_p0.mean(0) - at_others.mean(0)).numpy()
    # a deviation below rounding says nothing about how far apart two groups are
    apart = (gap / at_others.std(0).clamp_min(1e-4).numpy()).clip(-1e4, 1e4)
    rises = gap[read_point] >= DIRECTION_RISE and apart[read_point] >= APART
    block = crossing(gap, read_point) if rises else None
    return Direction(gap, apart, mean_cosine(p0).numpy(), at_p0.mean(0).numpy(), block)
