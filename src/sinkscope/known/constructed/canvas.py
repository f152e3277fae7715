"""Weights of a family under common names, so that a circuit is written once for all of them.

The names are laid over Llama here: rotary positions, RMSNorm, a gated MLP, shared key heads. Other
families say where they differ.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from sinkscope.known.constructed.spec import LONGEST, Spec

# So slow that the last pair of a head's dimensions turns by under 0.01 radian over LONGEST.
ROPE_THETA = 1e7
QUICK_THETA = 1.2e3  # so that the middle pair turns by half a circle over a hundred positions


def common_config(spec: Spec, neurons: int) -> dict[str, Any]:
    """Fields that the rotary families share."""
    theta = QUICK_THETA if spec.mechanism == "rotary-distance" else ROPE_THETA
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
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": None,
    }


class Canvas:
    """Views into the weights of a causal LM: writing to a view writes the model.

    With d residual channels and s the head size, in every block b:
    query(b, head), key(b, group), value(b, group)  [s, d]
    out(b, head)                                    [d, s]
    gate(b, expert), up(b, expert)                  [neurons, d]; up is None without a gated MLP
    down(b, expert)                                 [d, neurons]
    router(b)                                       [experts, d], or None in a dense family
    query_bias(b, head), learned(b)                 [s] and [heads], or None
    """

    def __init__(self, model: Any):
        self.model = model
        self.config = model.config
        self.depth = model.config.num_hidden_layers
        self.heads = model.config.num_attention_heads
        self.groups = getattr(model.config, "num_key_value_heads", self.heads)
        self.size = (
            getattr(model.config, "head_dim", None) or model.config.hidden_size // self.heads
        )
        self.experts = getattr(model.config, "num_local_experts", 1)

    @classmethod
    def empty(cls, spec: Spec) -> Canvas:
        """A model of the given size."""
        return cls(LlamaForCausalLM(LlamaConfig(**common_config(spec, 2 * spec.width))))

    @property
    def embedding(self) -> torch.Tensor:
        """Token embedding [V, d]."""
        return self.model.get_input_embeddings().weight.data

    @property
    def readout(self) -> torch.Tensor:
        """Unembedding [V, d]."""
        return self.model.get_output_embeddings().weight.data

    @property
    def positions(self) -> torch.Tensor | None:
        """Position embedding [positions, d], or None where positions are rotated."""
        return None

    @property
    def neurons(self) -> int:
        """Neurons of an MLP, or of each expert."""
        return self.gate(0).shape[0]

    def block(self, b: int) -> Any:
        """The module of block b."""
        return self.model.model.layers[b]

    def query(self, b: int, head: int) -> torch.Tensor:
        """Query rows of a head, [s, d]."""
        return self._rows(self._attention(b)[0], head)

    def key(self, b: int, group: int) -> torch.Tensor:
        """Key rows of a key head, [s, d]."""
        return self._rows(self._attention(b)[1], group)

    def value(self, b: int, group: int) -> torch.Tensor:
        """Value rows of a key head, [s, d]."""
        return self._rows(self._attention(b)[2], group)

    def out(self, b: int, head: int) -> torch.Tensor:
        """Output columns of a head, [d, s]."""
        return self._rows(self._attention(b)[3], head).T

    def query_bias(self, b: int, head: int) -> torch.Tensor | None:
        """Query bias of a head, [s]; None in a family without one."""
        return None

    def learned(self, b: int) -> torch.Tensor | None:
        """Learned sink logits of a block, [heads]; None in a family without them."""
        return None

    def router(self, b: int) -> torch.Tensor | None:
        """Router rows of a block, [experts, d]; None in a dense family."""
        return None

    def gate(self, b: int, expert: int = 0) -> torch.Tensor:
        """Gate rows, or input rows where the MLP is not gated, [neurons, d]."""
        return self.block(b).mlp.gate_proj.weight.data

    def up(self, b: int, expert: int = 0) -> torch.Tensor | None:
        """Up rows, [neurons, d]; None without a gated MLP."""
        return self.block(b).mlp.up_proj.weight.data

    def down(self, b: int, expert: int = 0) -> torch.Tensor:
        """Output columns of the neurons, [d, neurons]."""
        return self.block(b).mlp.down_proj.weight.data

    def activate(self, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """What neurons send to their output columns: here silu(gate)·up, [...] each."""
        return nn.functional.silu(gate) * up

    def clear(self) -> None:
        """Zero every weight, norms to one."""
        for name, parameter in self.model.named_parameters():
            norm = "norm" in name or ".ln_" in name
            parameter.data.fill_(1.0 if norm and name.endswith("weight") else 0.0)

    def _attention(self, b: int) -> tuple[torch.Tensor, ...]:
        """Rows of queries, keys and values, and columns of the output, of all heads."""
        own = self.block(b).self_attn
        rows = (each.weight.data for each in (own.q_proj, own.k_proj, own.v_proj))
        return (*rows, own.o_proj.weight.data.T)

    def _rows(self, weight: torch.Tensor, index: int) -> torch.Tensor:
        return weight[index * self.size : (index + 1) * self.size]
