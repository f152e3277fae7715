"""What is read in every pass, edited or not: where late queries look, and what it costs.

Shares and margins come from the scores of late queries in fp32, with the log-sum-exp over the other
keys taken directly: `log(a/(1 − a))` from a rounded `a` is meaningless in saturated heads.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field, fields
from functools import reduce
from itertools import pairwise

import numpy as np
import torch

from sinkscope.detect.heads import value_norm_ratio
from sinkscope.observe.columns import CHUNK, NEVER, Scores
from sinkscope.observe.late import first_late, mean_of, mean_over
from sinkscope.observe.layout import Layout
from sinkscope.observe.reads import AttentionCall, AttentionRead
from sinkscope.observe.stream import norm_ratio
from sinkscope.observe.tap import Tap
from sinkscope.stats import nan_mean

FLOOR = 1e-38  # least probability whose logarithm is taken


@dataclass
class Readout:
    """What one pass showed, for n prompts. L blocks, H heads; NaN where a block has no attention.

    positions    the positions that were looked at, P0 first
    share        [n, position, L, H] mean attention of late queries (t ≥ T/2) that see the position
    margin       [n, position, L, H] nats: mean of s_tp − logsumexp_{j≠p} s_tj over the same queries
    bare_share, bare_margin  the same with P0 left out of the keys, so that a position can be told
                 to be a sink though P0 competes with it; of P0 itself they are share and margin
    learned      [n, L, H] mean mass of late queries on a learned sink logit; 0 without one
    value_ratio  [n, L, H] ‖v_0‖ over the median of the others
    norm         [n, position, point] ‖x‖ over the median of the positions t > 0
    cosine       [n, position, point] cosine to the sink direction; NaN without one
    received     [n, T] mean over reading heads of the attention of late queries; None if not asked
    ce, kl       [n] nats: mean cross-entropy, and KL from the intact model, at 1 ≤ t < T − 1
    """

    positions: tuple[int, ...]
    share: np.ndarray
    margin: np.ndarray
    bare_share: np.ndarray
    bare_margin: np.ndarray
    learned: np.ndarray
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

    def bare_on(self, heads: list[tuple[int, int]], position: int) -> np.ndarray:
        """Mean late share of a position with P0 left out of the keys: [n]."""
        return _over(self.bare_share[:, self.at(position)], heads)

    def bare_margin_on(self, heads: list[tuple[int, int]], position: int) -> np.ndarray:
        """Mean margin of a position with P0 left out of the keys, in nats: [n]."""
        return _over(self.bare_margin[:, self.at(position)], heads)

    def margin_on(self, heads: list[tuple[int, int]], position: int = 0) -> np.ndarray:
        """Mean margin of a position over heads, in nats: [n]."""
        return _over(self.margin[:, self.at(position)], heads)


def _over(values: np.ndarray, heads: list[tuple[int, int]]) -> np.ndarray:
    chosen = np.stack([values[:, block, head] for block, head in heads], 1)
    return nan_mean(chosen, 1)


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
class ReadoutTap(Tap):
    """The tap of a causal pass: reduces each attention call at once and holds no map."""

    positions: tuple[int, ...] = (0,)
    heads: tuple[tuple[int, int], ...] = ()
    shape: tuple[int, int] = (0, 0)  # blocks, heads
    want_received: bool = False
    share: torch.Tensor = field(init=False)
    margin: torch.Tensor = field(init=False)
    bare_share: torch.Tensor = field(init=False)
    bare_margin: torch.Tensor = field(init=False)
    learned: torch.Tensor = field(init=False)
    values: torch.Tensor = field(init=False)
    received: torch.Tensor = field(init=False)
    norm: torch.Tensor = field(init=False)
    cosine: torch.Tensor = field(init=False)
    direction: torch.Tensor | None = None
    only_heads: bool = False  # read `heads` and no others
    tokens: TokenMass | None = None
    token_rows: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        batch, length = self.layout.valid.shape
        depth, heads = self.shape
        looked = len(self.positions)
        self.share = torch.full((batch, looked, depth, heads), torch.nan)
        self.margin = torch.full_like(self.share, torch.nan)
        self.bare_share = torch.full_like(self.share, torch.nan)
        self.bare_margin = torch.full_like(self.share, torch.nan)
        self.learned = torch.zeros(batch, depth, heads)
        self.values = torch.full((batch, depth, heads), torch.nan)
        self.received = torch.zeros(batch, length)
        self.norm = torch.full((batch, looked, depth + 1), torch.nan)
        self.cosine = torch.full_like(self.norm, torch.nan)

    def keep(self, read: AttentionRead, call: AttentionCall | None) -> None:
        """Reduce a read to shares and margins; its map is dropped."""
        layout = self.layout.on(read.p0.device)
        count = read.p0.shape[1]
        reading = [head for block, head in self.heads if block == read.block]
        chosen = reading if self.only_heads else list(range(count))
        if chosen and read.map is not None:
            self._from_map(read, layout, chosen)
        elif chosen:
            assert call is not None
            self._from_scores(read, call, layout, chosen)
        if call is not None:
            ratio = value_norm_ratio(call.values, layout)
            ratio = ratio.repeat_interleave(read.p0.shape[1] // ratio.shape[1], 1)
            self.values[:, read.block, : ratio.shape[1]] = ratio.cpu()
        if read.learned is not None:
            mass = mean_over(read.learned, layout.late.unsqueeze(1))
            self.learned[:, read.block, : mass.shape[1]] = mass.cpu()
        read.map = None
        self.reads.append(read)

    def stream(self, point: int, hidden: torch.Tensor) -> None:
        """Take the residual stream [B, T, d] at one read point."""
        layout = self.layout.on(hidden.device)
        x = hidden.float()
        norms = x.norm(dim=-1)
        others = layout.valid & (layout.relative > 0)
        chosen = norms[:, list(self.positions)]
        self.norm[:, :, point] = norm_ratio(norms, others)[:, list(self.positions)].cpu()
        if self.direction is not None:
            along = x[:, list(self.positions)] @ self.direction.to(x.device, torch.float32)
            self.cosine[:, :, point] = (along / chosen.clamp_min(FLOOR)).cpu()

    def _from_scores(
        self, read: AttentionRead, call: AttentionCall, layout: Layout, chosen: list[int]
    ) -> None:
        s = _of_heads(call.scores, chosen)
        sums = _Sums(len(self.positions), s.q.shape[0], len(chosen), s.q.device)
        first = int(layout.late.int().argmax(1).min())
        for start in range(first, s.q.shape[2], CHUNK):
            stop = min(start + CHUNK, s.q.shape[2])
            scores, visible = s.chunk(start, stop, s.k)
            row, learned = _Row(scores, self.positions), None
            total = row.without()
            if call.s_aux is not None:
                learned = call.s_aux.float().reshape(1, -1, 1)[:, chosen].to(total.device)
                total = torch.logaddexp(total, learned)
            late = layout.late[:, None, start:stop]
            for i, position in enumerate(self.positions):
                if position in row.columns:
                    sums.add(i, position, row, visible, total, late, learned)
            self._receive(read.block, chosen, scores, visible, total, late)
        self._put(read.block, chosen, sums)

    def _from_map(self, read: AttentionRead, layout: Layout, chosen: list[int]) -> None:
        assert read.map is not None
        weights = read.map.float()[:, chosen]
        sums = _Sums(len(self.positions), len(weights), len(chosen), weights.device)
        late = layout.late.unsqueeze(1)
        logs = weights.clamp_min(FLOOR).log().masked_fill(weights <= 0, NEVER)
        total = torch.zeros_like(logs[..., 0])
        learned = None
        if read.learned is not None:
            learned = read.learned[:, chosen].clamp_min(FLOOR).log()
        row = _Row(logs, self.positions)
        for i, position in enumerate(self.positions):
            sums.add(i, position, row, weights > 0, total, late, learned)
        self._receive(read.block, chosen, logs, weights > 0, total, late)
        self._put(read.block, chosen, sums)

    def _receive(self, block: int, chosen: list[int], scores, visible, total, late) -> None:
        if self.tokens is not None:
            mass = (scores - total.unsqueeze(-1)).exp()
            self.tokens.add(block, mass, visible, late, self.token_rows)
        reading = [i for i, head in enumerate(chosen) if (block, head) in self.heads]
        if self.want_received and reading:
            mass = (scores[:, reading] - total[:, reading].unsqueeze(-1)).exp()
            mass = (mass * late.unsqueeze(-1)).sum((1, 2)).cpu()
            self.received[:, : mass.shape[1]] += mass

    def _put(self, block: int, chosen: list[int], sums: _Sums) -> None:
        for name, mean in sums.means().items():
            getattr(self, name)[:, :, block, chosen] = mean.transpose(0, 1).cpu()

    def readout(self, ce: torch.Tensor | None, kl: torch.Tensor | None) -> Readout:
        """Everything that was read, as arrays."""
        late = self.layout.late.sum(1, keepdim=True).cpu() * max(1, len(self.heads))
        return Readout(
            self.positions,
            self.share.numpy(),
            self.margin.numpy(),
            self.bare_share.numpy(),
            self.bare_margin.numpy(),
            self.learned.numpy(),
            self.values.numpy(),
            self.norm.numpy(),
            self.cosine.numpy(),
            (self.received / late).numpy() if self.want_received else None,
            None if ce is None else ce.cpu().numpy(),
            None if kl is None else kl.cpu().numpy(),
        )


class TokenMass:
    """Late attention by the token that receives it, P0 left out.

    ids [n, T], lengths [n]. mass [L, H, tokens] sums of attention, even [L, tokens] what uniform
    attention over the visible keys would give, queries [L] how many late queries were summed over.
    """

    def __init__(self, ids: torch.Tensor, lengths: torch.Tensor, depth: int, heads: int) -> None:
        self.tokens, self._index = ids.unique(return_inverse=True)
        self._lengths, self._first = lengths, _first_places(self._index, len(self.tokens))
        self.mass = torch.zeros(depth, heads, len(self.tokens), dtype=torch.float64)
        self.even = torch.zeros(depth, len(self.tokens), dtype=torch.float64)
        self.queries = torch.zeros(depth, dtype=torch.float64)

    def add(self, block: int, mass, visible, late, rows: list[int]) -> None:
        """mass [B, H, Q, K] of some queries; visible like it, or one for all heads or rows."""
        batch, heads, queries, keys = mass.shape
        late = late.unsqueeze(-1)
        received = (mass * late).sum(2)
        seen = visible.expand(batch, visible.shape[1] if visible.dim() else 1, queries, keys)
        even = (seen / seen.sum(-1, keepdim=True).clamp_min(1) * late).sum(2).mean(1)
        received[..., 0], even[..., 0] = 0.0, 0.0
        index = self._index[rows, :keys]
        for row in range(batch):
            self.mass[block, :heads].index_add_(1, index[row], received[row].double().cpu())
            self.even[block].index_add_(0, index[row], even[row].double().cpu())
        self.queries[block] += float(late.sum())

    def shares(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean share of a late query's attention on each token, and what uniform would give."""
        count = self.queries.clamp_min(1)
        mass, even = self.mass / count[:, None, None], self.even / count[:, None]
        return mass.numpy(), even.numpy()

    def seen(self, chosen: np.ndarray) -> float:
        """Share of late queries behind the first of the chosen tokens ([tokens], boolean).

        A sliding window may have left it behind; then what is held is more than is said.
        """
        late = torch.tensor([first_late(length) for length in self._lengths.tolist()])
        first = self._first[:, torch.from_numpy(chosen)].amin(1)
        behind = (self._lengths - torch.maximum(first, late)).clamp_min(0)
        return float(behind.sum() / (self._lengths - late).sum().clamp_min(1))


