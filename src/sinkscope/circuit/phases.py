"""Every rise and fall of position zero along depth.

P0 may be pushed away from the others more than once: SmolLM2-135M does it in blocks 0 to 2, takes
it back in blocks 8 to 10, and does it again in block 11; hybrid models do it before every block of
full attention (arXiv 2608.12149). With r_l = ‖x_0‖ / median_{t>0} ‖x_t‖ at the read points x0..xL,
a phase is a peak of log r_l, counted from zero (no difference between P0 and the others). Two peaks
are two phases if log r falls to half of the lower one between them. The block whose write crosses
half of the peak is where the phase emerges, or ends; the slope around it reaches from where the
curve leaves its valley to where it is no longer steep. All bounds but the least height are parts of
the curve's own height or step, so phases are the same for r and any power of it.

Where the norm does not rise, the same is said of P0's direction: the curve is then the gap
⟨mean x̂_0, u⟩ − ⟨mean x̂_t, u⟩ along the direction u = mean x̂_0 − mean x̂_t of the phase's own peak.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from sinkscope.circuit.amplification import (
    APART,
    DIRECTION_RISE,
    NORM_RISE,
    OVER_NULL,
)
from sinkscope.observe.stream import sink_direction, unit

HALF = 0.5  # of a peak: as for the emergence block, and what lies deeper than half is a valley
# Of the way between valley and peak: so near, the curve has reached its valley (the 2 % of a
# settling time). Over prompts a mean log ratio moves by less than a hundredth of a phase's height;
# the last block that takes back the first phase of SmolLM2-135M moves it by 0.04 of that or more.
SETTLED = 0.02
# Of the largest step of a slope: what is flatter belongs to the plateau, as a sublayer that writes
# less than a tenth is no writer. On that model 0.08 to 0.15 give the same phases.
STEEP = 0.1
EMBEDDING = (-1, -1)


@dataclass(frozen=True)
class Phase:
    """One rise of P0, and its fall.

    by      norm, or direction where the norm does not rise
    point   read point of the peak
    height  log r there, in nats; along a direction the gap, on the unit sphere
    block   emergence block: the one whose write crosses half of the peak; −1 the embedding
    rise    first and last block in which it rises; (−1, −1) where the embedding holds it
    fall    first and last block in which it is taken back; None where it lasts to the end
    read    first and last read point behind the rise at which P0 is set apart, so that the
            attention of that block can read it
    unread  heads (block, head) of these blocks that do not read what it writes
    """

    by: str
    point: int
    height: float
    block: int
    rise: tuple[int, int]
    fall: tuple[int, int] | None
    read: tuple[int, int]
    unread: frozenset[tuple[int, int]] = frozenset()

    def plateau(self, depth: int) -> tuple[int, int]:
        """First and last read point between rise and fall, in a model of `depth` blocks."""
        return self.rise[1] + 1, depth if self.fall is None else self.fall[0]

    def points(self, depth: int) -> tuple[int, int]:
        """First and last read point behind the first block of the rise and before it is over."""
        return self.rise[0] + 1, depth if self.fall is None else self.fall[1]

    def reads(self, block: int) -> bool:
        """Whether the attention of a block, which reads the point of its number, can read it."""
        return self.read[0] <= block <= self.read[1]

    def last_block(self, depth: int) -> int:
        """Last block of the fall, or of the model."""
        return depth - 1 if self.fall is None else self.fall[1]


def norm_phases(log_ratio: np.ndarray, null: float | None = None) -> list[Phase]:
    """Phases from log r [L+1] at x0..xL (mean over prompts), in order of depth.

    null  largest ratio of the untrained architecture, which a phase must exceed
    """
    least = float(np.log(max(NORM_RISE, 0.0 if null is None else OVER_NULL * null)))
    peaks = _peaks(log_ratio, least)
    sides = zip([0, *peaks], peaks, [*peaks[1:], -1])
    return [_phase("norm", log_ratio, least, peak, before, after) for before, peak, after in sides]


def direction_phases(p0: torch.Tensor, others: torch.Tensor) -> list[Phase]:
    """Phases of P0's direction, in order of depth: p0 [n, points, d], others [m, points, d].

    The strongest point is taken first, with its own direction; then the strongest that this phase
    does not cover, until P0 stands no further apart than others do by themselves.
    """
    difference = unit(p0).mean(0) - unit(others).mean(0)
    gaps = difference.norm(dim=-1).numpy()
    free = np.ones(len(gaps), dtype=bool)
    found = []
    while free.any():
        peak = int(np.where(free, gaps, -np.inf).argmax())
        u = sink_direction(p0[:, peak], unit(others[:, peak]).mean(0))
        curve = (difference @ u).numpy()
        deviation = max(float((unit(others[:, peak]) @ u).std()), 1e-4)
        if gaps[peak] < DIRECTION_RISE:
            break
        first, last = _half(curve, peak)
        if gaps[peak] / deviation >= APART and free[first : last + 1].all():
            found.append(_phase("direction", curve, DIRECTION_RISE, peak))
        free[first : last + 1] = False
    return sorted(found, key=lambda phase: phase.point)


def direction_phase(curve: np.ndarray, peak: int, block: int) -> Phase:
    """The phase that emerges in a block and is read at `peak`, from P0's gap along a direction.

    curve [L+1] the gap at x0..xL.
    """
    rise = EMBEDDING if block < 0 else (block, block)
    if curve[peak] <= 0:  # what is read there is no part of the mean difference
        return Phase("direction", peak, float(curve[peak]), block, rise, None, (block + 1, peak))
    found = _phase("direction", curve, HALF * float(curve[peak]), peak)
    return replace(
        found, block=block, rise=(min(found.rise[0], block), block) if block >= 0 else rise
    )


def find_phases(
    log_ratio: np.ndarray, p0: torch.Tensor, others: torch.Tensor, null: float | None = None
) -> list[Phase]:
    """Phases of the norm, or of the direction where the norm has none.

    log_ratio [L+1]; p0 [n, L+1, d], others [m, L+1, d]: see `norm_phases`, `direction_phases`.
    """
    return norm_phases(log_ratio, null) or direction_phases(p0, others)


def _peaks(curve: np.ndarray, least: float) -> list[int]:
    """Points of the peaks that are phases: at least `least` high, and apart by half.

    Points are flooded from the highest down; where two hills meet, the lower is a phase of its own
    if the valley lies at half of it or deeper, and part of the higher one otherwise.
    """
    owner: dict[int, int] = {}  # point -> the peak of its hill

    found = []
    for point in sorted(range(len(curve)), key=lambda i: -curve[i]):
        sides = sorted(
            {owner[side] for side in (point - 1, point + 1) if side in owner},
            key=lambda i: -curve[i],
        )
        owner[point] = sides[0] if sides else point
        if len(sides) == 2:
            if curve[sides[1]] >= least and curve[point] <= HALF * curve[sides[1]]:
                found.append(sides[1])
            owner |= {p: sides[0] for p, peak in owner.items() if peak == sides[1]}
    top = int(curve.argmax())
    if curve[top] >= least:
        found.append(top)
    return sorted(found)


def _half(curve: np.ndarray, peak: int) -> tuple[int, int]:
    """First and last of the points around the peak that lie above half of it."""
    low = np.flatnonzero(curve < HALF * curve[peak])
    before, after = low[low < peak], low[low > peak]
    return (int(before[-1]) + 1 if before.size else 0), (
        int(after[0]) - 1 if after.size else len(curve) - 1
    )


def _phase(
    by: str, curve: np.ndarray, least: float, peak: int, before: int = 0, after: int = -1
) -> Phase:
    """The phase of a peak; `before` and `after` are the peaks on either side, or the ends.

    least  height of the curve from which P0 is set apart
    """
    first, last = _half(curve, peak)
    end = len(curve) - 1 if after < 0 else after
    rise, fall = EMBEDDING, None
    if first > 0:
        up = _slope(curve[before : peak + 1], first - 1 - before)
        rise = before + up[0], before + up[1]
    if last < len(curve) - 1:
        down = _slope(curve[peak : end + 1][::-1], end - last - 1)
        fall = end - 1 - down[1], end - 1 - down[0]
    start, stop = rise[1] + 1, len(curve) - 1 if fall is None else fall[1]
    apart = start + np.flatnonzero(curve[start : stop + 1] >= least)
    return Phase(by, peak, float(curve[peak]), first - 1, rise, fall, (start, int(apart[-1])))


def _slope(curve: np.ndarray, block: int) -> tuple[int, int]:
    """First and last step of the way up to the last point; `block` is the step that crosses half.

    It begins where the curve leaves its lowest level, and ends where it is no longer steep.
    """
    low = curve.min()
    first = int(np.flatnonzero(curve <= low + SETTLED * (curve[-1] - low))[-1])
    steps = np.diff(curve)
    last = block
    while last + 1 < len(steps) and steps[last + 1] >= STEEP * steps[first:].max():
        last += 1
    return min(first, block), last
