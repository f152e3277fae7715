"""Measure every checkpoint of a run: one checkpoint, one task.

A task is idempotent: its result depends on the checkpoint's content and on the view alone. What was
measured is stored whole or not at all by the process that asked, so a timeline that was killed goes
on where it was. A broken checkpoint is reported and skipped. Tasks run as `workers` has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from sinkscope.errors import InputError, reason
from sinkscope.frame import Progress, silent
from sinkscope.provenance import conditions
from sinkscope.settings import CheckpointSettings
from sinkscope.training_runs.checkpoint import TrainingRun
from sinkscope.training_runs.checkpoint_metrics import CheckpointMetrics
from sinkscope.training_runs.pilot import Pilot, view_hash
from sinkscope.training_runs.store import Store, key_of
from sinkscope.training_runs.task import Task, content_of, measure, note_of
from sinkscope.workers.pool import at_once, results_of


@dataclass
class MeasuredRun:
    """What came of the checkpoints of a run.

    metrics  one for each checkpoint, None where it was broken
    broken   name of a checkpoint -> one sentence on what is wrong with it
    notes    name of a checkpoint -> what is to be remarked about how it was loaded
    """

    metrics: list[CheckpointMetrics | None]
    broken: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def done(self) -> int:
        """How many checkpoints are through, measured or broken."""
        return len(self.broken) + sum(each is not None for each in self.metrics)


def measure_checkpoints(
    run: TrainingRun,
    pilot: Pilot,
    store: Store,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    settings: CheckpointSettings | None = None,
    progress: Progress = silent,
) -> MeasuredRun:
    """Measure the checkpoints of a run that are not stored yet, and return all of them.

    Results are equal byte for byte for equal `settings.threads`, however many workers there are.

    Raises OutOfResources where the disk or the memory is full, InputError where no checkpoint
    could be measured.
    """
    settings = settings or CheckpointSettings()
    store.sweep_out()
    threads = torch.get_num_threads() if settings.threads is None else settings.threads
    budget = int(settings.disk_budget * 1e9 / at_once(settings.workers))
    view = view_hash(pilot.view) + conditions(dtype, device, threads)
    sweep = _Sweep(run, pilot, store, view, progress)
    sweep.report()
    for done in results_of(sweep.tasks(dtype, device, threads, budget), measure, settings.workers):
        sweep.take(*done)
    measured = sweep.measured
    _remark(run, measured, sweep.keys)
    if all(found is None for found in measured.metrics):
        first = next(iter(measured.broken.values()), "there are none.")
        raise InputError(f"no checkpoint of {run.name} could be measured: {first}")
    return measured


@dataclass
class _Sweep:
    """A run that is being measured.

    view  what is looked at and how, as a hash
    keys  index of a checkpoint -> its key in the store
    """

    run: TrainingRun
    pilot: Pilot
    store: Store
    view: str
    progress: Progress
    keys: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.measured = MeasuredRun([None] * len(self.run.checkpoints))

    def report(self) -> None:
        """Say how many checkpoints are through."""
        count = len(self.run.checkpoints)
        self.progress(f"checkpoints of {self.run.name}", self.measured.done, count)

    def tasks(self, dtype: str, device: str, threads: int, budget: int) -> Iterator[Task]:
        """A task for each checkpoint that is not stored yet."""
        for index, checkpoint in enumerate(self.run.checkpoints):
            try:
                self.keys[index] = key_of(content_of(checkpoint, self.pilot), self.view)
                self._note(index, note_of(checkpoint))
            except Exception as error:  # noqa: BLE001 - a broken checkpoint is a row, whatever breaks
                self.measured.broken[checkpoint.name] = reason(error)
                continue
            self.measured.metrics[index] = self.store.read(self.keys[index])
            if self.measured.metrics[index] is None:
                yield Task(index, checkpoint, self.pilot, dtype, device, threads, budget)
            self.report()

    def take(self, index: int, content: bytes | None, said: str) -> None:
        """Store what a task gave; without content `said` is what is wrong, else a remark or ""."""
        if content is None:
            self.measured.broken[self.run.checkpoints[index].name] = said
        else:
            self._note(index, said)
            self.store.write(self.keys[index], content)
            self.measured.metrics[index] = self.store.read(self.keys[index])
        self.report()

    def _note(self, index: int, said: str) -> None:
        if said:
            self.measured.notes[self.run.checkpoints[index].name] = said


def _remark(run: TrainingRun, measured: MeasuredRun, keys: dict[int, str]) -> None:
    """Add what was said of each checkpoint when it was loaded, and which are the same."""
    seen: dict[str, str] = {}
    for index, (checkpoint, found) in enumerate(
        zip(run.checkpoints, measured.metrics, strict=True)
    ):
        if found is None:
            continue
        said = [measured.notes.get(checkpoint.name, ""), found.note]
        if (before := seen.setdefault(keys[index], checkpoint.name)) != checkpoint.name:
            said.append(f"What is looked at there is the same as in {before}.")
        if told := " ".join(filter(None, said)):
            measured.notes[checkpoint.name] = told
