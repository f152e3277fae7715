"""Attention in seven kinds, behind transformers' attention registry so that the readers see it."""

from __future__ import annotations

import math

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaRMSNorm,
    apply_rotary_pos_emb,
    repeat_kv,
)


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    s_aux: torch.Tensor | None = None,
    sinks: torch.Tensor | None = None,
    sink_value: torch.Tensor | None = None,
    sigmoid_bias: float | None = None,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention with a map: output [B, T, H, D], weights [B, H, T, T] of the real keys.

    s_aux         [H] logit of one more key, the same for every query, that holds no value
    sinks         [B, H, T, 1] the same with a logit of its own for each query
    sink_value    [H, D] value of that key
    sigmoid_bias  weights are sigmoid(score + bias), each by itself, in place of a softmax
    """
    groups = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    if s_aux is not None:
        sinks = s_aux.reshape(1, -1, 1, 1).expand(*scores.shape[:3], 1)
    slot = None
    if sigmoid_bias is not None:
        weights = torch.sigmoid(scores.float() + sigmoid_bias)
    elif sinks is not None:
        scores = torch.cat([scores, sinks.to(scores.dtype)], -1)
        weights, slot = scores.softmax(-1, dtype=torch.float32).split((key.shape[2], 1), -1)
    else:
        weights = scores.softmax(-1, dtype=torch.float32)
    weights = nn.functional.dropout(weights.to(query.dtype), p=dropout, training=module.training)
    output = torch.matmul(weights, value)
    if slot is not None and sink_value is not None:
        output = output + slot.to(query.dtype) * sink_value[:, None].to(query.dtype)
    return output.transpose(1, 2).contiguous(), weights


class SinkscopeLabAttention(LlamaAttention):
    """Llama's attention, with one thing changed. Scores s_j = q·k_j/√d over the visible keys j:

    softmax           A_j = exp s_j / Σ exp s                                       (Llama)
    gated             o ⊙ sigmoid(W_g x) before W_O, x the block's normed input     (2505.06708, G1)
    head-norm         RMSNorm(o_h) before W_O, one weight shared by the heads       (2605.06611)
    softmax-plus-one  A_j = exp s_j / (1 + Σ exp s)                                 (2309.17453)
    learned-sink      A_j = exp s_j / (exp b_h + Σ exp s), b_h learned              (gpt-oss)
    key-value-bias    one more key k' and value v' a head, learned                  (2402.17762)
    sigmoid           A_j = sigmoid(s_j − log T), T the context                     (2409.04431)

    What is learned beside the projections starts at zero, so that the three kinds with one more
    key start as softmax-plus-one. k' is not rotated: it stands at no position.
    """

    def __init__(self, config, layer_idx: int):
        super().__init__(config, layer_idx)
        self.kind = config.attention
        heads, width = config.num_attention_heads, self.head_dim
        if self.kind == "gated":
            self.gate = nn.Linear(config.hidden_size, heads * width, bias=False)
        elif self.kind == "head-norm":
            self.head_norm = LlamaRMSNorm(width, eps=config.rms_norm_eps)
        elif self.kind == "learned-sink":
            self.sinks = nn.Parameter(torch.zeros(heads))
        elif self.kind == "key-value-bias":
            # Flat like a bias, so that an optimizer does not take them for matrices to decay.
            self.sink_key = nn.Parameter(torch.zeros(heads * width))
            self.sink_value = nn.Parameter(torch.zeros(heads * width))

    def forward(  # type: ignore[override]
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | None = None,
        past_key_values=None,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Output [B, T, d] and, from eager attention, the map."""
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        projections = (self.q_proj, self.k_proj, self.v_proj)
        query, key, value = (p(hidden_states).view(shape).transpose(1, 2) for p in projections)
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        output, weights = attend(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **self._extra(query),
            **kwargs,
        )
        if self.kind == "head-norm":
            output = self.head_norm(output)
        output = output.reshape(*hidden_states.shape[:-1], -1).contiguous()
        if self.kind == "gated":
            output = output * torch.sigmoid(self.gate(hidden_states))
        return self.o_proj(output), weights

    def _extra(self, query: torch.Tensor) -> dict:
        """What the attention function is told beside queries, keys and values."""
        if self.kind == "softmax-plus-one":
            return {"s_aux": query.new_zeros(query.shape[1])}
        if self.kind == "learned-sink":
            return {"s_aux": self.sinks}
        if self.kind == "key-value-bias":
            key, value = (b.view(-1, self.head_dim) for b in (self.sink_key, self.sink_value))
            logit = (query * key[:, None]).sum(-1, keepdim=True) * self.scaling
            return {"sinks": logit, "sink_value": value}
        if self.kind == "sigmoid":
            return {"sigmoid_bias": -math.log(self.config.max_position_embeddings)}
        return {}
