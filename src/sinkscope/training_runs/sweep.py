"""Measure every checkpoint of a run: one checkpoint, one task.

A task is idempotent: its result depends on the checkpoint's content and on the view alone. What was
measured is stored whole or not at all by the process that runs the sweep, so a sweep that was
killed goes on where it was. A broken checkpoint is reported and skipped. Tasks run here, in local
processes, or on Ray.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from sinkscope.errors import InputError, OutOfResources, SinkscopeError
from sinkscope.frame import Progress, silent
from sinkscope.subject.folder import check_folder
from sinkscope.subject.load import Subject, load
from sinkscope.subject.weights import load_config
from sinkscope.training_runs.checkpoint_metrics import CheckpointMetrics, light
from sinkscope.training_runs.hub import fetch_first_blocks
from sinkscope.training_runs.partial import content_hash, load_first_blocks, plan_blocks, quiet
from sinkscope.training_runs.pilot import Pilot, view_hash
from sinkscope.training_runs.sources import Checkpoint, TrainingRun
from sinkscope.training_runs.store import Store, encode, key_of

ATTEMPTS = 3  # a worker that dies (memory) takes its task with it; the task is tried again
DISK_BUDGET = 20.0  # GB
WATCH = 1.0  # seconds between a worker's looks at whether its parent still lives


@dataclass(frozen=True)
class Task:
    """Everything a worker needs, as plain values."""

    index: int
    checkpoint: Checkpoint
    pilot: dict[str, Any]
    dtype: str
    device: str
    threads: int
    budget: int


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
    view = view_hash(pilot.view)
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
            except (SinkscopeError, OSError) as error:
                swept.broken[checkpoint.name] = str(error)
                done += 1
                continue
            stored = store.read(keys[index])
            if stored is not None:
                swept.lights[index] = stored
                done += 1
                progress(label, done, total)
                continue
            count = torch.get_num_threads() if threads is None else threads
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


def content_of(checkpoint: Checkpoint, pilot: Pilot | None) -> str:
    """What identifies the content that is measured: a Hub commit, or a hash of what is read.

    pilot  decides which blocks are read; None: all
    """
    if checkpoint.commit is not None:
        return f"{checkpoint.place}@{checkpoint.commit}/{checkpoint.subfolder}"
    folder = Path(checkpoint.place)
    check_folder(folder, False, False)
    common = {"revision": None, "local_files_only": True, "trust_remote_code": False}
    plan = plan_blocks(load_config(str(folder), common), None if pilot is None else _blocks(pilot))
    return content_hash(folder, plan)


@contextmanager
def opened(
    checkpoint: Checkpoint, blocks: int | None, dtype: str, device: str, budget: int
) -> Iterator[tuple[Subject, str]]:
    """Load a checkpoint (None: the whole model); what was downloaded for it is dropped again.

    Gives the subject and what is to be remarked about the download, or "".

    budget  bytes that the download may take; OutOfResources is raised before more is fetched
    """
    if checkpoint.commit is None:
        yield _load(Path(checkpoint.place), blocks, dtype, device), ""
        return
    folder = Path(tempfile.mkdtemp(prefix="sinkscope-"))
    try:
        note = fetch_first_blocks(checkpoint, blocks, folder, budget)
        yield _load(folder, blocks, dtype, device), note
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _load(folder: Path, blocks: int | None, dtype: str, device: str) -> Subject:
    if blocks is None:
        with quiet():
            return load(folder, dtype=dtype, device=device)
    return load_first_blocks(folder, blocks, dtype=dtype, device=device)


def _blocks(pilot: Pilot) -> int | None:
    """Number of first blocks that are loaded; None: the whole model."""
    return None if pilot.whole else pilot.view.horizon


def measure(task: Task) -> tuple[int, bytes | None, str]:
    """Do one task: (index, encoded light set, remark or ""), or (index, None, what is wrong)."""
    torch.set_num_threads(task.threads)
    pilot = Pilot.from_json(task.pilot)
    blocks = _blocks(pilot)
    try:
        with opened(task.checkpoint, blocks, task.dtype, task.device, task.budget) as found:
            subject, note = found
            return task.index, encode(light(subject, pilot.view)), note
    except OutOfResources:
        raise
    except SinkscopeError as error:
        return task.index, None, str(error)
    except (RuntimeError, ValueError, KeyError, TypeError, OSError, IndexError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return task.index, None, f"it cannot be measured ({type(error).__name__}: {first})"


Results = Iterator[tuple[int, bytes | None, str]]


@contextmanager
def _runner(workers: int | str) -> Iterator[Callable[[Iterator[Task]], Results]]:
    if _is_ray(workers):
        from sinkscope.training_runs.on_ray import ray_results

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
