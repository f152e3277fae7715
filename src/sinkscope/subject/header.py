"""What the safetensors files of a folder say they hold, read from their headers alone."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from sinkscope.errors import InputError

ORDINARY = ("F64", "F32", "F16", "BF16")
LARGEST_HEADER = 100_000_000  # bytes: the limit of the format itself
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def read_header(file: BinaryIO, name: str) -> tuple[dict[str, Any], int]:
    """The header of an open safetensors file, and where its data begins.

    Raises InputError for one that is damaged, or names a tensor twice.
    """
    start = file.read(8)
    size = int.from_bytes(start, "little")
    if len(start) < 8 or not 2 <= size <= LARGEST_HEADER:
        raise InputError(f"{name}: the safetensors file is corrupt (its header has no length).")
    try:
        header = json.loads(file.read(size), object_pairs_hook=lambda pairs: _once(pairs, name))
        if not all(isinstance(value, dict) for value in header.values()):
            raise ValueError
    except (ValueError, AttributeError, RecursionError):
        raise InputError(f"{name}: the safetensors file is corrupt (bad header).") from None
    return header, 8 + size


def declared(folder: Path) -> dict[str, dict[str, Any]]:
    """Tensor name -> dtype and shape, over the safetensors files that would be loaded.

    Raises InputError for a damaged header or index.
    """
    found: dict[str, dict[str, Any]] = {}
    for _, header, _ in _headers(folder):
        found |= header
    return found


@dataclass(frozen=True)
class Place:
    """Where a tensor lies: its file, and the first byte in it and the one behind the last."""

    file: Path
    start: int
    stop: int


def places(folder: Path) -> dict[str, Place]:
    """Tensor name -> where it lies, over the same files."""
    return {
        name: Place(path, base + about["data_offsets"][0], base + about["data_offsets"][1])
        for path, header, base in _headers(folder)
        for name, about in header.items()
    }


def _headers(folder: Path) -> Iterator[tuple[Path, dict[str, dict[str, Any]], int]]:
    """Each file, the tensors in it, and where their data begins."""
    for path in _files(folder):
        with path.open("rb") as file:
            header, base = read_header(file, path.name)
            size = path.stat().st_size
        header.pop("__metadata__", None)
        size -= base
        for tensor, about in header.items():
            if not _plausible(about, size):
                raise InputError(
                    f"{path}: the safetensors file is corrupt, or cut short: {tensor} is said to "
                    f"lie at {about.get('data_offsets')} with shape {about.get('shape')}."
                )
        last = max((about["data_offsets"][1] for about in header.values()), default=0)
        if last < size:
            raise InputError(
                f"{path}: the safetensors file is corrupt: {size - last} bytes too long."
            )
        yield path, header, base


def refuse_no_numbers(tensors: dict[str, dict[str, Any]], where: str) -> None:
    """Raise InputError where a weight is stored as integers, truth values or complex numbers."""
    for name, about in tensors.items():
        dtype = str(about.get("dtype"))
        if name.endswith(".weight") and not dtype.startswith(("F", "BF")):
            raise InputError(
                f"{where}: weight {name} is stored as {dtype}, where floating-point numbers are "
                "expected."
            )


def stored_plainly(tensors: dict[str, dict[str, Any]]) -> bool:
    """Whether all are ordinary floating-point numbers, packed and scaled by nobody."""
    return all(about.get("dtype") in ORDINARY for about in tensors.values())


def eight_bits(tensors: dict[str, dict[str, Any]]) -> list[str]:
    """Names of the tensors that are stored as floating-point numbers of eight bits or fewer."""
    return [name for name, about in tensors.items() if str(about.get("dtype")).startswith("F8")]


def elements(tensors: dict[str, dict[str, Any]]) -> int:
    """Numbers in all tensors together."""
    shapes = [about.get("shape") for about in tensors.values()]
    return sum(math.prod(s) for s in shapes if isinstance(s, list) and _counts(s))


def blocks_named(tensors: dict[str, dict[str, Any]]) -> int:
    """One more than the highest number of a block in the names of tensors."""
    numbers = [m for name in tensors if (m := re.search(r"(?:^|\.)(\d{1,9})\.", name))]
    return max((int(match[1]) + 1 for match in numbers), default=0)


def _plausible(about: dict[str, Any], size: int) -> bool:
    """Whether a tensor lies inside its file, and is no larger than its bytes can hold."""
    shape, place = about.get("shape"), about.get("data_offsets")
    if not (isinstance(shape, list) and isinstance(place, list) and len(place) == 2):
        return False
    if not (_counts(shape) and _counts(place)):
        return False
    start, stop = place
    return start <= stop <= size and math.prod(shape) <= 8 * (stop - start)


def _counts(shape: list[Any]) -> bool:
    return all(isinstance(n, int) and n >= 0 for n in shape)


def _once(pairs: list[tuple[str, Any]], name: str) -> dict[str, Any]:
    held = dict(pairs)
    if len(held) < len(pairs):
        names = [key for key, _ in pairs]
        twice = next(key for key in names if names.count(key) > 1)
        raise InputError(f"{name}: the safetensors file is corrupt ({twice!r} stands twice in it).")
    return held


def _files(folder: Path) -> list[Path]:
    """The files that transformers would load: the whole one, those of the index, or all."""
    if (folder / WHOLE).is_file():
        return [folder / WHOLE]
    if (folder / INDEX).is_file():
        try:
            weight_map = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
            names = {str(name) for name in weight_map.values()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise InputError(f"{folder / INDEX} does not say which file holds what.") from None
        if wrong := [name for name in names if os.path.basename(name) != name]:
            raise InputError(f"{folder / INDEX} names {wrong[0]!r}, which is no file beside it.")
        return sorted(folder / name for name in names if (folder / name).is_file())
    return sorted(path for path in folder.glob("*.safetensors") if path.is_file())


def header_hash(folder: Path) -> str:
    """SHA-256 of the configuration and of the names, dtypes, shapes and places of all tensors.

    To hash the weights themselves would take as long as a pass over the model.
    """
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    digest.update(repr(sorted(declared(folder).items())).encode())
    return digest.hexdigest()
