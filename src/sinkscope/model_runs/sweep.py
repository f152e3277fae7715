"""`sweep`: many models under many settings, a run each, on one page.

A run is kept in a folder of its own under OUT/runs, written whole or not at all by the process that
sweeps, with the key of what it was measured on. So a sweep that was killed goes on where it was,
measures nothing twice, and ends with the same bytes. A run that fails is a row with its reason; it
is tried again by the next sweep.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

import sinkscope
from sinkscope.errors import InputError, SinkscopeError
from sinkscope.files import expanded, latest, write_folder
from sinkscope.frame import Progress, silent
from sinkscope.model_runs.content import content_of
from sinkscope.model_runs.plan import PlannedRun, SweepPlan, read_plan
from sinkscope.model_runs.rows import ROW, RowFile, read_rows
from sinkscope.model_runs.task import RunTask, measure
from sinkscope.pace import span
from sinkscope.provenance import conditions
from sinkscope.report.sweep.page import RUNS, render_sweep
from sinkscope.result import REPORT, SUMMARY
from sinkscope.schema.sweep import FailedRun, SweepRow, SweepSummary
from sinkscope.subject.documents import text_content
from sinkscope.workers.pool import at_once, results_of

VERSION = "1"  # of what is kept of a run; a new one makes every kept run stale
INDEX, TIMES = "index.csv", "times.csv"


@dataclass(frozen=True)
class Sweep:
    """What came of a sweep.

    seconds   run -> what it took when it was measured
    measured  how many runs were measured now; the others were kept from before
    """

    summary: SweepSummary
    seconds: dict[str, float]
    measured: int

    @property
    def spent(self) -> str:
        """What was measured now, and what all runs took, in a sentence."""
        kept = len(self.seconds) - self.measured
        said = f"Measured now: {self.measured}" + (f", kept from before: {kept}" if kept else "")
        return f"{said}. All runs together took {span(sum(self.seconds.values()))} (times.csv)."


def sweep(
    file: str | Path,
    out: str | Path,
    *,
    workers: int | str = 1,
    threads: int | None = None,
    offline: bool = False,
    anew: bool = False,
    progress: Progress = silent,
) -> Sweep:
    """Run what a file describes, but for what `out` holds already; write page, summary and index.

    file     see `plan`
    out      OUT/runs holds a folder a run, as `Result.save` writes it; report.html, summary.json
             and index.csv beside it are of all, the same bytes however often it was interrupted;
             times.csv has the seconds
    workers  1: in this process; N: local processes; "ray" or "ray://..": on Ray
    threads  torch threads of each run; by default all threads of this process
    offline  never touch the network
    anew     measure what is kept too

    Raises InputError for a file that will not do and an `out` that holds something else,
    OutOfResources where the disk is full.
    """
    plan, out = read_plan(file), expanded(out)
    at_once(workers)
    _refuse_other(out)
    count = torch.get_num_threads() if threads is None else threads
    course = _Course(plan, out, progress)
    for done in results_of(course.tasks(count, offline, anew), measure, workers):
        course.take(*done)
    course.tell()
    runs = [course.found[index] for index in sorted(course.found)]
    seconds = {one.run: one.seconds for one in runs}
    summary = _summary(plan, runs, course.failed, count)
    _write(out, summary, seconds)
    return Sweep(summary, seconds, course.measured)


@dataclass
class _Course:
    """How far a sweep is.

    found     number of a run -> what is kept of it; failed: why there is nothing
    measured  how many runs were measured now
    """

    plan: SweepPlan
    out: Path
    progress: Progress
    found: dict[int, RowFile] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    measured: int = 0

    def tell(self) -> None:
        """Say how many runs are through."""
        done = len(self.found) + len(self.failed)
        self.progress(f"runs of {self.plan.name}", done, len(self.plan.runs))

    def tasks(self, threads: int, offline: bool, anew: bool) -> Iterator[RunTask]:
        """A task for each run that is not kept; for all of them if `anew`."""
        for index, planned in enumerate(self.plan.runs):
            self.tell()
            try:
                key = _key(self.plan, planned, threads, offline)
            except SinkscopeError as error:
                self.failed[index] = str(error)
                continue
            folder = planned.folder(key)
            kept = None if anew else read_rows(self.out / RUNS / folder)
            if kept is not None and kept.key == key:
                self.found[index] = kept
            else:
                yield RunTask(index, planned, self.plan.do, folder, key, threads, offline)

    def take(self, index: int, files: dict[str, bytes] | None, said: str) -> None:
        """Keep the files of a run; without them `said` is what went wrong."""
        if files is None:
            self.failed[index] = said
        else:
            row = self.found[index] = RowFile.model_validate_json(files[ROW])
            write_folder(self.out / RUNS / row.run, {n: _put(c) for n, c in files.items()})
            self.measured += 1
        self.tell()


def _write(out: Path, summary: SweepSummary, seconds: dict[str, float]) -> None:
    """Page, summary, index and times, all in one step."""
    times = [f"{run},{took}" for run, took in seconds.items()]
    texts = {
        SUMMARY: summary.model_dump_json(indent=2) + "\n",
        INDEX: index_csv(summary.rows),
        REPORT: render_sweep(summary),
        TIMES: "\n".join(["run,seconds", *times, ""]),
    }
    files = {name: _put(text.encode("utf-8", "replace")) for name, text in texts.items()}
    write_folder(out, files)


def _refuse_other(out: Path) -> None:
    """Raise InputError where a folder holds a result that is no sweep's."""
    place = latest(out, SUMMARY)
    if not place.is_file():
        return
    try:
        held = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        held = {}
    if not isinstance(held, dict) or not {"rows", "do"} <= held.keys():
        raise InputError(f"{out} holds the result of another command: choose another --out.")


