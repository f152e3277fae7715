"""Bring one checkpoint of a Hub repository to disk: only the tensors that are needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sinkscope.errors import InputError, OutOfResources
from sinkscope.subject.load import load_config
from sinkscope.timeline.partial import Plan, plan_blocks
from sinkscope.timeline.tensors import copy_tensors, kept_bytes

if TYPE_CHECKING:
    from sinkscope.timeline.sources import Checkpoint

SMALL = (".json", ".txt", ".model", ".jinja")  # configuration and tokenizer
LARGEST_SMALL = 100_000_000
INDEX = "model.safetensors.index.json"


def fetch_first_blocks(
    checkpoint: Checkpoint,
    blocks: int | None,
    folder: Path,
    budget: int | None = None,
    *,
    fs: Any = None,
) -> Path:
    """Write a model folder that holds the first `blocks` blocks of a Hub checkpoint (None: all).

    Safetensors files are read by range requests. fs is a file system whose paths begin with
    `org/name@commit`; by default the Hub's own. budget: most bytes of weights.

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
    except OSError as error:
        first = (str(error).strip().splitlines() or ["no answer"])[0]
        raise InputError(f"{root} cannot be fetched: {first.rstrip('.')}.") from None


def _fetch(fs: Any, root: str, blocks: int | None, folder: Path, budget: int | None) -> Path:
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
    common = {"revision": None, "local_files_only": True, "trust_remote_code": False}
    plan = plan_blocks(load_config(str(folder), common), blocks)
    shards = _shards(fs, root, weights, files, plan)
    size = 0
    for name in shards:
        with fs.open(f"{root}/{name}", "rb") as source:
            size += kept_bytes(source, plan.keeps, name)
    if budget is not None and size > budget:
        raise OutOfResources(
            f"{root} needs {size / 1e9:.1f} GB on disk, and a worker may use {budget / 1e9:.1f} GB;"
            " raise --disk-budget, or use fewer --workers or --first-blocks."
        )
    for name in shards:
        with fs.open(f"{root}/{name}", "rb") as source:
            copy_tensors(source, folder / name, plan.keeps, name)
    if INDEX in files:
        index = json.loads(fs.cat_file(f"{root}/{INDEX}"))
        kept = {k: v for k, v in index["weight_map"].items() if plan.keeps(k)}
        text = json.dumps({"metadata": index.get("metadata", {}), "weight_map": kept})
        (folder / INDEX).write_text(text, encoding="utf-8")
    return folder


def _shards(fs: Any, root: str, weights: list[str], files: dict, plan: Plan) -> list[str]:
    """The safetensors files that hold a tensor which is needed."""
    if INDEX not in files:
        return ["model.safetensors"] if "model.safetensors" in weights else weights
    index = json.loads(fs.cat_file(f"{root}/{INDEX}"))
    return sorted({file for name, file in index["weight_map"].items() if plan.keeps(name)})
