"""The record of one training run: what its sweep measured, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sinkscope.training_runs.checkpoint import Checkpoint, TrainingRun
from sinkscope.training_runs.course import Course
from sinkscope.training_runs.pilot import Pilot


@dataclass
class RunRecord:
    """One run after its sweep.

    checkpoints  those that could be measured; every array has a row for each
    arrays       name -> [step, ..], by `arrays.LABELS`
    broken       name of a checkpoint -> what is wrong with it
    remarks      name of a checkpoint -> what is to be remarked about how it was loaded
    model        id, revision, architecture, hash, .. of the last checkpoint
    """

    run: TrainingRun
    pilot: Pilot
    checkpoints: list[Checkpoint]
    arrays: dict[str, np.ndarray]
    course: Course
    broken: dict[str, str]
    remarks: dict[str, str]
    model: dict[str, Any]
