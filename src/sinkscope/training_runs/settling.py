"""Has the circuit settled: a signal that is given while training runs, without looking ahead.

Settled at checkpoint i means: over the last stretch of training, from step s_i / QUIET to s_i, the
sink stood and nothing about the circuit moved by more than its bound, nor at a rate that would take
it there within another such stretch; this held at HOLD checkpoints in a row; and since it began to
hold nothing moved by its bound in all, however slowly.
The stretch grows with training because the circuit moves on the axis of log steps. No signal can
foresee a change that comes after a longer calm: what it says is that the calm has lasted.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

QUIET = 3.0  # nothing moved for two thirds of the training so far
ENDS = 3  # checkpoints at each end of the calm so far, between which the change in all is taken
LEAST = 5  # checkpoints in the stretch: fewer show no calm
HOLD = 3  # checkpoints in a row at which the stretch is calm, as for emergence
# Bounds on the change over the stretch. Relative ones: about twice what the light set wanders by
# between prompts at 16 prompts of 128 tokens; a circuit that is moving changes several times that.
BOUNDS = {
    "concentration_2": 0.10,  # relative change of C_2
    "log_norm": 0.10,  # relative change of log r
    "sink": 0.15,  # relative change of the late share
    "heads": 0.15,  # part of the late share that lies in other heads
    "turn": 0.05,  # 1 − cos between u at the two ends: 18 degrees
}
SMALLEST = {"concentration_2": 0.1, "log_norm": 0.5, "sink": 0.05}  # below, changes are absolute


@dataclass(frozen=True)
class Settled:
    """When the signal was given.

    announced  index at which it was first given, None where it never was
    since      index at which the calm stretch began that still lasts at the end; None if none does
    standing   index at which the signal was given that still stands at the end
    calm       [checkpoint] whether the stretch that ends there is calm
    """

    announced: int | None
    since: int | None
    standing: int | None
    calm: tuple[bool, ...]


def settling(
    steps: Sequence[int],
    signals: dict[str, np.ndarray],
    directions: np.ndarray,
    stands: Sequence[bool],
) -> Settled:
    """Run the online signal over a series of checkpoints.

    signals     concentration_2, log_norm and sink, each [c]; heads [c, head]
    directions  [c, d] unit vectors u
    stands      [c] whether the sink has emerged and stands, as far as was known then

    The answer for checkpoint i uses checkpoints up to i alone.
    """
    calm: list[bool] = []
    for i in range(len(steps)):
        known = {name: values[: i + 1] for name, values in signals.items()}
        calm.append(calm_now(steps[: i + 1], known, directions[: i + 1], stands, calm))
    given = [i >= HOLD - 1 and all(calm[i - HOLD + 1 : i + 1]) for i in range(len(calm))]
    announced = next((i for i, now in enumerate(given) if now), None)
    standing = None
    for i in range(len(given) - 1, -1, -1):
        if not calm[i]:
            break
        if given[i]:
            standing = i
    since = stretch(steps, standing) if standing is not None else None
    return Settled(announced, since, standing, tuple(calm))


def calm_now(
    steps: Sequence[int],
    signals: dict[str, np.ndarray],
    directions: np.ndarray,
    stands: Sequence[bool],
    calm: Sequence[bool],
) -> bool:
    """Whether the circuit is calm at the last of c checkpoints; arguments as for `settling`.

    calm  [c − 1] the answers for the checkpoints before it
    """
    i = len(steps) - 1
    start = stretch(steps, i)
    if start is None or not all(stands[start : i + 1]):
        return False
    x = np.log(np.maximum(np.asarray(steps[start:], float), 1.0))
    if not is_calm({k: v[start:] for k, v in signals.items()}, directions[start:], x):
        return False
    first = i
    while first > 0 and calm[first - 1]:
        first -= 1
    begin = stretch(steps, first)
    assert begin is not None
    ends = (slice(begin, begin + ENDS), slice(max(i + 1 - ENDS, begin), i + 1))
    moved = {name: _between([v[part] for part in ends], name) for name, v in signals.items()}
    moved["turn"] = _turn([directions[part] for part in ends])
    return _within(moved)


def stretch(steps: Sequence[int], i: int) -> int | None:
    """First checkpoint of the stretch that ends at i; None where it is not seen whole."""
    if steps[i] <= 0 or steps[0] * QUIET > steps[i] or i + 1 < LEAST:
        return None  # training has not been seen for long enough
    # the last checkpoint at or before the beginning of the stretch, so that all of it is covered
    start = max(j for j in range(i + 1) if steps[j] * QUIET <= steps[i])
    return min(start, i + 1 - LEAST)  # where checkpoints are sparse, over a longer stretch


def is_calm(signals: dict[str, np.ndarray], directions: np.ndarray, x: np.ndarray) -> bool:
    """Whether every signal's change within one stretch is below its tolerance, and its rate.

    signals name -> [c], heads [c, head]; directions [c, d]; x [c] log steps.
    """
    return _within(changes(signals, directions)) and _within(rates(signals, directions, x))


def _within(moved: dict[str, float]) -> bool:
    return all(value <= BOUNDS[name] for name, value in moved.items())


def changes(signals: dict[str, np.ndarray], directions: np.ndarray) -> dict[str, float]:
    """How much each signal moved over one stretch: between the means of its thirds, and in turn.

    signals name -> [c], heads [c, head]; directions [c, d]; over the checkpoints of the stretch.
    The largest difference between any two thirds, relative to the mean, so that a bump in the
    middle counts; for heads the part of the mass that lies in others; for directions 1 − cos
    between the mean directions of thirds.
    """
    found = {k: _between(np.array_split(v, 3), k) for k, v in signals.items()}
    return found | {"turn": _turn(np.array_split(directions, 3))}


def rates(
    signals: dict[str, np.ndarray], directions: np.ndarray, x: np.ndarray
) -> dict[str, float]:
    """How much each signal would move over two stretches, at the rate of this one.

    Arguments as for `changes`; x [c] log steps.
    By the slope of a straight line over log steps; for directions by the angle between the means
    of the first and the last third, of which the middles lie two thirds of a stretch apart.
    """
    found = {}
    far = x - x.mean()
    for name, values in signals.items():
        slope = np.tensordot(far, values, (0, 0)) / (far @ far)
        found[name] = _relative(slope * 2 * np.log(QUIET), values.mean(0), name)
    first, *_, last = np.array_split(directions, 3)
    angle = 3 * np.arccos(np.clip(1 - _turn([first, last]), -1, 1))
    return found | {"turn": float(1 - np.cos(min(angle, np.pi)))}


def _between(parts: list[np.ndarray], name: str) -> float:
    """The largest difference between the means of any two parts, relative to the mean of all."""
    means = [part.mean(0) for part in parts]
    middle = np.mean(means, 0)
    pairs = itertools.combinations(means, 2)
    return max((_relative(a - b, middle, name) for a, b in pairs), default=0.0)


def _relative(change: np.ndarray, size: np.ndarray, name: str) -> float:
    if np.ndim(change):  # of heads: what some lost others may have won, so it is counted once
        return float(np.abs(change).sum() / 2 / max(float(np.abs(size).sum()), 1e-9))
    return float(abs(change) / max(abs(float(size)), SMALLEST[name]))


def _turn(parts: list[np.ndarray]) -> float:
    """1 − cos between the mean directions of the two parts that are farthest apart."""
    means = [part.mean(0) for part in parts]
    units = np.stack([m / max(float(np.linalg.norm(m)), 1e-12) for m in means])
    return float(1.0 - (units @ units.T).min())
