"""The low-rank products of an adapter, added to the weights of its base.

    W' = W + s · B·A,   s = alpha / r, or alpha / √r with rslora   (Hu et al., 2106.09685)

It is done here and not by peft, so that a machine without that package gives the same answer.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from sinkscope.errors import InputError
from sinkscope.subject.adapters import CONFIG, HELP, WEIGHTS, Adapter
from sinkscope.subject.checkpoint_keys import bare_names

_PART = re.compile(
    r"^(?P<module>.+)\.lora_(?P<kind>embedding_)?(?P<side>[AB])(\.default)?(\.weight)?$"
)


@torch.no_grad()
def merge(model: Any, adapter: Adapter) -> str:
    """Add an adapter's low-rank products to the weights of its base, in place.

    Weights that it saves whole (`modules_to_save`, biases) replace the base's. Returns what is to
    be said where nothing changed, or "". Raises InputError where it does not fit the base.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        held = bare_names(load_file(adapter.folder / WEIGHTS))
    except (SafetensorError, OSError) as error:
        raise InputError(f"{adapter.folder / WEIGHTS} is corrupt ({error}).") from None
    pairs: dict[str, dict[str, torch.Tensor]] = {}
    changed = False
    for key, tensor in held.items():
        if not torch.isfinite(tensor).all():
            raise InputError(f"{adapter.folder}: weight {key} holds NaN or infinity.")
        name = key.removeprefix("base_model.model.")
        part = _PART.match(name)
        if part:
            pairs.setdefault(part["module"], {})[part["side"]] = tensor
        else:
            changed = True
            _replace(model, adapter, name.replace(".base_layer.", "."), tensor)
    for name, pair in pairs.items():
        if set(pair) != {"A", "B"}:
            raise InputError(f"{adapter.folder}: {name} has only one half of its product.")
        a, b = pair["A"].float(), pair["B"].float()
        if a.dim() != 2 or b.dim() != 2 or not 0 < a.shape[0] == b.shape[1]:
            raise InputError(
                f"{adapter.folder / WEIGHTS} holds {list(a.shape)} and {list(b.shape)} for {name}, "
                "which have no product of low rank."
            )
        _refuse_other_configuration(adapter, name, a.shape[0])
        _add(model, adapter, name, a, b)
        changed = changed or bool(a.any() and b.any() and _scale(adapter.config, name, len(a)))
    if not held:
        raise InputError(f"{adapter.folder / WEIGHTS} is empty.")
    _refuse_missing(model, adapter, [*pairs, *held])
    return "" if changed else "All its products are zero: this is the base, unchanged."


def _refuse_missing(model: Any, adapter: Adapter, held: list[str]) -> None:
    """Refuse an adapter without a weight for a kind of module that it says it changed."""
    asked = [adapter.config.get("target_modules"), adapter.config.get("modules_to_save")]
    named = [str(each) for some in asked if isinstance(some, list) for each in some]
    there = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    parts = {part for name in held for part in name.split(".")}
    lost = [each for each in named if each in there and each not in parts]
    if lost:
        raise InputError(
            f"{adapter.folder / WEIGHTS} holds nothing for {', '.join(lost)[:200]}, which {CONFIG} "
            "says it changed: it was cut off, or one of the two belongs to another adapter."
        )


def _refuse_other_configuration(adapter: Adapter, name: str, rank: int) -> None:
    """Refuse a product of another rank, or in another module, than the configuration speaks of."""
    config = adapter.config
    named: Any = config.get("target_modules")
    listed = isinstance(named, list) and all(isinstance(each, str) for each in named)
    if listed and not any(name == each or name.endswith(f".{each}") for each in named):
        raise InputError(
            f"{adapter.folder / WEIGHTS} holds a product for {name}, and {CONFIG} speaks of "
            f"{', '.join(named)[:200]}: one of the two belongs to another adapter."
        )
    asked = _of_pattern(config.get("rank_pattern"), name, config.get("r"))
    if isinstance(asked, int) and asked != rank:
        raise InputError(
            f"{adapter.folder / WEIGHTS} holds a product of rank {rank} for {name}, and {CONFIG} "
            f"speaks of {asked}: one of the two belongs to another adapter."
        )


def _add(model: Any, adapter: Adapter, name: str, a: torch.Tensor, b: torch.Tensor) -> None:
    module = _module(model, adapter, name)
    product = (b @ a) * _scale(adapter.config, name, a.shape[0])
    weight = module.weight
    # embeddings [vocabulary, d] and Conv1D [in, out] keep the transpose of a map's matrix
    if isinstance(module, nn.Embedding) or not isinstance(module, nn.Linear):
        product = product.T
    _fits(adapter, name, weight, product)
    weight.copy_((weight.float() + product.to(weight.device)).to(weight.dtype))


def _replace(model: Any, adapter: Adapter, name: str, tensor: torch.Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    held = getattr(_module(model, adapter, path), leaf, None)
    if not isinstance(held, nn.Parameter):
        raise _unfit(adapter, name)
    _fits(adapter, name, held, tensor)
    held.copy_(tensor.to(held.dtype))


def _scale(config: dict[str, Any], name: str, rank: int) -> float:
    alpha = _of_pattern(config.get("alpha_pattern"), name, config.get("lora_alpha", 8))
    return alpha / rank**0.5 if config.get("use_rslora") else alpha / rank


def _of_pattern(patterns: Any, name: str, otherwise: Any) -> Any:
    """The value of the first pattern that a module's name ends in, as peft reads them."""
    for pattern, value in patterns.items() if isinstance(patterns, dict) else ():
        if re.match(rf"(.*\.)?({pattern})$", name):
            return value
    return otherwise


def _module(model: Any, adapter: Adapter, name: str) -> Any:
    try:
        return model.get_submodule(name)
    except AttributeError:
        raise _unfit(adapter, name) from None


def _fits(adapter: Adapter, name: str, held: torch.Tensor, other: torch.Tensor) -> None:
    if held.shape != other.shape:
        raise InputError(
            f"{adapter.folder}: {name} is {list(other.shape)} in the adapter and "
            f"{list(held.shape)} in {adapter.base}; {HELP}."
        )


def _unfit(adapter: Adapter, name: str) -> InputError:
    return InputError(f"{adapter.folder}: {adapter.base} has no {name} to merge into; {HELP}.")
