"""What is kept of an attention call, and how scores or a map are reduced to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from sinkscope.observe.columns import key_sums, p0_scores, row_entropy
from sinkscope.observe.layout import Layout, Visibility
from sinkscope.observe.scores import Scores, capped


@dataclass
class Want:
    """What to keep of each attention call, beside the P0 column.

    received  sums over queries for every key, and over the late ones alone
    entropy   entropy of each row, in nats
    columns   key indices whose whole columns are kept
    maps      the map itself (a few short prompts only)
    inspect   functions called as fn(call, read) while queries, keys and values are at hand
    """

    received: bool = True
    entropy: bool = False
    columns: tuple[int, ...] = ()
    maps: bool = False
    inspect: tuple[Callable[[AttentionCall, AttentionRead], None], ...] = ()


@dataclass
class AttentionCall:
    """One attention call in flight, before it is dropped.

    values [B, G, T, Dv]; output [B, T, H, Dv]; s_aux learned sink logits [H] or None
    """

    scores: Scores
    values: torch.Tensor
    output: torch.Tensor
    module: nn.Module
    s_aux: torch.Tensor | None = None


@dataclass
class AttentionRead:
    """What was kept of one attention call. Sums and masses are fp32, on the model's device.

    block     index of the decoder block
    reader    exact, lean, lean (chunked) or own maps; `reason` says why it is not the one asked
    p0        [B, H, T] attention of each query on its P0 (0 where P0 is out of sight)
    received  [B, H, T] attention each key receives, summed over valid queries
    late      [B, H, T] the same, summed over late queries
    learned   [B, H, T] mass on a learned sink logit, or None where there is none
    entropy   [B, H, T] of each row in nats; columns [B, H, T, k]; map [B, H, T, T]
    """

    block: int
    reader: str
    reason: str
    visible: Visibility
    p0: torch.Tensor
    received: torch.Tensor | None = None
    late: torch.Tensor | None = None
    entropy: torch.Tensor | None = None
    columns: torch.Tensor | None = None
    learned: torch.Tensor | None = None
    map: torch.Tensor | None = None


def read_lean(
    s: Scores,
    lse: torch.Tensor,
    total: torch.Tensor,
    layout: Layout,
    visible: Visibility,
    want: Want,
    block: int,
    reader: str,
) -> AttentionRead:
    """Reduce scores to an AttentionRead: A_ij = exp(s_ij − total_i).

    lse    [B, H, T] log-sum-exp over the keys alone
    total  [B, H, T] the same with a learned sink logit in it; `lse` itself where there is none
    """
    valid = layout.valid
    seen = visible.p0_seen.unsqueeze(1)
    p0 = torch.where(seen, (p0_scores(s, layout.p0) - total).exp(), 0.0)
    read = AttentionRead(block, reader, "", visible, p0)
    if want.received:
        read.received = key_sums(s, total, valid)
        read.late = _late_sums(s, total, layout, read.received)
    if want.entropy:
        rows = row_entropy(s, lse)
        if total is not lse:  # entropy over the real keys and the learned sink together
            share = (lse - total).exp()
            sink = (1.0 - share).clamp_min(1e-38)
            rows = share * (rows - share.clamp_min(1e-38).log()) - sink * sink.log()
        read.entropy = torch.where(valid.unsqueeze(1), rows, 0.0)
    if want.columns:
        chosen = s.expand(s.k)[:, :, list(want.columns)]
        scores = capped(s.q.float() @ chosen.float().transpose(-1, -2) * s.scale, s.softcap)
        hidden = _hidden_columns(s, want.columns)
        read.columns = (scores - total.unsqueeze(-1)).exp().masked_fill_(hidden, 0.0)
    if want.maps:
        k = s.expand(s.k)
        scores, seen_map = s.chunk(0, s.q.shape[2], k)
        read.map = (scores - total.unsqueeze(-1)).exp().masked_fill_(~seen_map, 0.0)
    return read


def _late_sums(
    s: Scores, total: torch.Tensor, layout: Layout, received: torch.Tensor
) -> torch.Tensor:
    """What each key receives from the late queries alone; a piece of a text has all, or none."""
    if not layout.late.any():
        return torch.zeros_like(received)
    return received if layout.all_late else key_sums(s, total, layout.late)


def read_map(
    weights: torch.Tensor,
    layout: Layout,
    visible: Visibility,
    want: Want,
    block: int,
    reader: str,
    reason: str,
) -> AttentionRead:
    """Reduce an attention map [B, H, T, T] to an AttentionRead."""
    valid = layout.valid
    index = layout.p0.clamp_min(0)[:, None, :, None].expand(-1, weights.shape[1], -1, -1)
    p0 = weights.gather(3, index).squeeze(3).float()
    p0 = torch.where(visible.p0_seen.unsqueeze(1), p0, 0.0)
    read = AttentionRead(block, reader, reason, visible, p0)
    if want.received:
        queries = torch.stack([valid, layout.late]).float()
        read.received, read.late = torch.einsum("bhtk,nbt->nbhk", weights.float(), queries)
    if want.entropy:
        mass = weights.float()
        rows = torch.special.entr(mass).sum(-1)
        rest = (1.0 - mass.sum(-1)).clamp_min(0.0)
        rows = rows + torch.special.entr(torch.where(rest > 1e-5, rest, 0.0))
        read.entropy = torch.where(valid.unsqueeze(1), rows, 0.0)
    if want.columns:
        read.columns = weights[..., list(want.columns)].float()
    if want.maps:
        read.map = weights.float()
    return read


def _hidden_columns(s: Scores, columns: tuple[int, ...]) -> torch.Tensor:
    keys = torch.tensor(columns, device=s.q.device)
    if s.mask is not None:
        return ~s.mask[..., keys]
    rows = torch.arange(s.q.shape[2], device=s.q.device).unsqueeze(1)
    return keys > rows if s.causal else torch.zeros((), dtype=torch.bool, device=s.q.device)


def on_cpu(read: AttentionRead) -> AttentionRead:
    """The same read with every tensor on the CPU."""

    def moved(value):
        return value.cpu() if isinstance(value, torch.Tensor) else value

    seen = Visibility(*(moved(x) for x in vars(read.visible).values()))
    return AttentionRead(**{**{k: moved(v) for k, v in vars(read).items()}, "visible": seen})
