"""Llama: rotary positions, RMSNorm, a gated MLP, shared key heads."""

from __future__ import annotations

from typing import Any

from transformers import LlamaConfig, LlamaForCausalLM

from sinkscope.known.constructed.canvas import Canvas
from sinkscope.known.constructed.spec import LONGEST, Spec

# So slow that the last pair of a head's dimensions turns by under 0.01 radian over LONGEST.
ROPE_THETA = 1e7


def common_config(spec: Spec, neurons: int) -> dict[str, Any]:
    """Fields that the rotary families share."""
    return {
        "vocab_size": spec.vocab,
        "hidden_size": spec.width,
        "intermediate_size": neurons,
        "num_hidden_layers": spec.depth,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.key_heads,
        "head_dim": spec.head_size,
        "max_position_embeddings": LONGEST,
        "tie_word_embeddings": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": ROPE_THETA},
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": None,
    }


def llama(spec: Spec) -> Canvas:
    """An empty Llama of the given size."""
    return Canvas(LlamaForCausalLM(LlamaConfig(**common_config(spec, 2 * spec.width))))
