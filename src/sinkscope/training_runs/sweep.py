"""Measure every checkpoint of a run: one checkpoint, one task.

A task is idempotent: its result depends on the checkpoint's content and on the view alone. What was
measured is stored whole or not at all by the process that runs the sweep, so a sweep that was
killed goes on where it was. A broken checkpoint is reported and skipped. Tasks run as `workers` has
it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from sinkscope.errors import InputError, SinkscopeError
from sinkscope.frame import Progress, silent
from sinkscope.training_runs.checkpoint import TrainingRun
from sinkscope.training_runs.checkpoint_metrics import CheckpointMetrics
from sinkscope.training_runs.pilot import Pilot, view_hash
from sinkscope.training_runs.store import Store, conditions, key_of
from sinkscope.training_runs.task import Task, content_of, measure, note_of
from sinkscope.workers.pool import at_once, results_of


@dataclass
class Swept:
    """What came of the checkpoints of a run.

    lights  one for each checkpoint, None where it was broken
    broken  name of a checkpoint -> one sentence on what is wrong with it
    notes   name of a checkpoint -> what is to be remarked about how it was loaded
    """

    lights: list[CheckpointMetrics | None]
    broken: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)


def sweep(
    run: TrainingRun,
    pilot: Pilot,
    store: Store,
    *,
    workers: int | str = 1,
    dtype: str = "float32",
    device: str = "cpu",
    threads: int | None = None,
    disk_budget: float = 20.0,
    progress: Progress = silent,
) -> Swept:
    """Measure the checkpoints of a run that are not stored yet, and return all of them.

    workers  1: in this process; N: local processes; "ray" or "ray://..": on Ray
    threads  torch threads of each task. Results are equal byte for byte for equal threads, however
             many workers there are; by default all threads of this process
    disk_budget  GB that downloaded weights may take at any time, over all workers

    Raises OutOfResources where the disk or the memory is full, InputError where no checkpoint
    could be measured.
    """
    store.sweep_out()
    count = torch.get_num_threads() if threads is None else threads
    view = view_hash(pilot.view) + conditions(dtype, device, count)
    plain = pilot.to_json()
    swept = Swept([None] * len(run.checkpoints))
    label, total = f"checkpoints of {run.name}", len(run.checkpoints)
    done = 0
    keys: dict[int, str] = {}
    budget = int(disk_budget * 1e9 / at_once(workers))

    def tasks() -> Iterator[Task]:
        nonlocal done
        for index, checkpoint in enumerate(run.checkpoints):
            try:
                keys[index] = key_of(content_of(checkpoint, pilot), view)
                if said := note_of(checkpoint):
                    swept.notes[checkpoint.name] = said
            except Exception as error:  # noqa: BLE001 - a broken checkpoint is a row, whatever breaks
                said = str(error) if isinstance(error, SinkscopeError) else f"{error!r}."
                swept.broken[checkpoint.name] = said
                done += 1
                continue
            stored = store.read(keys[index])
            if stored is not None:
                swept.lights[index] = stored
                done += 1
                progress(label, done, total)
                continue
            yield Task(index, checkpoint, plain, dtype, device, count, budget)

    progress(label, 0, total)
    for index, content, said in results_of(tasks(), measure, workers):
        done += 1
        if content is None:
            swept.broken[run.checkpoints[index].name] = said
        else:
            if said:
                swept.notes[run.checkpoints[index].name] = said
            store.write(keys[index], content)
            swept.lights[index] = store.read(keys[index])
        progress(label, done, total)
    _remark(run, swept, keys)
    if not any(found is not None for found in swept.lights):
        first = next(iter(swept.broken.values()), "there are none.")
        raise InputError(f"no checkpoint of {run.name} could be measured: {first}")
    return swept


def _remark(run: TrainingRun, swept: Swept, keys: dict[int, str]) -> None:
    """Add what was said of each checkpoint when it was loaded, and which are the same."""
    seen: dict[str, str] = {}
    for index, (checkpoint, found) in enumerate(zip(run.checkpoints, swept.lights, strict=True)):
        if found is None:
            continue
        said = [swept.notes.get(checkpoint.name, ""), found.note]
        if (before := seen.setdefault(keys[index], checkpoint.name)) != checkpoint.name:
            said.append(f"What is looked at there is the same as in {before}.")
        if told := " ".join(filter(None, said)):
            swept.notes[checkpoint.name] = told
