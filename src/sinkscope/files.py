"""Files are written whole or not at all: beside their place first, then renamed into it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sinkscope.errors import InputError, OutOfResources

PART = ".part-"  # how the name of an unfinished file begins


def write_folder(folder: Path, files: Mapping[str, Callable[[Path], Any]]) -> Path:
    """Write files (name -> function of a path) into `folder`, all or none.

    Everything is written to a temporary folder first; only then are the files renamed into place.
    Raises InputError or OutOfResources.
    """
    folder = folder.expanduser()
    with _disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            for name, write in files.items():
                write(staging / name)
            folder.mkdir(exist_ok=True)
            for name in files:
                os.replace(staging / name, folder / name)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return folder


def write_whole(path: Path, content: bytes | Iterable[bytes]) -> None:
    """Write one file, or its pieces, so that no other process ever sees a part of it.

    Raises InputError or OutOfResources.
    """
    with _disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{PART}{os.getpid()}-{path.name}")
        try:
            with part.open("wb") as file:
                file.writelines([content] if isinstance(content, bytes) else content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def write_json(path: Path, value: Any) -> None:
    """JSON, whole or not at all."""
    write_whole(path, json.dumps(value).encode())


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """What the disk refuses, in words."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise OutOfResources(f"The disk is full; nothing was written to {folder}.") from None
        raise InputError(f"Cannot write to {folder}: {error.strerror or error}.") from None
