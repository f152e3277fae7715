"""The pilot of a run, kept beside the checkpoints that were measured."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from sinkscope.errors import InputError
from sinkscope.files import write_json
from sinkscope.frame import Progress
from sinkscope.settings import BUILTIN, TimelineSettings
from sinkscope.subject.load import Subject
from sinkscope.training_runs.checkpoint import Checkpoint, TrainingRun
from sinkscope.training_runs.pilot import Pilot, run_pilot
from sinkscope.training_runs.store import VERSION, Store
from sinkscope.training_runs.task import content_of, opened


def cached_pilot(
    run: TrainingRun,
    settings: TimelineSettings,
    store: Store,
    disk_budget: float,
    progress: Progress,
) -> tuple[Pilot, dict[str, Any]]:
    """The pilot on the last checkpoint that can be loaded, kept beside what was measured."""
    label = f"pilot of {run.name}"
    progress(label, 0, 1)
    reason, budget = "", int(disk_budget * 1e9)
    for checkpoint in reversed(run.checkpoints):
        try:
            path = store.folder / f"pilot-{_pilot_key(checkpoint, settings)}.json"
            if path.is_file():
                content = json.loads(path.read_text(encoding="utf-8"))
            else:
                with opened(checkpoint, None, settings.dtype, settings.device, budget) as found:
                    subject, _ = found
                    pilot = run_pilot(subject, settings)
                    content = {"pilot": pilot.to_json(), "model": _model(subject, run)}
                write_json(path, content)
        except InputError as error:
            reason = reason or str(error)
            continue
        progress(label, 1, 1)
        return Pilot.from_json(content["pilot"]), content["model"]
    names = ", ".join(checkpoint.name for checkpoint in run.checkpoints)
    raise InputError(f"no checkpoint of {run.name} ({names}) can be loaded: {reason}")


def _pilot_key(checkpoint: Checkpoint, settings: TimelineSettings) -> str:
    text = "" if settings.text == BUILTIN else _text_hash(settings.text)
    content = [VERSION, content_of(checkpoint, None), dataclasses.asdict(settings), text]
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
