"""Many cases in one process, a fork of this one, with limits on the time and memory of each.

A process that is killed by a case, or hangs in it, costs that case alone: the rest goes on in a new
one. What was not answered among others is tried again in a process of its own.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import resource
import select
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TextIO

SECONDS, MEMORY = 60, 3_000_000_000
HANG = -1  # in place of an exit code
MOST_SAID = 1 << 20  # characters of output that are kept
Trial = tuple[str, "Ended"]  # how a case ended in a word, and in numbers


@dataclass(frozen=True)
class Ended:
    """How a case ended: exit code (a signal's number is negative too), output, seconds."""

    code: int
    out: str = ""
    err: str = ""
    seconds: float = 0.0


def in_processes(trials: list[Callable[[], Trial]], batch: int) -> Iterator[Trial]:
    """What comes of each trial, in order; so many of them share a process."""
    done = 0
    while done < len(trials):
        for trial in _one_process(trials[done : done + batch]):
            done += 1
            yield trial


def _one_process(trials: list[Callable[[], Trial]]) -> Iterator[Trial]:
    """The trials up to the first that kills their process, or hangs in it."""
    back, forth = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(back)
        _answer(trials, forth)
    os.close(forth)
    status = None
    try:
        with os.fdopen(back, "rb", buffering=0) as pipe:
            for _ in trials:
                trial = _received(pipe, SECONDS)
                if trial is None:
                    status = _ended(child)
                    yield ("hang", Ended(HANG)) if status is None else ("signal", Ended(status))
                    return
                yield trial
    finally:
        if status is None:
            _kill(child)


def _answer(trials: list[Callable[[], Trial]], forth: int) -> None:
    """In the new process: try one after the other, and send what came of each."""
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for trial in trials:
            content = pickle.dumps(trial())
            content = len(content).to_bytes(8, "little") + content
            while content:
                content = content[os.write(forth, content) :]
    except BaseException:  # noqa: BLE001 - a fault of the suite itself
        traceback.print_exc()
    finally:
        os._exit(99)


def _received(pipe: Any, seconds: float) -> Trial | None:
    """The next trial that was sent; None where none comes in that time, or ever."""
    if not select.select([pipe], [], [], seconds)[0]:
        return None
    size = pipe.read(8)
    if len(size) < 8:
        return None
    content, wanted = b"", int.from_bytes(size, "little")
    while len(content) < wanted and (more := pipe.read(wanted - len(content))):
        content += more
    return pickle.loads(content) if len(content) == wanted else None


def _ended(child: int) -> int | None:
    """The exit code of a process whose pipe was closed; None where it still runs."""
    for _ in range(100):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    return None


def _kill(child: int) -> None:
    for kill in (os.killpg, os.kill):  # a group there is only once it has made one
        with contextlib.suppress(ProcessLookupError):
            kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def run_here(arguments: list[str], folder: Any) -> Ended:
    """Run the command line on these arguments in this process, with `folder` as its own."""
    began = time.monotonic()
    here = os.getcwd()
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as out,
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as err,
    ):
        held = os.dup(1), os.dup(2), sys.stdout, sys.stderr
        try:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            sys.stdout, sys.stderr = out, err
            os.chdir(folder)
            code = _exit_code(arguments)
        finally:
            os.chdir(here)
            os.dup2(held[0], 1)
            os.dup2(held[1], 2)
            os.close(held[0])
            os.close(held[1])
            sys.stdout, sys.stderr = held[2:]
        return Ended(code, _said(out), _said(err), time.monotonic() - began)


def _exit_code(arguments: list[str]) -> int:
    from sinkscope.cli import main

    try:
        main(arguments)
    except SystemExit as ended:
        return int(ended.code or 0)
    except BaseException:  # noqa: BLE001 - what passes through main is what is looked for
        traceback.print_exc()
    return 99


def _said(file: TextIO) -> str:
    file.flush()
    file.seek(0)
    return file.read(MOST_SAID)
