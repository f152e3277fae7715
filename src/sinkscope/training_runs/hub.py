"""Bring one checkpoint of a Hub repository to disk: only the tensors that are needed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from sinkscope.errors import InputError, OutOfResources, first_line
from sinkscope.subject.header import INDEX, WHOLE
from sinkscope.subject.plan import LoadPlan, plan_blocks
from sinkscope.subject.weights import LOCAL, load_config
from sinkscope.training_runs.checkpoint import Checkpoint
from sinkscope.training_runs.tensors import CHUNK, copy_tensors, kept_bytes

SMALL = (".json", ".txt", ".model", ".jinja")  # configuration and tokenizer
LARGEST_SMALL = 100_000_000


def fetch_first_blocks(
    checkpoint: Checkpoint,
    blocks: int | None,
    folder: Path,
    budget: int | None = None,
    *,
    fs: Any = None,
) -> str:
    """Write a model folder that holds the first `blocks` blocks of a Hub checkpoint (None: all).

    Safetensors files are read by range requests; where the server does not offer them, whole. fs is
    a file system whose paths begin with `org/name@commit`; by default the Hub's own. budget: most
    bytes of weights on disk.

    Returns what is to be remarked: that files had to be downloaded whole, or "".

    Raises InputError where the revision holds no safetensors or cannot be reached, OutOfResources
    before anything is fetched where it is larger than the budget.
    """
    if fs is None:
        from huggingface_hub import HfFileSystem

        fs = HfFileSystem()
    root = f"{checkpoint.place}@{checkpoint.commit or checkpoint.name}"
    if checkpoint.subfolder:
        root += f"/{checkpoint.subfolder}"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return _fetch(fs, root, blocks, folder, budget)
    except hub_errors() as error:
        raise InputError(f"{root} cannot be fetched: {first_line(error)}") from None


def hub_errors() -> tuple[type[BaseException], ...]:
    """What may be raised where the Hub is not reached: its own errors and those of its client.

    Its own are an OSError and an error of the HTTP client, which not every version has as OSError.
    """
    from huggingface_hub.errors import HfHubHTTPError

    return (OSError, *HfHubHTTPError.__bases__)


def _fetch(fs: Any, root: str, blocks: int | None, folder: Path, budget: int | None) -> str:
    files = {entry["name"].rpartition("/")[2]: entry for entry in fs.ls(root, detail=True)}
    for name, entry in files.items():
        small = name.endswith(SMALL) and (entry.get("size") or 0) < LARGEST_SMALL
        if small and name != INDEX:
            (folder / name).write_bytes(fs.cat_file(f"{root}/{name}"))
    weights = sorted(name for name in files if name.endswith(".safetensors"))
    if not weights:
        raise InputError(
            f"{root} holds only pickle weights or none; timelines read safetensors alone."
        )
    plan = plan_blocks(load_config(str(folder), LOCAL), blocks)
    shards = _shards(fs, root, weights, files, plan)
    ranges = all(_offers_ranges(fs, f"{root}/{name}") for name in shards)
    if ranges:
        size = 0
        for name in shards:
            with _opened(fs, f"{root}/{name}") as source:
                size += kept_bytes(source, plan.keeps, name)
    else:  # a whole file lies beside what is taken out of it
        sizes = [files[name].get("size") or 0 for name in shards]
        size = sum(sizes) + max(sizes)
    if budget is not None and size > budget:
        raise OutOfResources(
            f"{root} needs {size / 1e9:.1f} GB on disk, and a worker may use {budget / 1e9:.1f} GB;"
            " raise --disk-budget, or use fewer --workers or --first-blocks."
        )
    for name in shards:
        if ranges:
            with _opened(fs, f"{root}/{name}") as source:
                copy_tensors(source, folder / name, plan.keeps, name)
        else:
            _take_out(fs, f"{root}/{name}", folder / name, plan)
    if INDEX in files:
        index = json.loads(fs.cat_file(f"{root}/{INDEX}"))
        kept = {k: v for k, v in index["weight_map"].items() if plan.keeps(k)}
        text = json.dumps({"metadata": index.get("metadata", {}), "weight_map": kept})
        (folder / INDEX).write_text(text, encoding="utf-8")
    return "" if ranges else "its weights were downloaded whole, since the server gave no ranges"


def _opened(fs: Any, path: str) -> Any:
    """A remote file of which just what is asked for is fetched."""
    return fs.open(path, "rb", cache_type="none")


def _offers_ranges(fs: Any, path: str) -> bool:
    """Whether a part of a file can be had: a server that ignores the range sends more than asked.

    What comes back is then the beginning of the file, whatever part was wanted.
    """
    with _opened(fs, path) as source:
        return len(source.read(8)) <= 8


def _take_out(fs: Any, path: str, target: Path, plan: LoadPlan) -> None:
    """Download a whole file, keep the tensors that are needed, and drop it."""
    whole = target.with_name(f"whole-{target.name}.part")
    try:
        with fs.open(path, "rb", block_size=0) as source, whole.open("wb") as file:
            shutil.copyfileobj(source, file, CHUNK)
        with whole.open("rb") as local:
            copy_tensors(local, target, plan.keeps, target.name)
    finally:
        whole.unlink(missing_ok=True)


def _shards(fs: Any, root: str, weights: list[str], files: dict, plan: LoadPlan) -> list[str]:
    """The safetensors files that hold a tensor which is needed."""
    if INDEX not in files:
        return [WHOLE] if WHOLE in weights else weights
    index = json.loads(fs.cat_file(f"{root}/{INDEX}"))
    return sorted({file for name, file in index["weight_map"].items() if plan.keeps(name)})
