"""What a model is told by: name, commit, hash of its weights, dtype, device, and what to know."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch

from sinkscope.subject.at_hand import has_own_class, is_packed
from sinkscope.subject.folder import PICKLE_SUFFIXES
from sinkscope.subject.header import eight_bits, stored_plainly
from sinkscope.subject.plan import LoadPlan

SIGMOID = (
    "Its attention is a sigmoid, whose rows do not add up to one: shares are taken after each row "
    "was divided by its sum."
)


def identity_of(model: Any, name: str, revision: str | None, place: Path | None) -> dict[str, Any]:
    """Id, commit, class, hash of the files in `place` or of the tensors, size, dtype, device."""
    commit = getattr(model.config, "_commit_hash", None)
    return {
        "id": name,
        "revision": commit or revision,
        "architecture": type(model).__name__,
        "weights_sha256": _hash_files(place) if place else _hash_tensors(model),
        "parameters": _count(model),
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "device": str(next(model.parameters()).device),
        **reading_note(model.config),
    }


def _count(model: Any) -> int:
    """Parameters of a model; a packed map has as many weights as it maps between."""
    held = sum(p.numel() for p in model.parameters())
    for module in model.modules():
        if is_packed(module):
            own = dict(module.named_parameters(recurse=False))
            own.pop("bias", None)
            held += module.in_features * module.out_features - sum(p.numel() for p in own.values())
    return held


def planned_identity(
    plan: LoadPlan, name: str, sha256: str, dtype: str, device: str, config: Any
) -> dict[str, Any]:
    """The same of a model of which a part is loaded: class and size are those of the whole."""
    return {
        "id": name,
        "revision": None,
        "architecture": plan.architecture,
        "weights_sha256": sha256,
        "parameters": plan.parameters,
        "dtype": dtype,
        "device": device,
        **reading_note(config),
    }


def say(identity: dict[str, Any], *sentences: str) -> None:
    """Put sentences before what an identity already says."""
    told = " ".join(filter(None, [*sentences, identity.get("note")]))
    if told:
        identity["note"] = told


def reading_note(config: Any) -> dict[str, str]:
    """What must be known of a model to read its results rightly: {"note": ..} or nothing."""
    return {"note": SIGMOID} if getattr(config, "attention", None) == "sigmoid" else {}


def stored_as(
    method: str, tensors: dict[str, dict[str, Any]], dtype: str, half: bool = False
) -> str:
    """A sentence on weights that are stored otherwise than they compute, or "".

    method   the quantisation that the configuration names, "" for none
    tensors  what the weight files declare; nothing where that is not known
    half     its packed maps take no more than half precision
    """
    if method and tensors and stored_plainly(tensors):
        return f"Its config.json speaks of {method}, and its files hold plain numbers."
    if method:
        coarser = ", its packed maps in half precision at most" if half else ""
        return f"Its weights are stored as {method} and compute in {dtype}{coarser}."
    if bare := eight_bits(tensors):
        return (
            f"{len(bare)} of its weights are stored in eight bits without a scale, such as "
            f"{bare[0]}, and were read as they are."
        )
    return ""


def _hash_files(place: Path) -> str:
    """SHA-256 of a weight file, or of a folder's."""
    digest = hashlib.sha256()
    suffixes = (".safetensors", *PICKLE_SUFFIXES)
    there = [place] if place.is_file() else place.iterdir()
    files = sorted(f for f in there if f.suffix in suffixes and f.is_file())
    chosen = [f for f in files if f.suffix == ".safetensors"] or files or [place]
    for file in chosen:
        with file.open("rb") as handle:
            for block in iter(lambda: handle.read(1 << 20), b""):
                digest.update(block)
    return digest.hexdigest()


def _hash_tensors(model: Any) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        _add(digest, value)
    return digest.hexdigest()


def _add(digest: Any, value: Any) -> None:
    """Add a tensor, or the pieces and settings that a packed weight consists of."""
    if isinstance(value, (tuple, list)):
        for each in value:
            _add(digest, each)
    elif not isinstance(value, torch.Tensor):
        digest.update(repr(value).encode())
    elif value.is_quantized:
        digest.update(repr(value.dequantize().double().sum().item()).encode())
        _add(digest, value.int_repr())
    elif has_own_class(value) and hasattr(value, "__tensor_flatten__"):
        names, about = value.__tensor_flatten__()
        digest.update(repr(about).encode())
        _add(digest, [getattr(value, name) for name in names])
    elif value.device.type != "meta":
        flat = value.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy().tobytes())
