"""`timeline`: when the circuit formed, where it concentrated, and whether it has settled."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sinkscope.errors import InputError
from sinkscope.files import expanded, prove_writable
from sinkscope.frame import Progress, silent
from sinkscope.progress import shown
from sinkscope.provenance import environment
from sinkscope.result import Result
from sinkscope.schema import ModelInfo, PromptInfo, Summary
from sinkscope.settings import CheckpointSettings, TimelineSettings
from sinkscope.training_runs.arrays import curves_of, run_arrays, run_dataset
from sinkscope.training_runs.checkpoint import TrainingRun
from sinkscope.training_runs.course import course
from sinkscope.training_runs.logs import training_log
from sinkscope.training_runs.measured import measure_checkpoints
from sinkscope.training_runs.pilot_cache import cached_pilot
from sinkscope.training_runs.record import RunRecord
from sinkscope.training_runs.sources import find_runs
from sinkscope.training_runs.store import Store
from sinkscope.training_runs.summary import timeline_summary
from sinkscope.workers.pool import at_once


def default_cache() -> Path:
    """Where measured checkpoints are kept: $SINKSCOPE_CACHE, or ~/.cache/sinkscope."""
    return expanded(os.environ.get("SINKSCOPE_CACHE", "~/.cache/sinkscope")) / "timeline"


@shown
def timeline(
    sources: str | Path | Sequence[str | Path],
    settings: TimelineSettings | None = None,
    checkpoints: CheckpointSettings | None = None,
    *,
    progress: Progress = silent,
    **changes: Any,
) -> Result:
    """Follow the circuit over the checkpoints of one or several training runs.

    sources      run folders, Hub ids, "bundled"; or folders that are checkpoints themselves (see
                 `sources.find_runs`)
    settings     what is measured in every checkpoint
    checkpoints  which checkpoints, and how they are gone through; it goes on where it stopped
    changes      fields of either: timeline(D, first_blocks="all", workers=2)
    progress     called as progress(label, done, total); by default a bar

    Returns a Result with a group for each run. Raises InputError, Unsupported, OutOfResources.
    """
    checkpoints = checkpoints or CheckpointSettings()
    own = {name: changes.pop(name) for name in vars(checkpoints) if name in changes}
    checkpoints = dataclasses.replace(checkpoints, **own)
    settings = dataclasses.replace(settings or TimelineSettings(), **changes)
    given = [sources] if isinstance(sources, (str, Path)) else list(sources)
    at_once(checkpoints.workers)  # refuse a bad number before anything is loaded
    names = checkpoints.revisions
    runs = find_runs(
        given,
        revisions=names.split(",") if isinstance(names, str) else names,
        pattern=checkpoints.pattern,
        offline=checkpoints.offline,
    )
    cache = default_cache() if checkpoints.cache is None else expanded(checkpoints.cache)
    prove_writable(cache)
    records = [_measure(run, settings, checkpoints, Store(cache), progress) for run in runs]
    _refuse_single(records)
    return _result(records, settings, given, checkpoints.threads)


def _measure(
    run: TrainingRun,
    settings: TimelineSettings,
    asked: CheckpointSettings,
    store: Store,
    progress: Progress,
) -> RunRecord:
    pilot, model = cached_pilot(run, settings, store, asked.disk_budget, progress)
    measured = measure_checkpoints(
        run,
        pilot,
        store,
        dtype=settings.dtype,
        device=settings.device,
        settings=asked,
        progress=progress,
    )
    at = [i for i, light in enumerate(measured.metrics) if light is not None]
    checkpoints = [run.checkpoints[i] for i in at]
    lights = [light for light in measured.metrics if light is not None]
    arrays = run_arrays(checkpoints, lights, pilot)
    logged = {name: values[at] for name, values in training_log(run).items()}
    found = course(curves_of(checkpoints, arrays, lights))
    arrays = logged | arrays  # tokens that a checkpoint's name says go before logged ones
    arrays["stage"] = np.searchsorted(found.stages.starts, range(len(lights)), side="right")
    arrays["calm"] = np.array(found.settled.calm, dtype=np.int8)
    return RunRecord(run, pilot, checkpoints, arrays, found, measured.broken, measured.notes, model)


def _refuse_single(records: list[RunRecord]) -> None:
    """Raise InputError where no run is left with two checkpoints, though one of them has more."""
    if any(len(one.checkpoints) > 1 for one in records):
        return
    for one in records:
        if one.broken:
            said = "; ".join(f"{name}: {why.rstrip('.')}" for name, why in one.broken.items())
            raise InputError(
                f"only {one.checkpoints[0].name} of {len(one.run.checkpoints)} checkpoints of "
                f"{one.run.name} could be measured, and a timeline follows two or more. {said}."
            )


def _result(
    records: list[RunRecord], settings: TimelineSettings, sources: list, threads: int | None
) -> Result:
    import xarray

    first = records[0]
    prompts = first.pilot.view.prompts
    identity = {key: first.model[key] for key in ("dtype", "device")}
    command = {"name": "timeline", **dataclasses.asdict(settings)}
    command["sources"] = [str(s) if str(s).startswith("bundled") else Path(s).name for s in sources]
    about = environment(identity, settings.seed)
    if threads is not None:
        about.threads = threads
    summary = Summary(
        model=ModelInfo(
            **{k: v for k, v in first.model.items() if k not in {*identity, "id"}},
            id=_together([one.run.name for one in records]),
        ),
        prompts=PromptInfo(
            kind=prompts.kind,
            n=len(prompts),
            length=prompts.length,
            sha256={prompts.bos: prompts.sha256},
            positions={prompts.bos: prompts.positions},
            source=prompts.source,
        ),
        environment=about,
        command=command,
        timeline=timeline_summary(records),
    )
    groups = {
        f"timeline/{one.run.name}": run_dataset(
            one.checkpoints, one.arrays, {"unit": one.run.unit, "point": one.pilot.view.point}
        )
        for one in records
    }
    return Result(summary, xarray.DataTree.from_dict(groups))


def _together(names: list[str]) -> str:
    """Runs in one breath; what else is said of the model is said of the first."""
    if len(names) > 3:
        return f"{names[0]} and {len(names) - 1} more runs"
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
