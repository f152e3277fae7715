"""What takes CPU time alone, made by a process of its own while the GPU is busy."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from gpu_parts.common import Run
from gpu_parts.cost import build
from gpu_parts.training import recipe
from sinkscope.lab.data import Data, prepare

MODEL, WAIT = "medium.pt", 60


def make(kept: Path, corpus: Path | None, seed: int) -> None:
    """The medium model of the cost section, then the encoded text of the training section."""
    part = kept / "medium.part"
    torch.save(build(seed, tiny=False), part)
    part.rename(kept / MODEL)
    if corpus is not None:
        prepare(recipe(tiny=False), corpus, kept)


def medium(run: Run) -> tuple[Any, Any]:
    """Model and tokenizer of the cost section, from the other process unless it takes too long."""
    kept = run.options.kept
    if run.tiny or not _there(run, kept, MODEL):
        return build(run.seed, run.tiny)
    return torch.load(kept / MODEL, weights_only=False)  # a file of our own


def text(run: Run) -> Data:
    """What models are trained on; the bundled excerpt without a corpus."""
    plan, corpus = recipe(run.tiny), run.options.corpus
    if run.tiny or corpus is None:
        return prepare(recipe(run.tiny, excerpt=True), None)
    _there(run, run.options.kept, "*/encoded.json")
    return prepare(plan, corpus, run.options.kept)


def _there(run: Run, kept: Path | None, name: str) -> bool:
    end = time.time() + min(WAIT, run.left() / 2)
    while kept is not None and time.time() < end:
        if list(kept.glob(name)):
            return True
        time.sleep(0.2)
    return False
