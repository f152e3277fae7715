"""The tap of an engine's pass: reduces each attention call at once and holds no map."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import numpy as np
import torch

from sinkscope.detect.heads import value_norm_ratio
from sinkscope.intervene.attend import Call
from sinkscope.intervene.edits.keys import KeyRead
from sinkscope.intervene.late_sums import Row, Sums
from sinkscope.intervene.readout import Readout
from sinkscope.intervene.router import EditTap
from sinkscope.observe.late import mean_over
from sinkscope.observe.layout import Layout
from sinkscope.observe.reads import AttentionCall, AttentionRead
from sinkscope.observe.scores import CHUNK, NEVER, Scores
from sinkscope.observe.stream import norm_ratio

FLOOR = 1e-38  # least probability whose logarithm is taken
EPSILON = 2.0**-24  # a mass this close to 1 is 1 in fp32


@dataclass
class ReadoutTap(EditTap):
    """The tap of a causal pass: reduces each attention call at once and holds no map.

    direction  [d] sink direction, or None
    """

    positions: tuple[int, ...] = (0,)
    heads: tuple[tuple[int, int], ...] = ()
    shape: tuple[int, int] = (0, 0)  # blocks, heads
    want_received: bool = False
    found: dict[str, torch.Tensor] = field(init=False)  # the arrays of a Readout by name
    direction: torch.Tensor | None = None
    only_heads: bool = False  # read `heads` and no others
    edited: KeyRead | None = None  # of the call that is being read, if key edits changed it

    def __post_init__(self) -> None:
        super().__post_init__()
        batch, length = self.layout.valid.shape
        depth, heads = self.shape
        looked = (batch, len(self.positions))
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(Sums.NAMES, (*looked, depth, heads))
        shapes |= {"value_ratio": (batch, depth, heads)}
        shapes |= dict.fromkeys(("norm", "cosine"), (*looked, depth + 1))
        self.found = {name: torch.full(shape, torch.nan) for name, shape in shapes.items()}
        self.found["learned"] = torch.zeros(batch, depth, heads)
        self.found["received"] = torch.zeros(batch, depth, length)

    def keep(self, read: AttentionRead, call: AttentionCall | None) -> None:
        """Reduce a read to shares and margins; its map is dropped."""
        layout = self.layout.on(read.p0.device)
        if read.learned is not None:
            mass = mean_over(read.learned, layout.late.unsqueeze(1))
            self.found["learned"][:, read.block, : mass.shape[1]] = mass.cpu()
        count = read.p0.shape[1]
        reading = [head for block, head in self.heads if block == read.block]
        chosen = reading if self.only_heads else list(range(count))
        if self.edited is not None:
            self.found["learned"][:, read.block, chosen] = 0.0  # added up anew, as it is left
        if chosen and read.map is not None:
            self._from_map(read, layout, chosen)
        elif chosen:
            assert call is not None
            self._from_scores(read, call, layout, chosen)
        if call is not None:
            ratio = value_norm_ratio(call.values, layout)
            ratio = ratio.repeat_interleave(read.p0.shape[1] // ratio.shape[1], 1)
            self.found["value_ratio"][:, read.block, : ratio.shape[1]] = ratio.cpu()
        read.map = None
        self.reads.append(read)

    def changed(self, call: Call, read: KeyRead) -> None:
        """Read a call that key edits changed, with the attention that they left."""
        self.edited = read
        self.attention(call.module, call.query, call.key, call.value, call.mask, **call.kwargs)
        self.edited = None

    def stream(self, point: int, hidden: torch.Tensor) -> None:
        """Take the residual stream [B, T, d] at one read point."""
        layout = self.layout.on(hidden.device)
        x = hidden.float()
        norms = x.norm(dim=-1)
        others = layout.valid & (layout.relative > 0)
        chosen = norms[:, list(self.positions)]
        self.found["norm"][:, :, point] = norm_ratio(norms, others)[:, list(self.positions)].cpu()
        if self.direction is not None:
            along = x[:, list(self.positions)] @ self.direction.to(x.device, torch.float32)
            self.found["cosine"][:, :, point] = (along / chosen.clamp_min(FLOOR)).cpu()

    def _from_scores(
        self, read: AttentionRead, call: AttentionCall, layout: Layout, chosen: list[int]
    ) -> None:
        s = _of_heads(call.scores, chosen)
        sums = Sums(len(self.positions), s.q.shape[0], len(chosen), s.q.device)
        first = int(layout.late.int().argmax(1).min())
        for start in range(first, s.q.shape[2], CHUNK):
            stop = min(start + CHUNK, s.q.shape[2])
            scores, visible = s.chunk(start, stop, s.k)
            learned = None
            if call.s_aux is not None:
                learned = call.s_aux.float().reshape(1, -1, 1)[:, chosen].to(scores.device)
            late = layout.late[:, None, start:stop]
            scores = self._as_left(chosen, scores, learned, start)
            row = Row(scores, self.positions)
            total = row.without()
            if learned is not None:
                total = torch.logaddexp(total, learned)
            for i, position in enumerate(self.positions):
                if position in row.columns:
                    sums.add(i, position, row, visible, total, late, learned)
            self._receive(read.block, chosen, scores, total, learned, late)
        self._put(read.block, chosen, sums)

    def _from_map(self, read: AttentionRead, layout: Layout, chosen: list[int]) -> None:
        assert read.map is not None
        weights = read.map.float()[:, chosen]
        sums = Sums(len(self.positions), len(weights), len(chosen), weights.device)
        late = layout.late.unsqueeze(1)
        logs = weights.clamp_min(FLOOR).log().masked_fill(weights <= 0, NEVER)
        total = torch.zeros_like(logs[..., 0])
        learned = None
        if read.learned is not None:
            learned = read.learned[:, chosen].clamp_min(FLOOR).log()
        if self.edited is not None:
            logs = self._as_left(chosen, logs, learned, 0)
            total = logs.logsumexp(-1)
            total = total if learned is None else torch.logaddexp(total, learned)
        row = Row(logs, self.positions)
        for i, position in enumerate(self.positions):
            sums.add(i, position, row, weights > 0, total, late, learned)
        self._receive(read.block, chosen, logs, total, learned, late)
        self._put(read.block, chosen, sums)

    def _as_left(self, chosen: list[int], scores, learned, start: int):
        """Scores [B, H, Q, K] whose softmax gives the key what key edits left it; −inf: nothing."""
        if self.edited is None:
            return scores
        part = slice(start, start + scores.shape[2])
        left, mass = (x[:, chosen, part] for x in (self.edited.left, self.edited.mass))
        # a key behind the last query has no column: those queries see none of it, nor change
        index = self.keys.to(scores.device).clamp_max(scores.shape[3] - 1)
        index = index.view(-1, 1, 1, 1).expand(*scores.shape[:3], 1)
        others = scores.scatter(3, index, NEVER).logsumexp(-1)
        others = others if learned is None else torch.logaddexp(others, learned)
        own = torch.where(left > 0, others + left.logit(EPSILON), -torch.inf)
        own = torch.where(left == mass, scores.gather(3, index).squeeze(3), own)
        return scores.scatter(3, index, own.unsqueeze(3))

    def _receive(self, block: int, chosen: list[int], scores, total, learned, late) -> None:
        if self.edited is not None and learned is not None:
            share = ((learned - total).exp() * late).sum(-1) / self.layout.late.sum(1, keepdim=True)
            self.found["learned"][:, block, chosen] += share.cpu()
        reading = [i for i, head in enumerate(chosen) if (block, head) in self.heads]
        if self.want_received and reading:
            mass = (scores[:, reading] - total[:, reading].unsqueeze(-1)).exp()
            mass = (mass * late.unsqueeze(-1)).sum((1, 2)).cpu()
            self.found["received"][:, block, : mass.shape[1]] += mass

    def _put(self, block: int, chosen: list[int], sums: Sums) -> None:
        for name, mean in sums.means().items():
            self.found[name][:, :, block, chosen] = mean.transpose(0, 1).cpu()

    def readout(self, ce: torch.Tensor | None, kl: torch.Tensor | None) -> Readout:
        """Everything that was read, as arrays; ce and kl [B] in nats, where they were asked for."""
        late = self.layout.late.sum(1, keepdim=True).cpu() * max(1, len(self.heads))
        found: dict[str, np.ndarray | None] = {name: x.numpy() for name, x in self.found.items()}
        received = self.found["received"].sum(1) / late
        found["received"] = received.numpy() if self.want_received else None
        found["ce"], found["kl"] = (None if x is None else x.numpy() for x in (ce, kl))
        return Readout(self.positions, **found)  # type: ignore[arg-type]


def _of_heads(s: Scores, chosen: list[int]) -> Scores:
    """The scores of some heads, with a key head for each of them."""
    mask = s.mask if s.mask is None or s.mask.shape[1] == 1 else s.mask[:, chosen]
    return dataclasses.replace(s, q=s.q[:, chosen], k=s.expand(s.k)[:, chosen], mask=mask)
