"""`timeline`: when the circuit formed, where it concentrated, and whether it has settled."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sinkscope.errors import InputError
from sinkscope.files import write_json
from sinkscope.provenance import environment
from sinkscope.result import Result
from sinkscope.schema import ModelInfo, PromptInfo, Summary
from sinkscope.stats import bootstrap
from sinkscope.subject.load import Subject
from sinkscope.training_runs.arrays import curves_of, run_arrays, run_dataset
from sinkscope.training_runs.checkpoint_metrics import CheckpointMetrics
from sinkscope.training_runs.course import Course, course, emerged_by
from sinkscope.training_runs.emergence import STRAIGHT, Emergence, emergence, noise
from sinkscope.training_runs.judging import baselines, judge, remaining_loss
from sinkscope.training_runs.logs import training_log
from sinkscope.training_runs.pilot import Pilot, TimelineSettings, run_pilot
from sinkscope.training_runs.settling import BOUNDS, HOLD, LEAST, QUIET
from sinkscope.training_runs.sources import Checkpoint, TrainingRun, find_runs
from sinkscope.training_runs.store import VERSION, Store
from sinkscope.training_runs.sweep import DISK_BUDGET, at_once, content_of, opened, sweep

Progress = Callable[[str, int, int], None]


@dataclass
class _Timed:
    """One run after its sweep."""

    run: TrainingRun
    pilot: Pilot
    checkpoints: list[Checkpoint]
    arrays: dict[str, np.ndarray]
    course: Course
    broken: dict[str, str]
    remarks: dict[str, str]
    model: dict[str, Any]


def default_cache() -> Path:
    """Where measured checkpoints are kept: $SINKSCOPE_CACHE, or ~/.cache/sinkscope."""
    return Path(os.environ.get("SINKSCOPE_CACHE", "~/.cache/sinkscope")).expanduser() / "timeline"


def timeline(
    sources: str | Path | Sequence[str | Path],
    looking: TimelineSettings | None = None,
    *,
    revisions: Sequence[str] | None = None,
    pattern: str | None = None,
    workers: int | str = 1,
    threads: int | None = None,
    cache: str | Path | None = None,
    disk_budget: float = DISK_BUDGET,
    offline: bool = False,
    progress: Progress | None = None,
    **changes: Any,
) -> Result:
    """Follow the circuit over the checkpoints of one or several training runs.

    sources             run folders, Hub ids, "bundled"; or folders that are checkpoints
                        themselves (see `sources.find_runs`)
    looking, changes    a TimelineSettings, or its fields: timeline(D, first_blocks="all")
    revisions, pattern  which checkpoints, and how their names say the step
    workers, threads, disk_budget  see `sweep.sweep`
    cache               folder of measured checkpoints; measuring goes on where it stopped

    Returns a Result with a group for each run. Raises InputError, Unsupported, OutOfResources.
    """
    looking = dataclasses.replace(looking or TimelineSettings(), **changes)
    progress = progress or (lambda label, done, total: None)
    given = [sources] if isinstance(sources, (str, Path)) else list(sources)
    at_once(workers)  # refuse a bad number before anything is loaded
    runs = find_runs(given, revisions=revisions, pattern=pattern, offline=offline)
    store = Store(Path(cache).expanduser() if cache is not None else default_cache())
    options = {"workers": workers, "threads": threads, "disk_budget": disk_budget}
    timed = [_time(run, looking, store, options, progress) for run in runs]
    return _result(timed, looking, given, threads)


def _time(
    run: TrainingRun,
    looking: TimelineSettings,
    store: Store,
    options: dict[str, Any],
    progress: Progress,
) -> _Timed:
    pilot, model = _pilot(run, looking, store, options["disk_budget"], progress)
    swept = sweep(
        run,
        pilot,
        store,
        dtype=looking.dtype,
        device=looking.device,
        progress=progress,
        **options,
    )
    measured = [
        (one, light, i)
        for i, (one, light) in enumerate(zip(run.checkpoints, swept.lights, strict=True))
        if light is not None
    ]
    checkpoints = [one for one, _, _ in measured]
    lights: list[CheckpointMetrics] = [light for _, light, _ in measured]
    arrays = run_arrays(checkpoints, lights, pilot)
    logged = {name: values[[i for *_, i in measured]] for name, values in training_log(run).items()}
    found = course(curves_of(checkpoints, arrays, lights))
    arrays = logged | arrays  # tokens that a checkpoint's name says go before logged ones
    arrays["stage"] = np.searchsorted(found.stages.starts, range(len(lights)), side="right")
    arrays["calm"] = np.array(found.settled.calm, dtype=np.int8)
    return _Timed(run, pilot, checkpoints, arrays, found, swept.broken, swept.notes, model)


def _pilot(
    run: TrainingRun,
    looking: TimelineSettings,
    store: Store,
    disk_budget: float,
    progress: Progress,
) -> tuple[Pilot, dict[str, Any]]:
    """The pilot on the last checkpoint that can be loaded, kept beside what was measured."""
    label = f"pilot of {run.name}"
    progress(label, 0, 1)
    reason = ""
    for checkpoint in reversed(run.checkpoints):
        try:
            path = store.folder / f"pilot-{_pilot_key(checkpoint, looking)}.json"
            if path.is_file():
                content = json.loads(path.read_text(encoding="utf-8"))
            else:
                budget = int(disk_budget * 1e9)
                with opened(checkpoint, None, looking.dtype, looking.device, budget) as (
                    subject,
                    _,
                ):
                    pilot = run_pilot(subject, looking)
                    content = {"pilot": pilot.to_json(), "model": _model(subject, run)}
                write_json(path, content)
        except InputError as error:
            reason = reason or str(error)
            continue
        progress(label, 1, 1)
        return Pilot.from_json(content["pilot"]), content["model"]
    raise InputError(f"no checkpoint of {run.name} can be loaded: {reason}")


def _pilot_key(checkpoint: Checkpoint, looking: TimelineSettings) -> str:
    text = "" if looking.text == "builtin" else _text_hash(looking.text)
    content = [VERSION, content_of(checkpoint, None), dataclasses.asdict(looking), text]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _text_hash(text: str) -> str:
    path = Path(text).expanduser()
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else text


def _model(subject: Subject, run: TrainingRun) -> dict[str, Any]:
    """ModelInfo of the run: its last checkpoint's."""
    names = ("architecture", "weights_sha256", "parameters", "dtype", "device")
    known = {name: subject.identity[name] for name in names}
    said = {k: v for k, v in subject.identity.items() if k == "note"}
    return {**known, **said, "id": run.name, "revision": subject.identity["revision"]}


