"""One case in a process of its own: a copy of this one, with limits on time and memory."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

SECONDS, MEMORY = 60, 3_000_000_000
HANG = -1  # in place of an exit code


@dataclass(frozen=True)
class Ended:
    """How a case ended: exit code (a signal's number is negative too), output, seconds."""

    code: int
    out: str
    err: str
    seconds: float


def run_case(arguments: list[str], folder: Path) -> Ended:
    """Run the command line on these arguments in a forked process, with `folder` as its own."""
    began = time.monotonic()
    out, err = folder / ".stdout", folder / ".stderr"
    child = os.fork()
    if child == 0:
        _be_case(arguments, folder, out, err)
    code = _wait(child, began)
    texts = [p.read_text(encoding="utf-8", errors="replace") for p in (out, err)]
    for path in (out, err):
        path.unlink()
    return Ended(code, *texts, time.monotonic() - began)


def _be_case(arguments: list[str], folder: Path, out: Path, err: Path) -> None:
    code = 99
    try:
        os.setsid()
        for number, path in ((1, out), (2, err)):
            os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY), number)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.chdir(folder)
        from sinkscope.cli import main

        try:
            main(arguments)
        except SystemExit as ended:
            code = int(ended.code or 0)
        except BaseException:  # noqa: BLE001 - what passes through main is what is looked for
            import traceback

            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _wait(child: int, began: float) -> int:
    while time.monotonic() - began < SECONDS:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return HANG
