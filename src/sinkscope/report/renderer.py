"""Charts are drawn in a process of their own.

The renderer is a JavaScript engine, which ends its whole process where memory is short. Here its
death can be told, and costs nothing but the chart.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sinkscope.errors import OutOfResources

_CHILD = """
import json, pathlib, sys
import vl_convert
for path, job in json.load(sys.stdin):
    make = getattr(vl_convert, job["call"], str)  # str: it is drawn already
    made = make(job["of"], **job["options"])
    made = made.encode("utf-8", "replace") if isinstance(made, str) else made
    pathlib.Path(path).write_bytes(made) if path else sys.stdout.buffer.write(made)
"""


@dataclass(frozen=True)
class Job:
    """One call of vl_convert: its function, what it is given, and by keyword."""

    call: str
    of: Any
    options: dict[str, Any] = field(default_factory=dict)


def draw(jobs: Mapping[str, Job], folder: Path) -> None:
    """Draw every job into the file of its name in `folder`."""
    _render([(str(folder / Path(name).name), asdict(job)) for name, job in jobs.items()])


def drawn(job: Job) -> str:
    """What one job gives, as text."""
    return _render([("", asdict(job))])


def _render(calls: list[tuple[str, dict[str, Any]]]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _CHILD],
        input=json.dumps(calls).encode(),
        capture_output=True,
        check=False,
    )
    if done.returncode < 0:
        raise OutOfResources(
            f"the renderer of charts died (signal {-done.returncode}), most likely for want of "
            "memory."
        )
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no reason given"]
        raise RuntimeError(f"a chart could not be drawn: {said[-1]}")
    return done.stdout.decode("utf-8")
