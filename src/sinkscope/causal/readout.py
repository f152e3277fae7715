"""What is read in every pass, edited or not: where late queries look, and what it costs.

Shares and margins come from the scores of late queries in fp32, with the log-sum-exp over the other
keys taken directly: `log(a/(1 − a))` from a rounded `a` is meaningless in saturated heads.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import numpy as np
import torch

from sinkscope.observe.columns import CHUNK, NEVER, Scores
from sinkscope.observe.layout import Layout
from sinkscope.observe.reads import AttentionCall, AttentionRead
from sinkscope.observe.tap import Tap

FLOOR = 1e-38  # least probability whose logarithm is taken


@dataclass
class Readout:
    """What one pass showed, for n prompts. L blocks, H heads; NaN where a block has no attention.

    positions    the positions that were looked at, P0 first
    share        [n, position, L, H] mean attention of late queries (t ≥ T/2) that see the position
    margin       [n, position, L, H] nats: mean of s_tp − logsumexp_{j≠p} s_tj over the same queries
    value_ratio  [n, L, H] ‖v_0‖ over the median of the others
    norm         [n, position, point] ‖x‖ over the median of the positions t > 0
    cosine       [n, position, point] cosine to the sink direction; NaN without one
    received     [n, T] mean over reading heads of the attention of late queries; None if not asked
    ce, kl       [n] nats: mean cross-entropy, and KL from the intact model, at 1 ≤ t < T − 1
    """

    positions: tuple[int, ...]
    share: np.ndarray
    margin: np.ndarray
    value_ratio: np.ndarray
    norm: np.ndarray
    cosine: np.ndarray
    received: np.ndarray | None = None
    ce: np.ndarray | None = None
    kl: np.ndarray | None = None

    def at(self, position: int) -> int:
        """Index of a position on the position axis."""
        return self.positions.index(position)

    def on(self, heads: list[tuple[int, int]], position: int = 0) -> np.ndarray:
        """Mean late share of a position over heads [(block, head)]: [n]."""
        return _over(self.share[:, self.at(position)], heads)

    def margin_on(self, heads: list[tuple[int, int]], position: int = 0) -> np.ndarray:
        """Mean margin of a position over heads, in nats: [n]."""
        return _over(self.margin[:, self.at(position)], heads)


def _over(values: np.ndarray, heads: list[tuple[int, int]]) -> np.ndarray:
    chosen = np.stack([values[:, block, head] for block, head in heads], 1)
    finite = np.isfinite(chosen)
    total = np.where(finite, chosen, 0.0).sum(1)
    return np.where(finite.any(1), total / np.maximum(finite.sum(1), 1), np.nan)


def joined(parts: list[Readout]) -> Readout:
    """The readouts of several batches as one."""
    joint = {}
    for f in fields(Readout):
        values = [getattr(part, f.name) for part in parts]
        if f.name == "positions":
            joint[f.name] = values[0]
        else:
            joint[f.name] = None if values[0] is None else np.concatenate(values)
    return Readout(**joint)


@dataclass
class Reading(Tap):
    """The tap of a causal pass: reduces each attention call at once and holds no map."""

    positions: tuple[int, ...] = (0,)
    heads: tuple[tuple[int, int], ...] = ()
    shape: tuple[int, int] = (0, 0)  # blocks, heads
    want_received: bool = False
    share: torch.Tensor = field(init=False)
    margin: torch.Tensor = field(init=False)
    values: torch.Tensor = field(init=False)
    received: torch.Tensor = field(init=False)
    norm: torch.Tensor = field(init=False)
    cosine: torch.Tensor = field(init=False)
    direction: torch.Tensor | None = None

    def __post_init__(self) -> None:
        batch, length = self.layout.valid.shape
        depth, heads = self.shape
        looked = len(self.positions)
        self.share = torch.full((batch, looked, depth, heads), torch.nan)
        self.margin = torch.full_like(self.share, torch.nan)
        self.values = torch.full((batch, depth, heads), torch.nan)
        self.received = torch.zeros(batch, length)
        self.norm = torch.full((batch, looked, depth + 1), torch.nan)
        self.cosine = torch.full_like(self.norm, torch.nan)

    def keep(self, read: AttentionRead, call: AttentionCall | None) -> None:
        """Reduce a read to shares and margins; its map is dropped."""
        layout = self.layout.on(read.p0.device)
        if read.map is not None:
            self._from_map(read, layout)
        else:
            assert call is not None
            self._from_scores(read, call, layout)
        if call is not None:
            ratio = _value_ratio(call.values, layout)
            ratio = ratio.repeat_interleave(read.p0.shape[1] // ratio.shape[1], 1)
            self.values[:, read.block, : ratio.shape[1]] = ratio.cpu()
        read.map = None
        self.reads.append(read)

    def stream(self, point: int, hidden: torch.Tensor) -> None:
        """Take the residual stream [B, T, d] at one read point."""
        layout = self.layout.on(hidden.device)
        x = hidden.float()
        norms = x.norm(dim=-1)
        others = layout.valid & (layout.relative > 0)
        median = norms.masked_fill(~others, torch.nan).nanmedian(1).values.clamp_min(FLOOR)
        chosen = norms[:, list(self.positions)]
        self.norm[:, :, point] = (chosen / median.unsqueeze(1)).cpu()
        if self.direction is not None:
            along = x[:, list(self.positions)] @ self.direction.to(x.device, torch.float32)
            self.cosine[:, :, point] = (along / chosen.clamp_min(FLOOR)).cpu()

    def _from_scores(self, read: AttentionRead, call: AttentionCall, layout: Layout) -> None:
        s, heads = call.scores, read.p0.shape[1]
        sums = _Sums(len(self.positions), s.q.shape[0], heads, s.q.device)
        k = s.expand(s.k)
        first = int(layout.late.int().argmax(1).min())
        for start in range(first, s.q.shape[2], CHUNK):
            stop = min(start + CHUNK, s.q.shape[2])
            scores, visible = s.chunk(start, stop, k)
            total = scores.logsumexp(-1)
            if call.s_aux is not None:
                logit = call.s_aux.float().reshape(1, -1, 1).to(total.device)
                total = torch.logaddexp(total, logit)
            late = layout.late[:, None, start:stop]
            for i, position in enumerate(self.positions):
                if position < scores.shape[-1]:
                    sums.add(i, position, scores, visible, total, late)
            self._receive(read.block, scores, total, late)
        self._put(read.block, sums)

    def _receive(self, block: int, scores, total, late) -> None:
        chosen = [head for b, head in self.heads if b == block]
        if self.want_received and chosen:
            mass = (scores[:, chosen] - total[:, chosen].unsqueeze(-1)).exp() * late.unsqueeze(-1)
            mass = mass.sum((1, 2)).cpu()
            self.received[:, : mass.shape[1]] += mass

    def _from_map(self, read: AttentionRead, layout: Layout) -> None:
        assert read.map is not None
        weights = read.map.float()
        sums = _Sums(len(self.positions), weights.shape[0], weights.shape[1], weights.device)
        late = layout.late.unsqueeze(1)
        logs = weights.clamp_min(FLOOR).log().masked_fill(weights <= 0, NEVER)
        total = torch.zeros_like(logs[..., 0])
        for i, position in enumerate(self.positions):
            sums.add(i, position, logs, weights > 0, total, late)
        self._receive(read.block, logs, total, late)
        self._put(read.block, sums)

    def _put(self, block: int, sums: _Sums) -> None:
        share, margin = sums.means()
        heads = share.shape[2]
        self.share[:, :, block, :heads] = share.transpose(0, 1).cpu()
        self.margin[:, :, block, :heads] = margin.transpose(0, 1).cpu()

    def readout(self, ce: torch.Tensor | None, kl: torch.Tensor | None) -> Readout:
        """Everything that was read, as arrays."""
        late = self.layout.late.sum(1, keepdim=True).cpu() * max(1, len(self.heads))
        return Readout(
            self.positions,
            self.share.numpy(),
            self.margin.numpy(),
            self.values.numpy(),
            self.norm.numpy(),
            self.cosine.numpy(),
            (self.received / late).numpy() if self.want_received else None,
            None if ce is None else ce.cpu().numpy(),
            None if kl is None else kl.cpu().numpy(),
        )


class _Sums:
    """Sums over late queries of share and margin: [position, B, H]."""

    def __init__(self, positions: int, batch: int, heads: int, device: torch.device) -> None:
        shape = (positions, batch, heads)
        self.share = torch.zeros(shape, dtype=torch.float64, device=device)
        self.margin = torch.zeros_like(self.share)
        self.seen = torch.zeros_like(self.share)
        self.compared = torch.zeros_like(self.share)

    def add(self, i: int, p: int, scores, visible, total, late) -> None:
        """scores [B, H, Q, K], masked at NEVER; total [B, H, Q] log-sum-exp with a learned sink."""
        own = scores[..., p]
        before, after = scores[..., :p].logsumexp(-1), scores[..., p + 1 :].logsumexp(-1)
        others = torch.logaddexp(before, after)
        seen = late & (visible[..., p] if visible.dim() else visible)
        compared = seen & (others > NEVER / 2)
        self.share[i] += torch.where(seen, (own - total).exp(), 0.0).sum(-1)
        self.margin[i] += torch.where(compared, own - others, 0.0).sum(-1)
        self.seen[i] += seen.expand_as(own).sum(-1)
        self.compared[i] += compared.expand_as(own).sum(-1)

    def means(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Share and margin, NaN where no late query sees the position."""
        share = torch.where(self.seen > 0, self.share / self.seen.clamp_min(1), torch.nan)
        margin = torch.where(self.compared > 0, self.margin / self.compared.clamp_min(1), torch.nan)
        return share.float(), margin.float()


def _value_ratio(values: torch.Tensor, layout: Layout) -> torch.Tensor:
    norms = values.float().norm(dim=-1)
    others = (layout.valid & (layout.relative > 0)).unsqueeze(1)
    median = norms.masked_fill(~others, torch.nan).nanmedian(2).values
    return norms[:, :, 0] / median.clamp_min(FLOOR)


def late_scores_margin(s: Scores, position: int, late: torch.Tensor) -> torch.Tensor:
    """The margin from the whole score matrix at once: the slow reference. [B, H]."""
    scores, visible = s.chunk(0, s.q.shape[2], s.expand(s.k))
    own = scores[..., position]
    others = scores.clone()
    others[..., position] = NEVER
    rest = others.double().logsumexp(-1)
    seen = late.unsqueeze(1) & visible[..., position] & (rest > NEVER / 2)
    seen = seen.expand_as(own)
    return ((own.double() - rest) * seen).sum(-1) / seen.sum(-1)
