"""Series of checkpoints whose answer is known: events are planted, noise is added.

Each series has latent curves (late share, log r, C_2, direction u) over the steps of its
checkpoints. Events move them: the emergence of the sink, then concentrations of the circuit, each
sudden or a ramp over several checkpoints; then calm, or a drift that never ends. What is observed
is latent × noise between prompts × noise between checkpoints. The truth is read off the latent
curves.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from sinkscope.training_runs.settling import QUIET

PROMPTS = 16
CHANNELS = 24
NULL = 0.034  # late share under uniform attention at T = 40


@dataclass
class Series:
    """One known-answer series.

    steps       [c]
    null        99th percentile of the null of the late share
    late        [c, prompt] late share
    log_ratio   [c, prompt]
    c2          [c]
    directions  [c, d]
    emerged_at  step at which the latent late share crosses `null`; None: it never does
    stages      number of stages that were planted; None in a series that drifts, which has none
    settled_at  step from which nothing moves any more; None: never
    """

    steps: np.ndarray
    null: float
    late: np.ndarray
    log_ratio: np.ndarray
    c2: np.ndarray
    directions: np.ndarray
    emerged_at: float | None
    stages: int | None
    settled_at: float | None


def draw_series(seed: int) -> Series:
    """Draw a series. One in ten has no sink at all, one in five drifts until its end.

    Nothing is planted after a calm longer than an online signal can be asked to wait for: the next
    event begins within QUIET times the step at which the one before it ended.
    """
    g = np.random.default_rng(seed)
    steps = draw_grid(g)
    count = len(steps)
    kind = str(g.choice(["settles", "drifts", "no sink"], p=[0.7, 0.2, 0.1]))
    events = [] if kind == "no sink" else _events(g, steps)
    heights = _heights(g, len(events))
    place = np.arange(count, dtype=float)
    fine = np.linspace(0, count - 1, 50 * (count - 1) + 1)
    weights = [_rise(place, *event) for event in events]
    null = NULL * g.uniform(1.15, 1.6)
    slow = g.random() < 0.5  # a share that grows by factors rather than by amounts
    late = _late(weights, heights, place, slow)
    fine_late = _late([_rise(fine, *event) for event in events], heights, fine, slow)
    log_r = 0.7 + sum((w * h["log_r"] for w, h in zip(weights, heights)), np.zeros(count))
    c2 = 0.35 + sum((w * h["c2"] for w, h in zip(weights, heights)), np.zeros(count))
    since = np.zeros(count)
    if kind == "drifts":  # from the emergence on, in e-folds of steps
        since = np.maximum(np.log1p(steps) - np.log1p(step_at(steps, events[0][1])), 0.0)
    turning = kind == "drifts" and g.random() < 0.5
    if not turning:
        log_r = log_r * np.exp(g.uniform(0.3, 0.5) * since)
    jitter = g.uniform(0.005, 0.04)
    shape = (count, PROMPTS)
    prompt = g.lognormal(0, 0.3, PROMPTS)
    above = fine_late > null
    last = max((stop for _, stop in events), default=None)
    return Series(
        steps=steps,
        null=null,
        late=late[:, None]
        * (prompt / prompt.mean())
        * g.lognormal(0, 0.15, shape)
        * g.lognormal(0, jitter, (count, 1)),
        log_ratio=log_r[:, None]
        + g.normal(0, 0.2, PROMPTS)
        + g.normal(0, 0.1, shape)
        + g.normal(0, jitter, (count, 1)),
        c2=np.clip(c2 + g.normal(0, jitter / 2, count), 0, 1),
        directions=_directions(g, weights, heights, since * g.uniform(0.7, 1.5) * turning),
        emerged_at=step_at(steps, fine[above.argmax()]) if above.any() else None,
        stages=None if kind == "drifts" else 1 + sum(1 + (a < b) for a, b in events),
        settled_at=None if last is None or kind == "drifts" else step_at(steps, last),
    )


def draw_grid(g: np.random.Generator) -> np.ndarray:
    """Steps [c] of checkpoints as they are kept: every so often, or doubling at first."""
    if g.random() < 0.5:
        every = int(g.choice([50, 100, 500, 1000]))
        return np.arange(0, g.integers(24, 60) + 1) * every
    doubling = 2.0 ** np.arange(0, g.integers(7, 10))
    rest = doubling[-1] * np.arange(2, g.integers(16, 40))
    return np.concatenate([[0], doubling, rest]).astype(int)


def _events(g: np.random.Generator, steps: np.ndarray) -> list[tuple[float, float]]:
    """(start, stop) of each event on the axis of checkpoint indices; equal where it is sudden."""
    while True:
        events: list[tuple[float, float]] = []
        at, cuts = float(g.uniform(4.0, 0.4 * len(steps))), int(g.integers(1, 5))
        while cuts > 0 and at < len(steps) - 6:
            ramp = cuts >= 2 and g.random() < 0.4
            stop = at + float(g.uniform(5.0, 9.0)) if ramp else at
            events.append((at, stop))
            cuts -= 2 if ramp else 1
            at = stop + float(g.uniform(5.0, 12.0))
        calm = (
            step_at(steps, later[0]) <= QUIET * step_at(steps, earlier[1])
            for earlier, later in itertools.pairwise(events)
        )
        if events and events[-1][1] < len(steps) - 6 and all(calm):
            return events


def _heights(g: np.random.Generator, count: int) -> list[dict[str, float]]:
    """What each event does: the first is the emergence, the others move the circuit."""
    first = {"late": g.uniform(0.2, 0.7), "log_r": g.uniform(0.8, 3.0), "c2": g.uniform(0.0, 0.2)}
    found = [first | {"turn": 1.2}]
    for _ in range(count - 1):
        found.append(
            {
                "late": g.uniform(-0.04, 0.08),
                "log_r": g.choice([-1, 1]) * g.uniform(0.3, 0.6),
                "c2": g.uniform(0.12, 0.25),
                "turn": g.uniform(0.5, 1.0),
            }
        )
    return found[:count]


def _rise(place: np.ndarray, start: float, stop: float) -> np.ndarray:
    if stop > start:
        return np.clip((place - start) / (stop - start), 0.0, 1.0)
    return (place >= start).astype(float)


def _late(weights, heights, place: np.ndarray, slow: bool) -> np.ndarray:
    late = np.full_like(place, NULL)
    for i, (weight, height) in enumerate(zip(weights, heights)):
        if i == 0 and slow:
            late = late * (1.0 + height["late"] / NULL) ** weight
        else:
            late = late + weight * height["late"]
    return late


def step_at(steps: np.ndarray, place: float) -> float:
    """Step at a place between two of steps [c], on the log axis; places are indices."""
    return float(np.expm1(np.interp(place, np.arange(len(steps)), np.log1p(steps))))


def _directions(g: np.random.Generator, weights, heights, drift: np.ndarray) -> np.ndarray:
    """Unit vectors: each event turns u by an angle towards a new axis, the drift turns it on."""
    axes = np.linalg.qr(g.normal(size=(CHANNELS, len(weights) + 2)))[0].T
    u = np.repeat(axes[:1], len(drift), 0)
    for axis, weight, height in zip(axes[1:], weights, heights):
        angle = (weight * height["turn"])[:, None]
        u = np.cos(angle) * u + np.sin(angle) * axis
    u = np.cos(drift)[:, None] * u + np.sin(drift)[:, None] * axes[-1]
    noisy = u + g.normal(0, 0.02, u.shape)
    return noisy / np.linalg.norm(noisy, axis=1, keepdims=True)
