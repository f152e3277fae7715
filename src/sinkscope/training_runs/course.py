"""The course of one run: emergence, stages and the settling signal from its curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sinkscope.stats import first_sustained
from sinkscope.training_runs.emergence import (
    STRAIGHT,
    Emergence,
    crossing_at,
    error_over_prompts,
    noise,
)
from sinkscope.training_runs.settling import Settled, settling
from sinkscope.training_runs.stages import Stages, find_stages


@dataclass(frozen=True)
class Curves:
    """What is judged of a run; every array has a row for each checkpoint.

    steps       rising
    sink        [c, prompt] late share of P0, mean over heads
    null        [c] 99th percentile of its null
    log_norm    [c, prompt] log r at the read point
    c2          [c] C_2
    directions  [c, d] u
    margin      [c] how far the sink lies above the rule of `detect.decision`, in standard errors;
                None: how far its logarithm lies above that of its null
    heads       [c, head] late share of each head, where they are known
    """

    steps: Sequence[int]
    sink: np.ndarray
    null: np.ndarray | float
    log_norm: np.ndarray
    c2: np.ndarray
    directions: np.ndarray
    margin: np.ndarray | None = None
    heads: np.ndarray | None = None


@dataclass(frozen=True)
class Course:
    """What became of a run.

    spans  first and last index of every stretch in which the sink stands
    """

    emergence: Emergence | None
    spans: tuple[tuple[int, int], ...]
    stages: Stages
    settled: Settled


def course(curves: Curves) -> Course:
    """Judge one run."""
    sink = curves.sink.mean(1)
    margin = curves.margin
    if margin is None:
        null = np.broadcast_to(np.asarray(curves.null, float), sink.shape)
        margin = log_margin(curves.sink, null)
    signals = {"concentration_2": curves.c2, "log_norm": curves.log_norm.mean(1), "sink": sink}
    if curves.heads is not None:
        signals["heads"] = curves.heads
    stands = standing(margin > 0)
    return Course(
        emergence=crossing_at(curves.steps, margin, lasts=True),
        spans=spans(margin > 0),
        stages=find_stages(joint_curve(curves)),
        settled=settling(curves.steps, signals, curves.directions, stands),
    )


def log_margin(values: np.ndarray, null: np.ndarray) -> np.ndarray:
    """How far a share [c, prompt] lies above its null, on the log scale, in its errors: [c]."""
    mean = np.maximum(values.mean(1), 1e-9)
    apart = np.log(np.maximum(values, 1e-9)) - np.log(mean)[:, None]
    curve = np.log(mean)
    z = curve - np.log(np.maximum(null, 1e-9))
    return z / np.maximum(noise(curve, error_over_prompts(apart), STRAIGHT), 1e-12)


def spans(above: np.ndarray) -> tuple[tuple[int, int], ...]:
    """First and last index of every run of two or more True in above [c]: where the sink stands.

    One checkpoint alone counts where it is the last: what comes after it is not known.
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[0], above.astype(int), [0]])))
    runs = [(int(a), int(b) - 1) for a, b in zip(edges[::2], edges[1::2])]
    return tuple((a, b) for a, b in runs if b > a or b == len(above) - 1)


def standing(above: np.ndarray) -> list[bool]:
    """For each checkpoint, whether a sustained crossing began at it or before and still holds.

    above [c], boolean: whether the sink is above its null. The settling signal asks this of a
    stretch of at least LEAST checkpoints, by the end of which the crossing has been seen to last.
    """
    found = first_sustained(above)
    return [found is not None and i >= found and bool(above[i]) for i in range(len(above))]


def joint_curve(curves: Curves) -> np.ndarray:
    """Signals whose change makes a stage: late share, log r, C_2 and where u points.

    u enters by its cosine to its last self: [c, 4].
    """
    last = curves.directions @ curves.directions[-1]
    return np.stack([curves.sink.mean(1), curves.log_norm.mean(1), curves.c2, last], 1)
