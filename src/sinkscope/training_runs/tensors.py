"""Single tensors out of safetensors files, as bytes: from disk, or over the Hub by range requests.

A safetensors file is the length of its header (8 bytes, little endian), the header (JSON: name ->
dtype, shape, data_offsets), then the data. So one needs the header and the ranges one wants.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from sinkscope.errors import InputError
from sinkscope.subject.header import read_header

CHUNK = 1 << 23  # of a read: over the Hub each is a request


def copy_tensors(
    source: BinaryIO, target: Path, keep: Callable[[str], bool], name: str = "weights"
) -> int:
    """Write the kept tensors of an open safetensors file to a file of their own.

    Only the header and the kept ranges are read. Returns how many bytes of data were copied. No
    file is written where nothing is kept.
    """
    header, base = read_header(source, name)
    metadata = header.pop("__metadata__", None)
    wanted = sorted(
        (key for key in header if keep(key)), key=lambda k: header[k]["data_offsets"][0]
    )
    if not wanted:
        return 0
    ranges = [header[key]["data_offsets"] for key in wanted]
    new: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    at = 0
    for key, (start, stop) in zip(wanted, ranges, strict=True):
        new[key] = {**header[key], "data_offsets": [at, at + stop - start]}
        at += stop - start
    text = json.dumps(new, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with target.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for start, stop in joined(ranges):
            _copy(source, base + start, stop - start, out.write, name)
    return at


def kept_bytes(source: BinaryIO, keep: Callable[[str], bool], name: str = "weights") -> int:
    """How many bytes of data `copy_tensors` would copy; only the header is read."""
    header, _ = read_header(source, name)
    offsets = (v["data_offsets"] for k, v in header.items() if k != "__metadata__" and keep(k))
    return sum(stop - start for start, stop in offsets)


def hash_tensors(folder: Path, keep: Callable[[str], bool]) -> str:
    """SHA-256 of the names and bytes of the kept tensors of a folder's safetensors files."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            header, base = read_header(file, path.name)
            header.pop("__metadata__", None)
            for key in sorted(key for key in header if keep(key)):
                digest.update(
                    json.dumps([key, header[key]["dtype"], header[key]["shape"]]).encode()
                )
                start, stop = header[key]["data_offsets"]
                _copy(file, base + start, stop - start, digest.update, path.name)
    return digest.hexdigest()


def joined(ranges: list[list[int]]) -> list[tuple[int, int]]:
    """Ranges that touch, put together: fewer and longer reads."""
    out: list[tuple[int, int]] = []
    for start, stop in ranges:
        if out and out[-1][1] == start:
            out[-1] = (out[-1][0], stop)
        else:
            out.append((start, stop))
    return out


def _copy(
    source: BinaryIO, start: int, size: int, write: Callable[[bytes], Any], name: str
) -> None:
    source.seek(start, os.SEEK_SET)
    while size > 0:
        block = source.read(min(CHUNK, size))
        if not block:
            raise InputError(f"{name}: the safetensors file is cut short.")
        write(block)
        size -= len(block)
