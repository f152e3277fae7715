"""GPT-2: learned positions, LayerNorm, biases, an MLP without a gate."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from sinkscope.known.constructed.canvas import Canvas
from sinkscope.known.constructed.spec import Spec


class Gpt2Canvas(Canvas):
    """Linear weights are kept as (in, out); queries, keys and values lie in one tensor."""

    @classmethod
    def empty(cls, spec: Spec) -> Gpt2Canvas:
        """A model of the given size, without dropout."""
        config = GPT2Config(
            vocab_size=spec.vocab,
            n_positions=spec.positions,
            n_embd=spec.width,
            n_layer=spec.depth,
            n_head=spec.heads,
            n_inner=2 * spec.width,
            tie_word_embeddings=False,
            bos_token_id=0,
            eos_token_id=1,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
        return cls(GPT2LMHeadModel(config))

    @property
    def positions(self) -> torch.Tensor:
        """Position embedding [positions, d]."""
        return self.model.transformer.wpe.weight.data

    def block(self, b: int) -> Any:
        """The module of block b."""
        return self.model.transformer.h[b]

    def query_bias(self, b: int, head: int) -> torch.Tensor:
        """Query bias of a head, [s]."""
        return self._rows(self.block(b).attn.c_attn.bias.data, head)

    def gate(self, b: int, expert: int = 0) -> torch.Tensor:
        """Input rows of the neurons, [neurons, d]."""
        return self.block(b).mlp.c_fc.weight.data.T

    def up(self, b: int, expert: int = 0) -> None:
        """None: this MLP has no gate."""
        return None

    def down(self, b: int, expert: int = 0) -> torch.Tensor:
        """Output columns of the neurons, [d, neurons]."""
        return self.block(b).mlp.c_proj.weight.data.T

    def activate(self, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """gelu(gate), [...]; there is no `up`."""
        return nn.functional.gelu(gate, approximate="tanh")

    def _attention(self, b: int) -> tuple[torch.Tensor, ...]:
        own = self.block(b).attn
        return (*own.c_attn.weight.data.T.chunk(3), own.c_proj.weight.data)
