"""The model of a `SinkscopeLabConfig`: Llama's own code around another attention."""

import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, initialization
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import (
    LlamaDecoderLayer,
    LlamaForCausalLM,
    LlamaModel,
    LlamaPreTrainedModel,
)

from sinkscope.subject.variants.attention import SinkscopeLabAttention, eager_attention_forward
from sinkscope.subject.variants.configuration import FUSED, SinkscopeLabConfig

# The readers look for these two beside the model to know that the registry serves it.
__all__ = ["ALL_ATTENTION_FUNCTIONS", "SinkscopeLabForCausalLM", "eager_attention_forward"]


class ForceSink(nn.Module):
    """Channels for position zero alone: it keeps the first k, every other token the other d − k.

    Stands before the norms of attention and MLP, so that blocks can tell position zero apart
    without a large norm, and leaves the residual stream alone. Not before the final norm: no block
    reads behind it, and the prediction from position zero should not be made from k channels.
    Position zero is where position ids are 0, so each packed segment has its own.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels

    def forward(self, hidden_states: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        """hidden_states [B, T, d] with the other channels at zero; position_ids [B or 1, T]."""
        own = torch.arange(hidden_states.shape[-1], device=hidden_states.device) < self.channels
        return hidden_states.masked_fill((position_ids == 0).unsqueeze(-1) != own, 0.0)


class SinkscopeLabDecoderLayer(LlamaDecoderLayer):
    """Llama's block: x + attention(norm x), then x + MLP(norm x)."""

    def __init__(self, config: SinkscopeLabConfig, layer_idx: int):
        super().__init__(config, layer_idx)
        self.self_attn = SinkscopeLabAttention(config, layer_idx)
        self.force_sink = ForceSink(config.force_sink) if config.force_sink else None

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values=None,
        use_cache: bool | None = False,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        **kwargs,
    ) -> torch.Tensor:
        """The stream [B, T, d] behind the block."""
        attended, _ = self.self_attn(
            hidden_states=self.input_layernorm(self._read(hidden_states, position_ids)),
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            position_embeddings=position_embeddings,
            **kwargs,
        )
        hidden_states = hidden_states + attended
        read = self._read(hidden_states, position_ids)
        return hidden_states + self.mlp(self.post_attention_layernorm(read))

    def _read(self, hidden_states: torch.Tensor, position_ids) -> torch.Tensor:
        if self.force_sink is None:
            return hidden_states
        return self.force_sink(hidden_states, position_ids)


class SinkscopeLabPreTrainedModel(LlamaPreTrainedModel):
    """What model and language model share."""

    config: SinkscopeLabConfig
    _no_split_modules = ["SinkscopeLabDecoderLayer"]  # noqa: RUF012
    _supports_flash_attn = False
    _supports_flex_attn = False
    _can_record_outputs = {  # noqa: RUF012
        "hidden_states": SinkscopeLabDecoderLayer,
        "attentions": SinkscopeLabAttention,
    }

    @property
    def _supports_sdpa(self) -> bool:  # type: ignore[override]
        """Fused attention would drop a learned key or a sigmoid without a word."""
        return self.config.attention in FUSED

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, SinkscopeLabAttention):
            for name in ("sinks", "sink_key", "sink_value"):
                if hasattr(module, name):
                    initialization.zeros_(getattr(module, name))


class SinkscopeLabModel(SinkscopeLabPreTrainedModel, LlamaModel):
    """The decoder."""

    def __init__(self, config: SinkscopeLabConfig):
        super().__init__(config)
        blocks = range(config.num_hidden_layers)
        self.layers = nn.ModuleList([SinkscopeLabDecoderLayer(config, i) for i in blocks])
        self.post_init()


class SinkscopeLabForCausalLM(SinkscopeLabPreTrainedModel, LlamaForCausalLM):
    """The decoder with its language-model head."""

    def __init__(self, config: SinkscopeLabConfig):
        super().__init__(config)
        self.model = SinkscopeLabModel(config)
        self.post_init()


AutoModel.register(SinkscopeLabConfig, SinkscopeLabModel, exist_ok=True)
AutoModelForCausalLM.register(SinkscopeLabConfig, SinkscopeLabForCausalLM, exist_ok=True)
