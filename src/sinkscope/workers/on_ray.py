"""Tasks on Ray: many machines, or many processes of this one (extra `ray`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from sinkscope.errors import InputError, first_line
from sinkscope.workers.task import Outcome, Task

AHEAD = 2  # tasks in flight for each processor of the cluster, so that none waits for the driver
RETRIES = 3  # a worker that dies takes its task with it; Ray starts it again


def ray_results(
    tasks: Iterator[Task], work: Callable[[Task], Outcome], address: str
) -> Iterator[Outcome]:
    """Run tasks on the Ray that runs already, on the one at ray://.., or on one started here.

    Folders of models must lie at the same place on every machine; results come back to the
    process that asked, which alone stores them.
    """
    try:
        import ray
    except ImportError:
        raise InputError("--workers ray needs the extra: pip install 'sinkscope[ray]'.") from None
    started = not ray.is_initialized()
    if started:
        _connect(ray, address)
    try:
        yield from _run(ray, tasks, work)
    finally:
        if started:
            ray.shutdown()


def _connect(ray: Any, address: str) -> None:
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if "://" in address:
            ray.init(address=address, **quiet)
            return
        try:
            ray.init(address="auto", **quiet)
        except ConnectionError:
            ray.init(include_dashboard=False, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InputError(f"Ray at {address} does not answer: {first_line(error)}") from None


def _run(ray: Any, tasks: Iterator[Task], work: Callable[[Task], Outcome]) -> Iterator[Outcome]:
    remote = ray.remote(max_retries=RETRIES, num_cpus=1)(work)
    most = AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
    running: dict[Any, Task] = {}
    exhausted = False
    while running or not exhausted:
        while len(running) < most and not exhausted:
            task = next(tasks, None)
            if task is None:
                exhausted = True
            else:
                running[remote.remote(task)] = task
        if not running:
            return
        for reference in ray.wait(list(running), num_returns=1)[0]:
            task = running.pop(reference)
            try:
                yield ray.get(reference)
            except ray.exceptions.RayTaskError as error:
                raise error.cause if isinstance(error.cause, Exception) else error from None
            except ray.exceptions.RayError as error:
                yield task.index, None, f"its worker was lost: {first_line(error)}"
