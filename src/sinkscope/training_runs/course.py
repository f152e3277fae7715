"""The course of one run: emergence, stages and the settling signal from its curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sinkscope.stats import first_sustained
from sinkscope.training_runs.emergence import STRAIGHT, Emergence, emergence, noise
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
    """

    steps: Sequence[int]
    sink: np.ndarray
    null: np.ndarray | float
    log_norm: np.ndarray
    c2: np.ndarray
    directions: np.ndarray


@dataclass(frozen=True)
class Course:
    """What became of a run."""

    emergence: Emergence | None
    stages: Stages
    settled: Settled


def course(curves: Curves) -> Course:
    """Judge one run."""
    sink = curves.sink.mean(1)
    null = np.broadcast_to(np.asarray(curves.null, float), sink.shape)
    return Course(
        emergence=log_emergence(curves.steps, curves.sink, null),
        stages=find_stages(joint_curve(curves)),
        settled=settling(
            curves.steps,
            {"concentration_2": curves.c2, "log_norm": curves.log_norm.mean(1), "sink": sink},
            curves.directions,
            emerged_by(sink > null),
        ),
    )


def log_emergence(steps: Sequence[int], values: np.ndarray, null: np.ndarray) -> Emergence | None:
    """Emergence of a share [c, prompt] on the log scale, where its noise is even.

    What differs between prompts at every checkpoint alike is no noise here: the same prompts are
    used throughout, so the error is that of each prompt's course around the common one.
    """
    mean = np.maximum(values.mean(1), 1e-9)
    apart = np.log(np.maximum(values, 1e-9)) - np.log(mean)[:, None]
    apart = apart - apart.mean(0)
    error = apart.std(1, ddof=1) / np.sqrt(values.shape[1]) if values.shape[1] > 1 else 0.0
    curve = np.log(mean)
    return emergence(steps, curve, np.log(np.maximum(null, 1e-9)), noise(curve, error, STRAIGHT))


def emerged_by(above: np.ndarray) -> list[bool]:
    """For each checkpoint, whether a sustained crossing began at it or before.

    It is asked by the settling signal at the start of a stretch of at least LEAST checkpoints, by
    the end of which the crossing has been seen to last.
    """
    found = first_sustained(above)
    return [found is not None and i >= found for i in range(len(above))]


def joint_curve(curves: Curves) -> np.ndarray:
    """Signals whose change makes a stage: late share, log r, C_2 and where u points.

    u enters by its cosine to its last self: [c, 4].
    """
    last = curves.directions @ curves.directions[-1]
    return np.stack([curves.sink.mean(1), curves.log_norm.mean(1), curves.c2, last], 1)
