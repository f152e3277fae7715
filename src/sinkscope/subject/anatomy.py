"""Anatomy of a decoder, found from its structure.

Nothing here knows a family by name, except the few that are refused because their residual stream
is not one stream. What is found is proved on real data later: the attention readers check that
every softmax block is seen, and `observe.residual` checks that the contributions add up.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from torch import nn

from sinkscope.errors import Unsupported

# Families whose blocks carry several residual streams (AltUp, hyper-connections).
SEVERAL_STREAMS = ("gemma3n", "gemma3n_text", "deepseek_v4", "hy_v4", "qwen4_exp", "qwen4_exp_text")
# What a configuration calls a layer, by a word in it, and what we call it; else it is "full".
LAYER_WORDS = {
    "linear": "linear",
    "mamba": "linear",
    "conv": "linear",
    "recurrent": "linear",
    "moe": "none",
    "mlp": "none",
    "sliding": "sliding",
    "local": "sliding",
    "chunked": "chunked",
    "sparse": "sparse",
}
NOT_CAUSAL = "{}: its attention is not causal, so position zero has no special place in it."
# Entries by which a configuration says that its decoder looks ahead.
_AHEAD = {"is_causal": (False,), "use_bidirectional_attention": (True, "all")}
_ATTENTION = re.compile(r"attention|attn", re.IGNORECASE)
_NORM = re.compile(r"norm|^ln_|layernorm", re.IGNORECASE)


@dataclass(frozen=True)
class Block:
    """One decoder block.

    index      0-based position in the stack
    name       dotted module path
    layer_type full, sliding, chunked, sparse, linear or none (no attention at all)
    attention  dotted paths of attention-like children
    """

    index: int
    name: str
    layer_type: str
    attention: tuple[str, ...]


@dataclass(frozen=True)
class Anatomy:
    """The decoder of a model: its blocks and the shape of its attention.

    depth  blocks of the whole model, of which `blocks` may be the first
    """

    model_type: str
    blocks: tuple[Block, ...]
    depth: int
    hidden_size: int
    query_heads: int | None
    several_streams: bool

    def modules(self, model: nn.Module) -> list[nn.Module]:
        """The block modules in order."""
        return [model.get_submodule(block.name) for block in self.blocks]


def find_anatomy(model: Any) -> Anatomy:
    """Find the decoder blocks of a causal LM.

    The stack is the longest ModuleList of the text decoder whose items hold attention-like
    modules; ties go to the one whose length equals `num_hidden_layers`.

    Raises Unsupported when there is no such stack (state-space models, encoders without blocks),
    for a decoder that looks ahead, and where one module serves as several blocks.
    """
    config = model.config.get_text_config(decoder=True)
    for entry, values in _AHEAD.items():
        value = getattr(config, entry, None)
        if value in values and isinstance(value, (bool, str)):
            raise Unsupported(NOT_CAUSAL.format(f"{config.model_type} with {entry} {value}"))
    if getattr(config, "is_decoder", None) is False and _fills_in(config.model_type):
        raise Unsupported(NOT_CAUSAL.format(f"{config.model_type} without is_decoder"))
    name, stack = _find_stack(model, getattr(config, "num_hidden_layers", None))
    if len({id(block) for block in stack}) < len(stack):
        raise Unsupported("some of its blocks are one module, whose passes cannot be told apart.")
    types = _layer_types(config, len(stack))
    blocks = tuple(_describe(f"{name}.{i}", i, block, types[i]) for i, block in enumerate(stack))
    return Anatomy(
        model_type=model.config.model_type,
        blocks=blocks,
        depth=len(blocks),
        hidden_size=_first(config, "hidden_size", "n_embd", "d_model") or 0,
        query_heads=_first(config, "num_attention_heads", "n_head", "num_heads", "n_heads"),
        several_streams=model.config.model_type in SEVERAL_STREAMS,
    )


def _fills_in(model_type: str) -> bool:
    """Whether a family was made to fill in masked words: causal only where its entry says so."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    return model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES


def _find_stack(model: nn.Module, wanted: int | None) -> tuple[str, nn.ModuleList]:
    candidates = []
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or len(module) == 0:
            continue
        if re.search(r"vision|visual|audio|encoder\.layers\.\d+\.|mtp", name):
            continue
        with_attention = sum(_has_attention(block) for block in module)
        if with_attention:
            candidates.append((len(module) == wanted, len(module), -name.count("."), name, module))
    if not candidates:
        raise Unsupported(
            f"{type(model).__name__} has no stack of blocks with softmax attention, "
            "so there is no attention sink to look for."
        )
    best = max(candidates, key=lambda c: c[:3])
    return best[3], best[4]


def _has_attention(block: nn.Module) -> bool:
    return any(
        _ATTENTION.search(name.rpartition(".")[2]) or _ATTENTION.search(type(child).__name__)
        for name, child in block.named_modules()
        if name
    )


def _describe(name: str, index: int, block: nn.Module, layer_type: str) -> Block:
    return Block(
        index=index,
        name=name,
        layer_type=layer_type if _has_attention(block) else "none",
        attention=tuple(f"{name}.{child}" for child in _attention_children(block)),
    )


def _attention_children(block: nn.Module) -> list[str]:
    """Direct children (or grandchildren inside a plain container) that are attention-like."""
    found = []
    for name, child in block.named_children():
        if _NORM.search(name):
            continue
        if _ATTENTION.search(name) or _ATTENTION.search(type(child).__name__):
            found.append(name)
        elif isinstance(child, nn.ModuleList):
            found += [
                f"{name}.{i}"
                for i, item in enumerate(child)
                if _ATTENTION.search(type(item).__name__)
            ]
    return found


def _layer_types(config: Any, count: int) -> list[str]:
    declared = getattr(config, "layer_types", None) or getattr(config, "attention_layers", None)
    if not isinstance(declared, (list, tuple)) or len(declared) != count:
        window = getattr(config, "sliding_window", None)
        uses = getattr(config, "use_sliding_window", True)
        return ["sliding" if window and uses else "full"] * count
    return [_layer_type(str(kind)) for kind in declared]


def _layer_type(declared: str) -> str:
    return next((kind for word, kind in LAYER_WORDS.items() if word in declared), "full")


def _first(config: Any, *names: str) -> int | None:
    for name in names:
        try:
            value = getattr(config, name, None)
        except Exception as error:
            # newer configurations refuse to answer for attributes that differ between layers
            if "PerLayer" not in type(error).__name__:
                raise
            continue
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    return None
