"""One checkpoint, one task: load what is looked at, measure it, drop what was downloaded."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from sinkscope.errors import (
    OutOfResources,
    SinkscopeError,
    TooLarge,
    is_interrupt,
    is_out_of_memory,
    reason,
)
from sinkscope.subject.adapters import find_adapter
from sinkscope.subject.folder import check_folder, check_weights
from sinkscope.subject.load import Subject, load
from sinkscope.subject.plan import plan_blocks, quiet
from sinkscope.subject.weights import LOCAL, load_config
from sinkscope.training_runs.assembled import assembled, content, needs_assembly, note
from sinkscope.training_runs.checkpoint import Checkpoint
from sinkscope.training_runs.checkpoint_metrics import light
from sinkscope.training_runs.hub import fetch_first_blocks
from sinkscope.training_runs.partial import content_hash, load_first_blocks
from sinkscope.training_runs.pilot import Pilot
from sinkscope.training_runs.store import encode


@dataclass(frozen=True)
class Task:
    """Everything a worker needs."""

    index: int
    checkpoint: Checkpoint
    pilot: Pilot
    dtype: str
    device: str
    threads: int
    budget: int


def content_of(checkpoint: Checkpoint, pilot: Pilot | None) -> str:
    """What identifies the content that is measured: a Hub commit, or a hash of what is read.

    pilot  decides which blocks are read; None: all
    """
    if checkpoint.commit is not None:
        return f"{checkpoint.place}@{checkpoint.commit}/{checkpoint.subfolder}"
    folder = Path(checkpoint.place)
    if needs_assembly(folder):
        return content(folder)
    adapter = find_adapter(folder)
    if adapter is not None:
        below = Path(adapter.base)
        of = content_of(replace(checkpoint, place=adapter.base), None) if below.is_dir() else ""
        return adapter.sha256(of or adapter.base)
    check_folder(folder)
    config = load_config(str(folder), LOCAL)
    check_weights(folder, config.to_dict(), None)
    plan = plan_blocks(config, None if pilot is None else _blocks(pilot))
    return content_hash(folder, plan)


def note_of(checkpoint: Checkpoint) -> str:
    """What is to be said of how a checkpoint is read, whether or not it is measured again."""
    folder = Path(checkpoint.place)
    local = checkpoint.commit is None and needs_assembly(folder)
    return note(folder) if local else ""


@contextmanager
def opened(
    checkpoint: Checkpoint, blocks: int | None, dtype: str, device: str, budget: int
) -> Iterator[tuple[Subject, str]]:
    """Load a checkpoint (None: the whole model); what was downloaded for it is dropped again.

    Gives the subject and what is to be remarked about the download, or "".

    budget  bytes that the download may take; OutOfResources is raised before more is fetched
    """
    if checkpoint.commit is None:
        place = Path(checkpoint.place)
        if not needs_assembly(place):
            yield _load(place, blocks, dtype, device), ""
            return
        with assembled(place, blocks) as whole:
            yield _load(whole, blocks, dtype, device), ""
        return
    folder = Path(tempfile.mkdtemp(prefix="sinkscope-"))
    try:
        remark = fetch_first_blocks(checkpoint, blocks, folder, budget)
        yield _load(folder, blocks, dtype, device), remark
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _load(folder: Path, blocks: int | None, dtype: str, device: str) -> Subject:
    if blocks is None or find_adapter(folder) is not None:  # an adapter is merged into the whole
        with quiet():
            return load(folder, dtype=dtype, device=device)
    return load_first_blocks(folder, blocks, dtype=dtype, device=device)


def _blocks(pilot: Pilot) -> int | None:
    """Number of first blocks that are loaded; None: the whole model."""
    return None if pilot.whole else pilot.view.horizon


def measure(task: Task) -> tuple[int, bytes | None, str]:
    """Do one task: (index, encoded metrics, remark or ""), or (index, None, what is wrong)."""
    torch.set_num_threads(task.threads)
    pilot, blocks = task.pilot, _blocks(task.pilot)
    try:
        with opened(task.checkpoint, blocks, task.dtype, task.device, task.budget) as found:
            subject, remark = found
            pilot.refuse_other(subject)
            return task.index, encode(light(subject, pilot.view)), remark
    except TooLarge as error:
        return task.index, None, reason(error)
    except OutOfResources:
        raise
    except BaseException as error:  # a broken checkpoint is a row, whatever breaks
        if is_interrupt(error):
            raise
        if not isinstance(error, SinkscopeError) and is_out_of_memory(error):
            raise OutOfResources(f"no memory for {task.checkpoint.name}.") from None
        return task.index, None, reason(error)