def _result(
    timed: list[_Timed], looking: TimelineSettings, sources: list, threads: int | None
) -> Result:
    import xarray

    first = timed[0]
    prompts = first.pilot.view.prompts
    runs = {one.run.name: _run_summary(one) for one in timed}
    identity = {key: first.model[key] for key in ("dtype", "device")}
    command = {"name": "timeline", **dataclasses.asdict(looking)}
    command["sources"] = [str(s) if str(s).startswith("bundled") else Path(s).name for s in sources]
    about = environment(identity, looking.seed)
    if threads is not None:
        about.threads = threads
    summary = Summary(
        model=ModelInfo(
            **{k: v for k, v in first.model.items() if k not in {*identity, "id"}},
            id=_together(list(runs)),
        ),
        prompts=PromptInfo(
            kind=prompts.kind,
            n=len(prompts),
            length=prompts.length,
            sha256={prompts.bos: prompts.sha256},
            source=prompts.source,
        ),
        environment=about,
        command=command,
        timeline={**runs[first.run.name], "runs": runs, "judgement": _judgement(timed)},
    )
    groups = {
        f"timeline/{one.run.name}": run_dataset(
            one.checkpoints, one.arrays, {"unit": one.run.unit, "point": one.pilot.view.point}
        )
        for one in timed
    }
    return Result(summary, xarray.DataTree.from_dict(groups))


def _together(names: list[str]) -> str:
    """Runs in one breath; what else is said of the model is said of the first."""
    if len(names) > 3:
        return f"{names[0]} and {len(names) - 1} more runs"
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]


def _run_summary(one: _Timed) -> dict[str, Any]:
    """What is said of one run; every value is plain JSON."""
    arrays, steps = one.arrays, [c.step for c in one.checkpoints]
    found, view = one.course, one.pilot.view
    settled = found.settled
    emerged = _emergences(one, steps)
    last = -1
    concentration = {
        str(k): {
            "value": _plain(arrays["concentration"][last, i]),
            "low": _plain(arrays["concentration_low"][last, i]),
            "high": _plain(arrays["concentration_high"][last, i]),
        }
        for i, k in enumerate((1, 2, 3, 4))
    }
    return {
        "steps": steps,
        "unit": one.run.unit,
        "emergence_step": None if found.emergence is None else found.emergence.step,
        "emergence": emerged,
        "stages": _stages(found, steps),
        "stages_bic": [_plain(value) for value in found.stages.bic],
        "settled_step": None if settled.standing is None else steps[settled.standing],
        "settled": {
            "announced": None if settled.announced is None else steps[settled.announced],
            "since": None if settled.since is None else steps[settled.since],
            "bounds": BOUNDS,
            "rule": f"all changes within bounds from step s/{QUIET:g} to s, over at least {LEAST} "
            f"checkpoints, at {HOLD} checkpoints in a row",
        },
        "concentration": concentration,
        "first_blocks_late_share": bootstrap(arrays["sink_by_prompt"][last]).model_dump(),
        "norm_ratio": _plain(np.exp(arrays["log_norm_by_prompt"][last].mean())),
        "emergence_block": int(arrays["emergence_block"][last]),
        "loss": _plain(arrays["loss"][last]) if "loss" in arrays else None,
        "looked_at": {
            "first_blocks": view.horizon,
            "blocks": one.pilot.blocks,
            "read_point": view.point,
            "whole_models": one.pilot.whole,
        },
        "null": one.pilot.null,
        "broken": one.broken,
        "notes": _notes(one),
    }


