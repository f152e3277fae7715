"""Attention without attention maps: columns, column sums and row entropy from the log-sum-exp.

With scores `s_ij = scale · q_i·k_j` and `lse_i = log Σ_j exp s_ij`, the attention map is
`A_ij = exp(s_ij − lse_i)`, so any column costs O(T·D) and no map is ever held.

All column sums `Σ_i A_ij` come from a second fused call with the roles of queries and keys swapped
and time reversed, which turns the anti-causal mask into a causal one: queries `[k, 1]`, keys
`[q, −lse/scale]`; its own log-sum-exp is the logarithm of the attention each key receives. In half
precision on CUDA a kernel of our own does it in half the arithmetic (`observe.kernel`).

The functions whose names begin with `chunked_` are the slow, obvious reference, and serve masks
and soft-capped scores that the fused call does not know; of long texts on CUDA `observe.flex` does.

Shapes as in `observe.scores`.
"""

from __future__ import annotations

from functools import cache

import torch

from sinkscope.observe.flex import by_flex, flex_received
from sinkscope.observe.fused import fused_attention, split_summands
from sinkscope.observe.scores import Scores, capped

HALF_MAX = 6e4  # below the largest float16
WIDEST = 256  # head size up to which the kernel's tiles fit on the chip


def p0_scores(s: Scores, p0: torch.Tensor) -> torch.Tensor:
    """Score of each query with the key of its own P0: [B, H, T], fp32.

    p0 [B, T] key indices; below zero where the key is no longer at hand, with any score.
    """
    if p0.any():
        index = p0.clamp_min(0)[:, None, :, None].expand(-1, s.k.shape[1], -1, s.k.shape[3])
        chosen = s.expand(s.k.gather(2, index)).float()
        scores = (s.q.float() * chosen).sum(-1)
    else:
        # a plain matrix-vector product where every row's P0 is key 0
        k = s.expand(s.k[:, :, :1]).float()
        scores = (s.q.float() @ k.transpose(-1, -2)).squeeze(-1)
    return capped(scores * s.scale, s.softcap)


def key_sums(s: Scores, lse: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Attention each key receives, summed over the valid queries [B, T]: [B, H, K], fp32.

    Plain causal attention takes the kernel or the reversed fused pass; everything else is chunked.
    """
    if by_flex(s):
        return flex_received(s, lse, valid)
    if s.mask is not None or s.softcap is not None or not s.causal:
        return chunked_key_sums(s, lse, valid)
    if s.before:  # the earlier keys, which every query sees, and the queries' own
        earlier = Scores(s.q, s.k[:, :, : s.before], None, False, s.scale)
        own = Scores(s.q, s.k[:, :, s.before :], None, True, s.scale)
        return torch.cat([seen_key_sums(earlier, lse, valid), key_sums(own, lse, valid)], 2)
    if s.q.shape[-1] <= WIDEST and received_problem(s.q.device.type, s.q.dtype) is None:
        from sinkscope.observe.kernel import received

        return received(s.q, s.k, lse, valid, s.scale)
    return reversed_key_sums(s, lse, valid)


@cache
def received_problem(device: str, dtype: torch.dtype) -> str | None:
    """None where `observe.kernel` serves; else one sentence saying why it does not."""
    if device != "cuda" or dtype == torch.float32:
        return "the kernel is for half precision on CUDA"
    try:
        from sinkscope.observe.kernel import kernel_problem
    except ImportError as error:
        return f"Triton cannot be imported ({error})"
    return kernel_problem(device, dtype)


def reversed_key_sums(s: Scores, lse: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """`key_sums` by the reversed fused pass (plain causal attention only): [B, H, T], fp32.

    lse [B, H, T], valid [B, T]. In half precision −lse/scale is split into summands over extra
    columns, so that no bits of it are lost.
    """
    queries, keys = (x.flip(2) for x in _swapped(s, lse, valid))
    _, log_sums = fused_attention(queries, keys, keys, None, True, s.scale)
    return log_sums.flip(2).exp()


def seen_key_sums(s: Scores, lse: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """`key_sums` of keys that every query sees: [B, H, K], fp32."""
    queries, keys = _swapped(s, lse, valid)
    _, log_sums = fused_attention(queries, keys, keys, None, False, s.scale)
    return log_sums.exp()


def _swapped(s: Scores, lse: torch.Tensor, valid: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Keys [k, 1] [B, H, K, ..] in the role of queries, and queries [q, −lse/scale] in theirs."""
    nothing = -min(1e4 / s.scale, HALF_MAX)  # beyond it float16 has only infinity, and then NaN
    weight = torch.where(valid.unsqueeze(1), -lse / s.scale, nothing)
    extra = split_summands(weight, s.q.dtype)
    k = s.expand(s.k)
    ones = k.new_ones(*k.shape[:3], extra.shape[-1])
    return torch.cat([k, ones], -1), torch.cat([s.q, extra], -1)


def chunked_key_sums(s: Scores, lse: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """`key_sums` over chunks of queries, in plain torch: the reference; [B, H, K], fp32.

    Σ_i exp(s_ij − lse_i) over the valid queries; lse [B, H, T], valid [B, T].
    """
    k = s.expand(s.k)
    sums = torch.zeros(k.shape[:3], dtype=torch.float32, device=k.device)
    for start, stop in s.pieces():
        scores, visible = s.chunk(start, stop, k)
        scores -= lse[:, :, start:stop, None]
        rows = valid[:, None, start:stop, None]
        weights = scores.exp_().masked_fill_(~(visible & rows), 0.0)
        sums[:, :, : weights.shape[3]] += weights.sum(2)
    return sums


def row_entropy(s: Scores, lse: torch.Tensor) -> torch.Tensor:
    """Entropy of each row in nats: `H_i = lse_i − Σ_j A_ij s_ij`: [B, H, T], fp32.

    The mean score is `scale · q_i · Σ_j A_ij k_j`, one more fused pass with the keys as values.
    `lse` is the one of the keys alone (without a learned sink).
    """
    if s.softcap is not None or s.q.dtype != torch.float32:
        return chunked_row_entropy(s, lse)
    mean_key, _ = fused_attention(s.q, s.k, s.k, s.mask, s.causal, s.scale)
    return lse - s.scale * (s.q * mean_key).sum(-1)


def chunked_row_entropy(s: Scores, lse: torch.Tensor) -> torch.Tensor:
    """`row_entropy` over chunks of queries, in plain torch: the reference; [B, H, T], fp32.

    −Σ_j A_ij log A_ij in nats, with log A_ij = s_ij − lse_i; lse [B, H, T].
    """
    k = s.expand(s.k)
    rows = []
    for start, stop in s.pieces():
        scores, visible = s.chunk(start, stop, k)
        logs = scores - lse[:, :, start:stop, None]
        rows.append(-torch.where(visible, logs.exp() * logs, 0.0).sum(-1))
    return torch.cat(rows, 2)


def chunked_attention(s: Scores, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention output [B, H, T, Dv] and log-sum-exp [B, H, T] over chunks: the reference."""
    k, values = s.expand(s.k), s.expand(v)
    outputs, lses = [], []
    for start, stop in s.pieces():
        scores, _ = s.chunk(start, stop, k)
        lse = torch.logsumexp(scores, -1)
        weights = (scores - lse.unsqueeze(-1)).exp()
        outputs.append((weights @ values[:, :, : scores.shape[3]].float()).to(v.dtype))
        lses.append(lse)
    return torch.cat(outputs, 2), torch.cat(lses, 2)
