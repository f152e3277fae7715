"""One run, one task: load or build the model, run the command, give all files of its folder."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sinkscope.detect.scan import scan
from sinkscope.errors import is_interrupt, reason
from sinkscope.job import run
from sinkscope.known.constructed import Truth, build_in_memory, draw_spec
from sinkscope.model_runs.plan import LOADING, PlannedRun, settings_of
from sinkscope.model_runs.rows import ROW, RowFile, rows_of
from sinkscope.subject.load import DTYPES, Subject, load
from sinkscope.subject.plan import quiet

COMMANDS = {"run": run, "scan": scan}


@dataclass(frozen=True)
class RunTask:
    """Everything a worker needs, as plain values.

    folder  what the folder of the run is called
    key     of the content, settings and conditions that it is measured under
    """

    index: int
    planned: PlannedRun
    do: str
    folder: str
    key: str
    threads: int
    offline: bool


def measure(task: RunTask) -> tuple[int, dict[str, bytes] | None, str]:
    """Do one task: (index, file -> content, ""), or (index, None, what is wrong).

    Whatever breaks is of this model: a model too large for the memory too ends nothing else.
    """
    torch.set_num_threads(task.threads)
    began = time.monotonic()
    try:
        with quiet(), tempfile.TemporaryDirectory(prefix="sinkscope-") as place:
            subject, truth = _opened(task)
            settings = settings_of(task.do, task.planned.settings)
            result = COMMANDS[task.do](subject, settings)
            result.save(place)
            files = {each.name: each.read_bytes() for each in Path(place).iterdir()}
        about = {"model": task.planned.entry.called, "settings": task.planned.varied}
        rows = rows_of(result, task.folder, **about)
        for one in rows:
            one.expected = truth.verdict if truth and one.bos == truth.bos else None
    except BaseException as error:  # a broken model is a row, whatever breaks
        if is_interrupt(error):
            raise
        return task.index, None, reason(error)
    row = RowFile(key=task.key, seconds=round(time.monotonic() - began, 1), rows=rows)
    return task.index, {**files, ROW: (row.model_dump_json(indent=1) + "\n").encode()}, ""


def _opened(task: RunTask) -> tuple[Subject, Truth | None]:
    """The model, and the truth of a constructed one."""
    entry = task.planned.entry
    how: dict[str, Any] = {name: task.planned.settings[name] for name in LOADING}
    if not entry.constructed:
        how |= {"revision": entry.revision, "gguf_file": entry.gguf_file}
        return load(entry.model, offline=task.offline, **how), None
    spec = draw_spec(entry.constructed, entry.seed, **entry.drawn)
    model, tokenizer, truth = build_in_memory(spec)
    model = model.to(how["device"], DTYPES[how["dtype"]])
    return Subject.from_model(model, tokenizer, entry.called), truth
