"""One file for each measured checkpoint: written whole or not at all, found by what is in it.

The name of a file is the SHA-256 of the checkpoint's content, of the view, and of VERSION; so a
changed checkpoint, another setting or another way of measuring never meets an old number.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as decode_tensors
from safetensors.numpy import save as encode_tensors

from sinkscope.errors import InputError, OutOfResources
from sinkscope.training_runs.checkpoint_metrics import CheckpointMetrics

VERSION = "1"  # of what `light` measures; a new one makes every stored file stale

ABANDONED = 3600  # seconds after which a part of a file belongs to nobody


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
        """Remove what an interrupted write left behind an hour ago or more."""
        for left in self.folder.glob(".part-*"):
            if time.time() - left.stat().st_mtime > ABANDONED:
                left.unlink(missing_ok=True)


def key_of(content: str, view: str) -> str:
    """Key of a checkpoint's content under a view, each given by its hash."""
    return hashlib.sha256(json.dumps([VERSION, content, view]).encode()).hexdigest()


def encode(light: CheckpointMetrics) -> bytes:
    """The arrays of a checkpoint as safetensors; equal arrays give equal bytes."""
    return encode_tensors({k: np.ascontiguousarray(v) for k, v in light.arrays().items()})


def decode(content: bytes) -> CheckpointMetrics:
    """Read back what `encode` wrote."""
    return CheckpointMetrics(**decode_tensors(content))


def write_whole(path: Path, content: bytes | Iterable[bytes]) -> None:
    """Write a file, or its pieces, beside its place, and rename it.

    Raises InputError or OutOfResources.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".part-{os.getpid()}-{path.name}")
        try:
            with part.open("wb") as file:
                file.writelines([content] if isinstance(content, bytes) else content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutOfResources(f"the disk is full; {path.parent} cannot be written.") from None
        raise InputError(f"cannot write to {path.parent}: {error.strerror or error}.") from None


def write_json(path: Path, value: Any) -> None:
    """JSON, whole or not at all."""
    write_whole(path, json.dumps(value).encode())