def _first_places(index: torch.Tensor, tokens: int) -> torch.Tensor:
    """Position at which each token first stands in each row, P0 left out: [n, tokens]."""
    rows, length = index.shape
    first = torch.full((rows, tokens), torch.iinfo(torch.long).max)
    places = torch.arange(1, length).expand(rows, -1)
    return first.scatter_reduce(1, index[:, 1:], places, "amin")


class _Row:
    """Rows of scores [B, H, Q, K], masked at NEVER, as a few columns and the rest of them.

    Leaving a column out of a log-sum-exp by subtraction would lose everything where that column
    holds nearly all the mass, so the others are summed without it. That reads the scores once.
    """

    def __init__(self, scores: torch.Tensor, positions: tuple[int, ...]) -> None:
        keys = scores.shape[-1]
        self.columns = {p: scores[..., p] for p in positions if p < keys}
        edges = [-1, *sorted(self.columns), keys]
        self._rest = _lse(scores, *(range(a + 1, b) for a, b in pairwise(edges)))

    def without(self, *positions: int) -> torch.Tensor:
        """Log-sum-exp over all keys but these columns: [B, H, Q]."""
        left = [column for p, column in self.columns.items() if p not in positions]
        return reduce(torch.logaddexp, left, self._rest)


class _Sums:
    """Sums over late queries of shares and margins: [position, B, H] each."""

    NAMES = ("share", "margin", "bare_share", "bare_margin")

    def __init__(self, positions: int, batch: int, heads: int, device: torch.device) -> None:
        shape = (len(self.NAMES), positions, batch, heads)
        self.sums = torch.zeros(shape, dtype=torch.float64, device=device)
        self.counts = torch.zeros_like(self.sums)

    def add(self, i: int, p: int, row: _Row, visible, total, late, learned) -> None:
        """total [B, H, Q] log-sum-exp with a learned sink; learned its logit, or None."""
        own = row.columns[p]
        others = row.without(p)
        bare = others if p == 0 else row.without(0, p)
        rest = total
        if p != 0:
            rest = torch.logaddexp(own, bare)
            rest = rest if learned is None else torch.logaddexp(rest, learned)
        seen = (late & (visible[..., p] if visible.dim() else visible)).expand_as(own)
        self._add(0, i, (own - total).exp(), seen)
        self._add(1, i, own - others, seen & (others > NEVER / 2))
        self._add(2, i, (own - rest).exp(), seen)
        self._add(3, i, own - bare, seen & (bare > NEVER / 2))

    def _add(self, name: int, i: int, values: torch.Tensor, counted: torch.Tensor) -> None:
        self.sums[name, i] += torch.where(counted, values, 0.0).sum(-1)
        self.counts[name, i] += counted.sum(-1)

    def means(self) -> dict[str, torch.Tensor]:
        """Name -> [position, B, H]; NaN where no late query sees the position."""
        return dict(zip(self.NAMES, mean_of(self.sums, self.counts).float()))


def _lse(scores: torch.Tensor, *parts: range) -> torch.Tensor:
    """Log-sum-exp over some of the keys."""
    found = [scores[..., p.start : p.stop].logsumexp(-1) for p in parts]
    return reduce(torch.logaddexp, found)


def _of_heads(s: Scores, chosen: list[int]) -> Scores:
    """The scores of some heads, with a key head for each of them."""
    mask = s.mask if s.mask is None or s.mask.shape[1] == 1 else s.mask[:, chosen]
    return dataclasses.replace(s, q=s.q[:, chosen], k=s.expand(s.k)[:, chosen], mask=mask)


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
