"""Mixtral: Llama's attention, and an MLP of routed experts of which two are active."""

from __future__ import annotations

import torch
from transformers import MixtralConfig, MixtralForCausalLM

from sinkscope.known.constructed.canvas import Canvas, common_config
from sinkscope.known.constructed.spec import Spec

EXPERT_NEURONS = 112
ACTIVE = 2


class MixtralCanvas(Canvas):
    """Gate and up rows lie one after the other in one tensor for all experts."""

    @classmethod
    def empty(cls, spec: Spec) -> MixtralCanvas:
        """A model of the given size."""
        config = MixtralConfig(
            **common_config(spec, EXPERT_NEURONS),
            num_local_experts=spec.experts,
            num_experts_per_tok=ACTIVE,
            sliding_window=None,
        )
        return cls(MixtralForCausalLM(config))

    def gate(self, b: int, expert: int = 0) -> torch.Tensor:
        """Gate rows of an expert, [neurons, d]."""
        return self._gate_up(b, expert).chunk(2)[0]

    def up(self, b: int, expert: int = 0) -> torch.Tensor:
        """Up rows of an expert, [neurons, d]."""
        return self._gate_up(b, expert).chunk(2)[1]

    def down(self, b: int, expert: int = 0) -> torch.Tensor:
        """Output columns of an expert's neurons, [d, neurons]."""
        return self.block(b).mlp.experts.down_proj.data[expert]

    def router(self, b: int) -> torch.Tensor:
        """Router rows, [experts, d]."""
        return self.block(b).mlp.gate.weight.data

    def _gate_up(self, b: int, expert: int) -> torch.Tensor:
        return self.block(b).mlp.experts.gate_up_proj.data[expert]
