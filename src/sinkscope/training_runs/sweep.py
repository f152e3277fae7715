"""Measure every checkpoint of a run: one checkpoint, one task.

A task is idempotent: its result depends on the checkpoint's content and on the view alone. What was
measured is stored whole or not at all by the process that runs the sweep, so a sweep that was
killed goes on where it was. A broken checkpoint is reported and skipped. Tasks run here, in local
processes, or on Ray.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context

import torch

from sinkscope.errors import InputError, SinkscopeError
from sinkscope.frame import Progress, silent
from sinkscope.training_runs.checkpoint import TrainingRun
from sinkscope.training_runs.checkpoint_metrics import CheckpointMetrics
from sinkscope.training_runs.on_ray import ray_results
from sinkscope.training_runs.pilot import Pilot, view_hash
from sinkscope.training_runs.store import Store, conditions, key_of
from sinkscope.training_runs.task import Results, Task, content_of, measure, note_of

ATTEMPTS = 3  # a worker that dies (memory) takes its task with it; the task is tried again
DISK_BUDGET = 20.0  # GB
WATCH = 1.0  # seconds between a worker's looks at whether its parent still lives


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
    disk_budget: float = DISK_BUDGET,
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
    with _runner(workers) as results:
        for index, content, said in results(tasks()):
            done += 1
            if content is None:
                swept.broken[run.checkpoints[index].name] = said
            else:
                if said:
                    swept.notes[run.checkpoints[index].name] = said
                store.write(keys[index], content)
                swept.lights[index] = store.read(keys[index])
            progress(label, done, total)
    if not any(found is not None for found in swept.lights):
        first = next(iter(swept.broken.values()), "there are none.")
        raise InputError(f"no checkpoint of {run.name} could be measured: {first}")
    return swept


@contextmanager
def _runner(workers: int | str) -> Iterator[Callable[[Iterator[Task]], Results]]:
    if _is_ray(workers):
        yield lambda tasks: ray_results(tasks, str(workers))
    elif at_once(workers) == 1:
        yield _in_this_process
    else:
        yield lambda tasks: _in_processes(tasks, at_once(workers))


def _is_ray(workers: int | str) -> bool:
    return isinstance(workers, str) and workers.startswith("ray")


def at_once(workers: int | str) -> int:
    """How many tasks may run at once; on Ray as many as this machine has processors."""
    if _is_ray(workers):
        return os.cpu_count() or 1
    try:
        count = int(workers)
    except ValueError:
        count = 0
    if count < 1:
        raise InputError(f"--workers {workers!r} is neither a number, ray nor ray://address.")
    return count


def _in_this_process(tasks: Iterator[Task]) -> Results:
    threads = torch.get_num_threads()
    try:
        for task in tasks:
            yield measure(task)
    finally:
        torch.set_num_threads(threads)


def _in_processes(tasks: Iterator[Task], count: int) -> Results:
    """Keep `count` processes busy; a pool that lost a worker is made anew."""
    queue: list[tuple[Task, int]] = []
    exhausted = retrying = False
    while True:
        lost: list[tuple[Task, int]] = []
        with ProcessPoolExecutor(
            count, get_context("spawn"), _follow_parent, (os.getpid(),)
        ) as pool:
            running: dict[Future, tuple[Task, int]] = {}
            while not lost:
                # after a loss one at a time, so that the task that kills its worker stands alone
                most = 1 if queue or retrying else 2 * count
                while len(running) < most and (queue or not exhausted):
                    entry = queue.pop(0) if queue else None
                    if entry is None:
                        task = next(tasks, None)
                        if task is None:
                            exhausted = True
                            break
                        entry = (task, 1)
                    retrying = entry[1] > 1
                    running[pool.submit(measure, entry[0])] = entry
                if not running:
                    return
                ended, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in ended:
                    entry = running.pop(future)
                    try:
                        yield future.result()
                    except BrokenProcessPool:
                        lost.append(entry)
            lost += list(running.values())
        for task, attempts in lost:
            if attempts < ATTEMPTS:
                queue.append((task, attempts + 1))
            else:
                yield task.index, None, "its worker died three times, perhaps for want of memory."


def _follow_parent(parent: int) -> None:
    """A worker must not outlive a sweep that was killed."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
