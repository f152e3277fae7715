"""GPT-OSS: a learned sink logit in every head, routed experts, a clamped gate."""

from __future__ import annotations

import torch
from transformers import GptOssConfig, GptOssForCausalLM

from sinkscope.known.constructed.canvas import Canvas, common_config
from sinkscope.known.constructed.moe import ACTIVE, EXPERT_NEURONS
from sinkscope.known.constructed.spec import Spec

NO_SINK = -30.0  # a learned logit that takes no mass


class GptOssCanvas(Canvas):
    """Expert weights are kept transposed, gate and up rows interleaved."""

    @classmethod
    def empty(cls, spec: Spec) -> GptOssCanvas:
        """A model of the given size, full attention in every block."""
        config = GptOssConfig(
            **common_config(spec, EXPERT_NEURONS),
            num_local_experts=spec.experts,
            num_experts_per_tok=ACTIVE,
            layer_types=["full_attention"] * spec.depth,
        )
        return cls(GptOssForCausalLM(config))

    def query_bias(self, b: int, head: int) -> torch.Tensor:
        """Query bias of a head, [s]."""
        return self._rows(self.block(b).self_attn.q_proj.bias.data, head)

    def learned(self, b: int) -> torch.Tensor:
        """Learned sink logits of a block, [heads]."""
        return self.block(b).self_attn.sinks.data

    def router(self, b: int) -> torch.Tensor:
        """Router rows, [experts, d]."""
        return self.block(b).mlp.router.weight.data

    def gate(self, b: int, expert: int = 0) -> torch.Tensor:
        """Gate rows of an expert, [neurons, d]."""
        return self.block(b).mlp.experts.gate_up_proj.data[expert, :, ::2].T

    def up(self, b: int, expert: int = 0) -> torch.Tensor:
        """Up rows of an expert, [neurons, d]."""
        return self.block(b).mlp.experts.gate_up_proj.data[expert, :, 1::2].T

    def down(self, b: int, expert: int = 0) -> torch.Tensor:
        """Output columns of an expert's neurons, [d, neurons]."""
        return self.block(b).mlp.experts.down_proj.data[expert].T

    def activate(self, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """gate·sigmoid(1.702·gate)·up, [...], gate clamped from above.

        The family's `up + 1` is undone in `clear`; its clamp of up is left out.
        """
        gate = gate.clamp(max=self.config.swiglu_limit)
        return gate * torch.sigmoid(self.config.swiglu_alpha * gate) * up

    def clear(self) -> None:
        """Zero every weight, norms to one; no learned sinks; the `up + 1` of this family undone."""
        super().clear()
        for b in range(self.depth):
            self.learned(b).fill_(NO_SINK)
            self.block(b).mlp.experts.gate_up_proj_bias.data[:, 1::2] = -1.0
