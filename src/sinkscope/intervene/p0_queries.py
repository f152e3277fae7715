"""What is kept of late queries, so that the share of an edited key of P0 follows without a pass.

For a late query t with score s_t0 on P0 and `R_t = logsumexp_{j>0} s_tj` over all other keys,

    share a_t = sigmoid(s_t0 − logaddexp(R_t, learned sink)),    margin s_t0 − R_t .

Only `s_t0 = scale · q_t·k_0` depends on P0's key, so q_t and R_t of the intact pass are kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sinkscope.errors import Unsupported
from sinkscope.observe.layout import Layout
from sinkscope.observe.reads import AttentionCall, AttentionRead
from sinkscope.observe.scores import CHUNK, NEVER, capped

ELEMENTS = 1 << 25  # scores held at a time


@dataclass
class BlockQueries:
    """Late queries of one softmax block, for n prompts and Q late positions.

    heads    the h that are kept; group [h] the key head of each
    query    [n, h, Q, D]; own [n, h, Q] its score on the intact key of P0 (nats)
    others   [n, h, Q] log-sum-exp over the other keys, without a learned sink
    seen     [n, Q] the query is late and sees P0
    learned  [h] logit of a learned sink, or None
    """

    heads: list[int]
    group: torch.Tensor
    query: torch.Tensor
    own: torch.Tensor
    others: torch.Tensor
    seen: torch.Tensor
    scale: float
    softcap: float | None
    learned: torch.Tensor | None

    def scores(self, keys: torch.Tensor) -> torch.Tensor:
        """Scores [n, h, Q, E] on E keys of P0 for each prompt: keys [E, n, G, D]."""
        chosen = keys[:, :, self.group.to(keys.device)].float().permute(1, 2, 3, 0)
        return capped(self.query.float() @ chosen * self.scale, self.softcap)

    def read(self, keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean share and mean margin of the late queries that see P0: [E, n, h] each."""
        per = max(1, ELEMENTS // max(1, self.own.numel()))
        parts = [self.reduce(self.scores(part)) for part in keys.split(per)]
        share, margin = (torch.cat(rows) for rows in zip(*parts))
        return share, margin

    def reduce(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean share and mean margin [E, n, h] from scores [n, h, Q, E] on P0."""
        others = self.others.unsqueeze(-1)
        total = others
        if self.learned is not None:
            total = torch.logaddexp(others, self.learned.reshape(1, -1, 1, 1).to(others))
        seen = self.seen[:, None, :, None]
        compared = seen & (others > NEVER / 2)  # a query that sees P0 alone has no margin
        share = _mean((scores - total).sigmoid(), seen)
        return share, _mean(scores - others, compared)


def _mean(values: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """Mean over queries, [n, h, Q, E] -> [E, n, h]; NaN where none is counted."""
    total = torch.where(counted, values, 0.0).sum(2)
    mean = total / counted.expand_as(values).sum(2)
    return mean.permute(2, 0, 1)


def late_positions(layout: Layout, most: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions [B, Q] of each row's late queries, and which of them count.

    most  at most so many, evenly spaced over the late half of each row; None for all of them
    """
    counts = layout.late.sum(1)
    width = int(counts.max()) if most is None else min(most, int(counts.max()))
    first = layout.late.int().argmax(1)
    steps = torch.arange(width, device=counts.device).expand(len(counts), -1)
    if most is None or most >= int(counts.max()):
        positions = first.unsqueeze(1) + steps
        return positions.clamp_max(layout.valid.shape[1] - 1), steps < counts.unsqueeze(1)
    # the middles of equal parts of the late half; a short row keeps each of its queries once
    wanted = counts.clamp_max(width).unsqueeze(1)
    at = ((2 * steps + 1) * counts.unsqueeze(1)) // (2 * wanted.clamp_min(1))
    counted = steps < wanted
    return torch.where(counted, first.unsqueeze(1) + at, 0), counted


def kept_queries(
    call: AttentionCall, read: AttentionRead, heads: list[int], positions, counted
) -> BlockQueries:
    """Reduce one attention call of the intact pass. Raises Unsupported where scores are not q·k."""
    s = call.scores
    if read.reason or (s.mask is not None and s.mask.shape[1] != 1):
        why = read.reason or "a mask of its own for each head"
        raise Unsupported(f"the scores of block {read.block} are not q·k alone: {why}.")
    positions, counted = positions.to(s.q.device), counted.to(s.q.device)
    groups = s.q.shape[1] // s.k.shape[1]
    group = torch.tensor([head // groups for head in heads], device=s.q.device)
    index = positions[:, None, :, None].expand(-1, len(heads), -1, s.q.shape[-1])
    query = s.q[:, heads].gather(2, index)
    keys = s.k[:, group].float().transpose(-1, -2)
    rest, own = [], []
    for part, at in zip(query.split(CHUNK, 2), positions.split(CHUNK, 1)):
        scores = capped(part.float() @ keys * s.scale, s.softcap)
        own.append(scores[..., 0].clone())
        scores.masked_fill_(~_visible(s.mask, at, keys.shape[-1]), NEVER)
        rest.append(scores[..., 1:].logsumexp(-1))
    seen = counted & read.visible.p0_seen.to(s.q.device).gather(1, positions)
    learned = None if call.s_aux is None else call.s_aux.detach().float().reshape(-1)[heads]
    return BlockQueries(
        heads, group, query.detach(), torch.cat(own, 2), torch.cat(rest, 2), seen,
        s.scale, s.softcap, learned,
    )  # fmt: skip


def _visible(mask: torch.Tensor | None, at: torch.Tensor, keys: int) -> torch.Tensor:
    """[B, 1, Q, T] which keys the queries at positions `at` [B, Q] see."""
    if mask is None:
        return (torch.arange(keys, device=at.device) <= at.unsqueeze(-1)).unsqueeze(1)
    rows = mask[..., :keys].expand(len(at), -1, -1, -1)
    return rows.gather(2, at[:, None, :, None].expand(-1, -1, -1, keys))


def joined(parts: list[BlockQueries]) -> BlockQueries:
    """The queries of several batches of prompts as one; rows of fewer queries are padded."""
    width = max(part.seen.shape[1] for part in parts)

    def whole(name: str, dim: int) -> torch.Tensor:
        rows = []
        for part in parts:
            value = getattr(part, name)
            short = width - value.shape[dim]
            pad = [0, 0] * (value.dim() - 1 - dim) + [0, short]
            rows.append(torch.nn.functional.pad(value, pad) if short else value)
        return torch.cat(rows)

    first = parts[0]
    return BlockQueries(
        first.heads, first.group, whole("query", 2), whole("own", 2), whole("others", 2),
        whole("seen", 1), first.scale, first.softcap, first.learned,
    )  # fmt: skip