def _emergences(one: _Timed, steps: list[int]) -> dict[str, Any]:
    """Emergence of the sink, of the norm and of the direction, each over its own null."""
    arrays, null = one.arrays, one.pilot.null
    found = {"sink": one.course.emergence}
    if isinstance(null, dict):
        norm = arrays["log_norm_by_prompt"]
        apart = norm - norm.mean(0)
        error = apart.std(1, ddof=1) / np.sqrt(norm.shape[1]) if norm.shape[1] > 1 else 0.0
        curve = norm.mean(1)
        found["norm"] = emergence(steps, curve, null["log_norm"], noise(curve, error, STRAIGHT))
        distance = arrays["distance"]
        found["direction"] = emergence(
            steps, distance, null["distance"], noise(distance, 0.0, STRAIGHT)
        )
    return {name: _emergence(value) for name, value in found.items()}


def _emergence(found: Emergence | None) -> dict[str, Any] | None:
    return None if found is None else dataclasses.asdict(found)


def _stages(found: Course, steps: list[int]) -> list[dict[str, Any]]:
    """First and last checkpoint of each stage, and the gap of the grid in which it began."""
    starts = [*found.stages.starts, len(steps)]
    return [
        {
            "start": steps[a],
            "stop": steps[b - 1],
            "low": steps[a - 1] if a else None,
            "high": steps[a],
        }
        for a, b in itertools.pairwise(starts)
    ]


def _judgement(timed: list[_Timed]) -> dict[str, Any]:
    """How well each signal tells the remaining loss of a run that was left out."""
    runs = {}
    for one in timed:
        arrays = one.arrays
        losses = [arrays[n] for n in ("loss", "validation_loss", "training_loss") if n in arrays]
        loss = next((one for one in losses if np.isfinite(one).all()), None)
        if loss is None:
            continue
        runs[one.run.name] = {
            "remaining": remaining_loss(loss),
            "sink": arrays["sink_by_prompt"].mean(1),
            "log_norm": arrays["log_norm_by_prompt"].mean(1),
            "concentration_2": arrays["concentration"][:, 1],
            "turn": arrays["turn"],
            "distance": arrays["distance"],
            **baselines([c.step for c in one.checkpoints], loss, arrays.get("gradient_norm")),
        }
    judged = judge(runs)
    if not judged:
        return {"signals": [], "reason": "three runs or more with a loss are needed to judge"}
    rows = [{k: _plain(v) for k, v in dataclasses.asdict(row).items()} for row in judged]
    return {"signals": rows, "reason": ""}


def _notes(one: _Timed) -> list[str]:
    notes = [*one.run.notes, *([one.model["note"]] if "note" in one.model else [])]
    if one.pilot.note:
        notes.append(one.pilot.note[0].upper() + one.pilot.note[1:] + ".")
    view = one.pilot.view
    if view.horizon < one.pilot.blocks:
        notes.append(
            f"Only the first {view.horizon} of {one.pilot.blocks} blocks were looked at: late "
            "shares are means over their heads, and C_k is a share of what they write."
        )
    if isinstance(one.pilot.null, str):
        notes.append(one.pilot.null[0].upper() + one.pilot.null[1:] + ".")
    notes += [f"{name} was skipped: {reason}" for name, reason in one.broken.items()]
    for remark in dict.fromkeys(one.remarks.values()):
        count = sum(other == remark for other in one.remarks.values())
        notes.append(f"{count} of {len(one.run.checkpoints)} checkpoints: {remark}.")
    first = one.checkpoints[0].step * QUIET > one.checkpoints[-1].step
    if first:
        notes.append(
            "The checkpoints cover too short a stretch of training to say whether it settled."
        )
    if not any(emerged_by(one.arrays["sink_by_prompt"].mean(1) > one.arrays["null"])):
        notes.append("No sink emerged, so there is nothing that could have settled.")
    return notes


def _plain(value: Any) -> Any:
    """A value as JSON has it: no arrays, and None for what is not finite."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return value
