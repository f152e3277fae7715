"""Run tasks, and give what came of each as soon as it is there.

A worker that dies takes its task with it; the task is tried again, and in the end it is reported as
what it is, never the end of all others.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

import torch

from sinkscope.errors import InputError
from sinkscope.workers.on_ray import ray_results
from sinkscope.workers.task import Outcome, Task

ATTEMPTS = 3  # a worker that dies (memory) takes its task with it
WATCH = 1.0  # seconds between a worker's looks at whether its parent still lives


def results_of(
    tasks: Iterator[Task], work: Callable[[Task], Outcome], workers: int | str
) -> Iterator[Outcome]:
    """What comes of the tasks, in the order in which they end.

    work     a function of a module, since other processes import it
    workers  1: in this process; N: local processes; "ray" or "ray://..": on Ray

    An error that `work` raises ends all. Raises InputError for workers that are none of these.
    """
    if _is_ray(workers):
        return ray_results(tasks, work, str(workers))
    count = at_once(workers)
    return _in_this_process(tasks, work) if count == 1 else _in_processes(tasks, work, count)


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


def _is_ray(workers: int | str) -> bool:
    return isinstance(workers, str) and workers.startswith("ray")


def _in_this_process(tasks: Iterator[Task], work: Callable[[Task], Outcome]) -> Iterator[Outcome]:
    threads = torch.get_num_threads()
    try:
        for task in tasks:
            yield work(task)
    finally:
        torch.set_num_threads(threads)


def _in_processes(
    tasks: Iterator[Task], work: Callable[[Task], Outcome], count: int
) -> Iterator[Outcome]:
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
                    running[pool.submit(work, entry[0])] = entry
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
