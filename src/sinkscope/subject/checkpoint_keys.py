"""What the names in a checkpoint say beside what the model took of them.

A weight that a model does not use is said, or, where numbers would be those of another model than
the one that was trained, refused: blocks beyond the configuration, adapters that were never
merged, quantised values without their configuration, weights inside a block that its class has no
place for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from sinkscope.errors import InputError, Unsupported
from sinkscope.subject.anatomy import Anatomy, find_anatomy

_ADAPTER = re.compile(r"(^|[._])(lora|lokr|loha|hada|ia3|oft|vera|boft)_|\.base_layer\.")
_QUANTISED = re.compile(
    r"(weight_scale(_inv)?|weight_packed|qweight|qzeros|g_idx|_blocks|_scales|\.scales|\.SCB"
    r"|absmax|quant_map|quant_state\.\w+)$"
)
# Layers that predict further tokens: no part of the causal model, and never loaded.
_FURTHER_TOKENS = re.compile(r"(^|\.)(mtp\w*|nextn\w*)\.|\.(eh_proj|enorm|hnorm)\.")
_OTHER_TOWER = re.compile(r"vision|visual|audio|image|speech")
# Buffers of earlier releases, and scales of a quantised cache.
_BUFFERS = re.compile(r"inv_freq|masked_bias|rotary_emb|(attn|attention)\.bias$|\.[qkv]_scale$")
# Wrappers of training code whose name is put between the others.
_WRAPPERS = r"((_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.)+"

Part = tuple[int, int] | None


def key_mapping(missing: Iterable[str], unused: Iterable[str]) -> dict[str, str]:
    """How names of a checkpoint become those of the model: pattern -> replacement; or nothing.

    Training frameworks put their wrappers' names before all others (`module.`) or between them.
    Given only where every weight that is missing is found that way.
    """
    wanted, held = set(missing), set(unused)
    if not wanted or not held:
        return {}
    bare = {re.sub(_WRAPPERS, "", name) for name in held}
    longest = max(wanted, key=len)
    prefixes = {name[: -len(longest)] for name in bare if name.endswith(longest)}
    for prefix in sorted(prefixes, key=len):
        if all(prefix + name in bare for name in wanted):
            before = {"^" + re.escape(prefix): ""} if prefix else {}
            return {_WRAPPERS: "", **before} if bare != held else before
    return {}


def bare_names(held: dict[str, Any]) -> dict[str, Any]:
    """Tensors by their names without those of training wrappers."""
    return {re.sub(rf"^(module\.)+|{_WRAPPERS}", "", name): held[name] for name in held}


def renamed(name: str, mapping: dict[str, str]) -> str:
    """A name of the checkpoint under such a mapping."""
    for pattern, replacement in mapping.items():
        name = re.sub(pattern, replacement, name)
    return name


def refuse_or_tell(where: str, model: Any, unused: Iterable[str], part: Part) -> str:
    """A sentence on the weights that the model does not use, or "".

    part  how many first blocks were loaded of how many; None: all. The others are left out here
    Raises InputError where numbers would not be those of the model that was trained.
    """
    names = sorted(name for name in unused if not _OTHER_TOWER.search(name))
    towers = len(set(unused)) - len(names)
    adapter = [name for name in names if _ADAPTER.search(name)]
    then = "merge it with merge_and_unload() of peft and save the model again"
    _refuse(where, adapter, "of an adapter that was not merged", then)
    if getattr(model.config, "quantization_config", None) is None:
        packed = [name for name in names if _QUANTISED.search(name)]
        then = "and its config.json has no quantization_config that says how to read them"
        _refuse(where, packed, "of quantised weights", then)
    own = set(model.state_dict())
    twice = [name for name in names if any(name[i + 1 :] in own for i in _dots(name))]
    then = "which of the two models is meant is not known: put one of them into a folder of its own"
    _refuse(where, twice, "that are there a second time under other names", then)
    anatomy = find_anatomy(model)
    reads = [name for name in names if re.search(r"(^|\.)encoder\.", name)]
    if reads and "decoder." in anatomy.blocks[0].name:
        raise Unsupported(
            f"{where} is an encoder and a decoder ({model.config.model_type}): its decoder reads "
            "what the encoder makes of another text, which a causal language model does not."
        )
    names = _beside_blocks(where, model, anatomy, names, part)
    told = ""
    if names:
        are = "are" if len(names) > 1 else "is"
        told = f"{_count(names)} of its files {are} not used, such as {names[0]}."
    if towers:
        told = f"{towers} tensors of its other towers (images, audio) are not used. {told}".strip()
    return told


def _beside_blocks(
    where: str, model: Any, anatomy: Anatomy, names: list[str], part: Part
) -> list[str]:
    """Those of the names that belong to no block, further tokens or buffer. Refuses the others."""
    stack = anatomy.blocks[0].name.rpartition(".")[0].rpartition(".")[2]
    loaded, count = part or (len(anatomy.blocks),) * 2
    at = {name: _block_of(name, stack) for name in names}
    further = {i for name, i in at.items() if i is not None and _FURTHER_TOKENS.search(name)}
    names = [n for n in names if at[n] not in further and not _FURTHER_TOKENS.search(n)]
    beyond = [i for n in names if (i := at[n]) is not None and i >= count]
    if beyond:
        raise InputError(
            f"{where} holds weights of {max(beyond) + 1} blocks and its config.json speaks of "
            f"{count}: one of the two belongs to another model."
        )
    if part is not None:
        head = ("head", "output", "embed_out")
        names = [n for n in names if (at[n] or 0) < loaded and not any(h in n for h in head)]
    names = [name for name in names if not _BUFFERS.search(name)]
    inside = [name for name in names if at[name] is not None]
    place = f"inside its blocks for which {type(model).__name__} has no place"
    _refuse(where, inside, place, "and without them it is not the model that was trained")
    return names


def refuse_missing(where: str, config: Any, missing: Iterable[str]) -> None:
    """Refuse a checkpoint that lacks weights of the model."""
    names = sorted(missing)
    if not names:
        return
    saved = ", ".join(map(str, getattr(config, "architectures", None) or []))
    if names == ["lm_head.weight"] and saved and "CausalLM" not in saved:
        raise InputError(
            f"{where} was saved as {saved}, without a head over the vocabulary (it lacks "
            "lm_head.weight); sinkscope.Subject.from_model looks at the model without its head."
        )
    raise InputError(
        f"{where} lacks {len(names)} weight{'s' if len(names) > 1 else ''}, such as {names[0]}; a "
        "model with random parts would give meaningless numbers."
    )


def refuse_other_shapes(where: str, mismatched: Iterable[tuple]) -> None:
    """Refuse weights of another shape: (name, shape in the file, shape by the configuration)."""
    found = sorted(mismatched, key=str)
    if found:
        name, held, wanted = found[0]
        raise InputError(
            f"{where} holds {_count([each[0] for each in found])} of another shape than "
            f"config.json asks for, such as {name}: {list(held)}, where {list(wanted)} is expected."
        )


def _refuse(where: str, names: list[str], what: str, then: str) -> None:
    if names:
        raise InputError(f"{where} holds {_count(names)} {what}, such as {names[0]}; {then}.")


def _count(names: list[str]) -> str:
    return f"{len(names)} tensor{'s' if len(names) > 1 else ''}"


def _dots(name: str) -> list[int]:
    return [i for i, letter in enumerate(name) if letter == "."]


def _block_of(name: str, stack: str) -> int | None:
    found = re.search(rf"(?:^|\.){re.escape(stack)}\.(\d+)\.", name)
    return int(found[1]) if found else None