def index_csv(rows: list[SweepRow]) -> str:
    """The rows as a table: settings in columns of their own, intervals in two."""
    settings = list(dict.fromkeys(name for row in rows for name in row.settings))
    plain = [name for name in SweepRow.model_fields if name not in ("settings", "late_share")]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    shares = ["late_share", "late_share_low", "late_share_high"]
    writer.writerow([*plain[:4], *settings, *plain[4:], *shares])
    for row in rows:
        held = row.model_dump(mode="json")
        measured = held["late_share"] or {"value": None, "low": None, "high": None}
        cells = [_cell(held[name]) for name in plain]
        varied = [_cell(row.settings.get(name)) for name in settings]
        writer.writerow([*cells[:4], *varied, *cells[4:], *measured.values()])
    return out.getvalue()


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, (list, dict)) else value


def _put(content: bytes) -> Callable[[Path], Any]:
    return partial(Path.write_bytes, data=content)


def _key(plan: SweepPlan, planned: PlannedRun, threads: int, offline: bool) -> str:
    """Hash of all that the files of a run depend on."""
    settings, entry = planned.settings, planned.entry
    how = conditions(settings["dtype"], settings["device"], threads)
    parts = [VERSION, sinkscope.__version__, plan.do, entry.called, settings, planned.varied, how]
    parts += [content_of(entry, offline), text_content(settings["text"])]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _summary(
    plan: SweepPlan, runs: list[RowFile], failed: dict[int, str], threads: int
) -> SweepSummary:
    varied = {name for planned in plan.runs for name in planned.varied}
    alike = {k: v for k, v in plan.runs[0].settings.items() if k not in varied}
    failures: list[FailedRun] = [
        {
            "model": plan.runs[index].entry.called,
            "settings": plan.runs[index].varied,
            "reason": reason,
        }
        for index, reason in sorted(failed.items())
    ]
    return SweepSummary(
        sinkscope=sinkscope.__version__,
        torch=torch.__version__,
        transformers=transformers.__version__,
        name=plan.name,
        do=plan.do,
        threads=threads,
        models=list(dict.fromkeys(planned.entry.called for planned in plan.runs)),
        runs=len(plan.runs),
        settings=alike,
        rows=[row for one in runs for row in one.rows],
        failed=failures,
    )
