"""One file for each measured checkpoint: written whole or not at all, found by what is in it.

The name of a file is the SHA-256 of the checkpoint's content, of the view, and of VERSION; so a
changed checkpoint, another setting or another way of measuring never meets an old number.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as decode_tensors
from safetensors.numpy import save as encode_tensors

from sinkscope.files import sweep_out, write_whole
from sinkscope.training_runs.checkpoint_metrics import CheckpointMetrics

VERSION = "5"  # of what `light` measures; a new one makes every stored file stale


@dataclass(frozen=True)
class Store:
    """A folder of measured checkpoints."""

    folder: Path

    def path(self, key: str) -> Path:
        """Where the file of a key is, or would be."""
        return self.folder / f"{key}.safetensors"

    def read(self, key: str) -> CheckpointMetrics | None:
        """What is stored under a key; None where nothing is, or where the file is damaged."""
        try:
            content = self.path(key).read_bytes()
        except FileNotFoundError:
            return None
        try:
            return decode(content)
        except (SafetensorError, KeyError, TypeError):
            return None

    def write(self, key: str, content: bytes) -> None:
        """Put a file in place by a rename, so that no reader ever sees a part of it."""
        write_whole(self.path(key), content)

    def sweep_out(self) -> None:
        """Remove what a write left behind that was killed."""
        sweep_out(self.folder)


def key_of(content: str, view: str) -> str:
    """Key of a checkpoint's content, given by its hash, under a view and conditions."""
    return hashlib.sha256(json.dumps([VERSION, content, view]).encode()).hexdigest()


def encode(light: CheckpointMetrics) -> bytes:
    """The arrays of a checkpoint as safetensors; equal arrays give equal bytes."""
    return encode_tensors({k: np.ascontiguousarray(v) for k, v in light.arrays().items()})


def decode(content: bytes) -> CheckpointMetrics:
    """Read back what `encode` wrote."""
    return CheckpointMetrics(**decode_tensors(content))
