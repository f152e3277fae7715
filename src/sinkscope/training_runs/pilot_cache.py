"""The pilot of a run, kept beside the checkpoints that were measured."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from sinkscope.errors import InputError, OutOfResources, SinkscopeError, TooLarge
from sinkscope.files import write_json
from sinkscope.frame import Progress
from sinkscope.provenance import conditions
from sinkscope.settings import TimelineSettings
from sinkscope.subject.documents import text_content
from sinkscope.subject.load import Subject
from sinkscope.training_runs.checkpoint import Checkpoint, TrainingRun
from sinkscope.training_runs.hub import LARGEST_SMALL, SMALL
from sinkscope.training_runs.pilot import Pilot, blocks_read, run_pilot
from sinkscope.training_runs.store import VERSION, Store
from sinkscope.training_runs.task import content_of, opened

_NAMES = ("architecture", "weights_sha256", "parameters", "dtype", "device")
_MODEL = {*_NAMES, "id", "revision"}
EARLIER = (0.25, 0.5, 0.75)  # parts of the run at which the pilot looks beside its end


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
    first: SinkscopeError | None = None
    budget = int(disk_budget * 1e9)
    for checkpoint in reversed(run.checkpoints):
        key = ""
        try:
            key = _pilot_key(run, checkpoint, settings)
            path = store.folder / f"pilot-{key}.json"
            content = _kept(path)
            if content is None:
                least = _least(run, settings, budget)
                with opened(checkpoint, None, settings.dtype, settings.device, budget) as found:
                    subject, _ = found
                    pilot = run_pilot(subject, settings, least)
                    content = {"pilot": pilot.to_json(), "model": _model(subject, run)}
                write_json(path, content)
        except OutOfResources as error:
            if key and not isinstance(error, TooLarge):  # this machine's, not this checkpoint's
                raise
            first = first or error
            continue
        except Exception as error:  # noqa: BLE001 - a broken checkpoint is a row of the timeline, whatever breaks
            known = isinstance(error, SinkscopeError)
            first = first or (error if known else InputError(f"{error!r}."))  # type: ignore[assignment]
            continue
        progress(label, 1, 1)
        return Pilot.from_json(content["pilot"]), content["model"]
    names = ", ".join(checkpoint.name for checkpoint in run.checkpoints)
    raise type(first or InputError())(
        f"no checkpoint of {run.name} ({names}) can be loaded: {first}"
    )


def _kept(path: Path) -> dict[str, Any] | None:
    """What is kept of a pilot; None where nothing is, or where it is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        Pilot.from_json(content["pilot"])
        return content if content["model"].keys() >= _MODEL else None
    except Exception:  # noqa: BLE001 - whatever a damaged file makes of it: it is measured again
        return None


def _least(run: TrainingRun, settings: TimelineSettings, budget: int) -> int:
    """First blocks that a quarter, half and three quarters of the run need (`blocks_read`).

    A checkpoint that cannot be read is passed over; the sweep will say so. Raises OutOfResources.
    """
    if settings.first_blocks != "auto":
        return 0
    needed = [0]
    for place in EARLIER:
        checkpoint = run.checkpoints[int(place * len(run.checkpoints))]
        try:
            with opened(checkpoint, None, settings.dtype, settings.device, budget) as (subject, _):
                needed.append(blocks_read(subject, settings))
        except Exception as error:
            if isinstance(error, OutOfResources) and not isinstance(error, TooLarge):
                raise
    return max(needed)


def _pilot_key(run: TrainingRun, checkpoint: Checkpoint, settings: TimelineSettings) -> str:
    text = text_content(settings.text)
    how = conditions(settings.dtype, settings.device, torch.get_num_threads())
    content = [VERSION, content_of(checkpoint, None), dataclasses.asdict(settings), text, how]
    content.append([one.name for one in run.checkpoints])  # they have a say in what is looked at
    if checkpoint.commit is None:
        content.append(_tokenizer_hash(Path(checkpoint.place)))
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _tokenizer_hash(folder: Path) -> str:
    """Hash of all small files of a folder: those that make its tokenizer are among them."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in SMALL and path.is_file() and path.stat().st_size < LARGEST_SMALL:
            digest.update(path.name.encode("utf-8", "surrogateescape") + path.read_bytes())
    return digest.hexdigest()


def _model(subject: Subject, run: TrainingRun) -> dict[str, Any]:
    """ModelInfo of the run: its last checkpoint's."""
    known = {name: subject.identity[name] for name in _NAMES}
    said = {k: v for k, v in subject.identity.items() if k == "note"}
    return {**known, **said, "id": run.name, "revision": subject.identity["revision"]}
