"""LoRA adapters: folders that training leaves, and what of them can be merged into their base."""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sinkscope.errors import InputError, Unsupported
from sinkscope.files import read_object
from sinkscope.subject.incomplete import refuse_pointer

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PICKLED, MLX = "adapter_model.bin", "adapters.safetensors"
HELP = "merge it with merge_and_unload() of peft, save the model and look at that folder"
# These put learned vectors before the text, or beside its keys: no weights hold them.
_VECTORS = re.compile(r"PREFIX_TUNING|.*PROMPT.*|P_TUNING|CPT|CARTRIDGE")
# Starting values that change the base too, so that base and adapter alone are not the model.
_CHANGES_BASE = re.compile(r"pissa|olora|loftq|corda|lora_ga")


@dataclass(frozen=True)
class Adapter:
    """An adapter as it lies in a folder.

    base  folder or Hub id of the model that it was trained on, as the adapter names it
    """

    folder: Path
    config: dict[str, Any]

    @property
    def base(self) -> str:
        """Folder or Hub id of the base: a folder is sought beside the adapter too."""
        named = str(self.config.get("base_model_name_or_path") or "")
        beside = self.folder / named
        return str(beside) if named and beside.exists() else named

    def sha256(self, base: str) -> str:
        """Hash of the adapter's files behind that of its base."""
        digest = hashlib.sha256(base.encode())
        for name in (CONFIG, WEIGHTS):
            digest.update((self.folder / name).read_bytes())
        return digest.hexdigest()


def find_adapter(folder: Path) -> Adapter | None:
    """The adapter that a folder is, or None where it holds none.

    Raises InputError where a whole model lies beside it, and for what cannot be merged.
    """
    file = folder / CONFIG
    if not file.is_file():
        if (folder / WEIGHTS).is_file() and not (folder / "config.json").is_file():
            raise InputError(f"{folder} holds {WEIGHTS} without the {CONFIG} that says its base.")
        return None
    config = read_object(file)
    if "peft_type" not in config and (folder / MLX).is_file():
        raise InputError(f"{folder} is an adapter of MLX; fuse it with mlx_lm.fuse into its base.")
    others = [f.name for f in folder.glob("*.safetensors") if not f.name.startswith("adapter_")]
    others += [f.name for f in folder.glob("pytorch_model*.bin")]
    if others:
        raise InputError(
            f"{folder} holds a whole model ({others[0]}) and beside it an adapter, and does not "
            "say whether that was merged: put one of them into a folder of its own."
        )
    adapter = Adapter(folder, config)
    if not adapter.base:
        raise InputError(f"{folder} is a PEFT adapter that does not name its base; {HELP}.")
    if _VECTORS.fullmatch(str(config.get("peft_type"))):
        raise Unsupported(
            f"{folder} is a PEFT adapter for {adapter.base} of type "
            f"{config['peft_type']}: it learned vectors that are read before the text, so that "
            "position zero is not the text's, and that cannot be merged into weights."
        )
    reason = _cannot(config)
    if reason:
        raise InputError(f"{folder} is a PEFT adapter for {adapter.base} ({reason}); {HELP}.")
    if not (folder / WEIGHTS).is_file():
        there = " but a pickle of them" if (folder / PICKLED).is_file() else ""
        raise InputError(f"{folder} is a PEFT adapter for {adapter.base} without {WEIGHTS}{there}.")
    refuse_pointer(folder / WEIGHTS)
    _refuse_circle(adapter)
    return adapter


def _refuse_circle(adapter: Adapter) -> None:
    """Refuse an adapter that is in the end its own base."""
    seen = {adapter.folder.resolve()}
    below = Path(adapter.base)
    while (below / CONFIG).is_file():
        if below.resolve() in seen:
            raise InputError(
                f"{adapter.folder / CONFIG} names an adapter as base that rests on it."
            )
        seen.add(below.resolve())
        try:
            below = Path(Adapter(below, read_object(below / CONFIG)).base)
        except InputError:
            return  # told when the base is loaded


def _cannot(config: dict[str, Any]) -> str:
    """Why an adapter cannot be merged here; empty where it can."""
    if config.get("peft_type") != "LORA":
        return f"of type {config.get('peft_type')}"
    start = config.get("init_lora_weights")
    if isinstance(start, str) and _CHANGES_BASE.match(start):
        return f"begun with {start}, which changes the base too"
    odd = ("use_dora", "layer_replication", "trainable_token_indices", "alora_invocation_tokens",
           "target_parameters")  # fmt: skip
    used = [name for name in odd if config.get(name)]
    return f"with {used[0]}" if used else _malformed(config)


def _malformed(config: dict[str, Any]) -> str:
    """Which entry that the scale is made of is not what it should be; empty where none is."""
    for entry in ("alpha_pattern", "rank_pattern"):
        patterns = config.get(entry) or {}
        if not isinstance(patterns, dict):
            return f"its {entry} is no JSON object"
        rank = {"r": config["r"]} if config.get("r") is not None else {}
        whole = {"lora_alpha": config.get("lora_alpha", 8), **rank, **patterns}
        for name, value in whole.items():
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not math.isfinite(value):
                return f"its {name} is {value!r}, where a number is expected"
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error:
                return f"its {entry} holds {pattern!r}, which is no pattern"
    return ""


def hub_adapter(repo: str, common: dict[str, Any]) -> Path | None:
    """The folder that an adapter on the Hub was fetched into; None for any other repository."""
    from transformers.utils import cached_file

    quiet: dict[str, Any] = {
        "revision": common["revision"],
        "local_files_only": common["local_files_only"],
        "_raise_exceptions_for_gated_repo": False,
        "_raise_exceptions_for_missing_entries": False,
        "_raise_exceptions_for_connection_errors": False,
    }
    try:
        found = cached_file(repo, CONFIG, **quiet)
        if found is None:
            return None
        cached_file(repo, WEIGHTS, **quiet)
        if cached_file(repo, "config.json", **quiet) is not None:
            raise InputError(
                f"{repo} holds a whole model and beside it an adapter, and does not say whether "
                "that was merged: put one of them into a folder of its own."
            )
    except OSError:
        return None  # a repository that is not there is told when the model is loaded
    return Path(found).parent
