"""Has the circuit settled: a signal that is given while training runs, without looking ahead.

Settled at checkpoint i means: over the last stretch of training, from step s_i / QUIET to s_i,
nothing about the circuit moved by more than its bound, and this held at HOLD checkpoints in a row.
The stretch grows with training because the circuit moves on the axis of log steps. No signal can
foresee a change that comes after a longer calm: what it says is that the calm has lasted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

QUIET = 3.0  # nothing moved for two thirds of the training so far
LEAST = 5  # checkpoints in the stretch: fewer show no calm
HOLD = 3  # checkpoints in a row at which the stretch is calm, as for emergence
# Bounds on the change over the stretch. Relative ones: about twice what the light set wanders by
# between prompts at 16 prompts of 128 tokens; a circuit that is moving changes several times that.
BOUNDS = {
    "concentration_2": 0.10,  # relative change of C_2
    "log_norm": 0.10,  # relative change of log r
    "sink": 0.15,  # relative change of the late share
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
    emerged: Sequence[bool],
) -> Settled:
    """Run the online signal over a series of checkpoints.

    signals     concentration_2, log_norm and sink, each [c]
    directions  [c, d] unit vectors u
    emerged     [c] whether the sink had emerged by then, as far as was known then

    The answer for checkpoint i uses checkpoints up to i alone.
    """
    calm = [calm_at(steps, signals, directions, emerged, i) for i in range(len(steps))]
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


def calm_at(
    steps: Sequence[int],
    signals: dict[str, np.ndarray],
    directions: np.ndarray,
    emerged: Sequence[bool],
    i: int,
) -> bool:
    """Whether the stretch that ends at checkpoint i is calm; arguments as for `settling`."""
    start = stretch(steps, i)
    if start is None or not emerged[start]:
        return False
    return is_calm({k: v[start : i + 1] for k, v in signals.items()}, directions[start : i + 1])


def stretch(steps: Sequence[int], i: int) -> int | None:
    """First checkpoint of the stretch that ends at i; None where it is not long enough."""
    if steps[i] <= 0 or steps[0] * QUIET > steps[i]:
        return None  # training has not been seen for long enough
    # the last checkpoint at or before the beginning of the stretch, so that all of it is covered
    start = max(j for j in range(i + 1) if steps[j] * QUIET <= steps[i])
    return start if i - start + 1 >= LEAST else None


def is_calm(signals: dict[str, np.ndarray], directions: np.ndarray) -> bool:
    """Whether every signal's change within one stretch of checkpoints is below its tolerance."""
    return all(value <= BOUNDS[name] for name, value in changes(signals, directions).items())


def changes(signals: dict[str, np.ndarray], directions: np.ndarray) -> dict[str, float]:
    """How much each signal moved over one stretch: between the means of its thirds, and in turn.

    The largest difference between any two thirds, relative to the mean, so that a bump in the
    middle counts; for directions 1 − cos between the mean directions of thirds.
    """
    found = {}
    for name, values in signals.items():
        thirds = np.array([part.mean() for part in np.array_split(values, 3)])
        size = max(abs(float(values.mean())), SMALLEST[name])
        found[name] = float(thirds.max() - thirds.min()) / size
    means = [part.mean(0) for part in np.array_split(directions, 3)]
    units = np.stack([m / max(float(np.linalg.norm(m)), 1e-12) for m in means])
    found["turn"] = float(1.0 - (units @ units.T).min())
    return found
