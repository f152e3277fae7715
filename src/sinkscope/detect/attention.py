"""Who receives attention: streaming statistics over the reads of many batches.

`alpha_k = mean over the queries that see key k of A_tk` (Gu et al., arXiv 2410.10781; query k
itself counts) and the late share `mean over queries in the second half of A_t0` (Ran-Milo et al.,
arXiv 2604.14722). Queries that cannot see a key (windows) are left out of its mean, and counted.

The late share of every other key of the first half is kept beside that of P0, as a mean over each
half of the prompts: what is found on one half is judged on the other (`detect.decision`). All those
keys are seen by the same queries, among as many keys. Two numbers for each prompt and head are
kept, since intervals are taken over prompts; everything else is a running sum.
"""

from __future__ import annotations

import numpy as np
import torch

from sinkscope.detect.token_mass import TokenMass
from sinkscope.observe.attention import observe
from sinkscope.observe.late import late_seeing, mean_by_p0, mean_of, uniform_shares
from sinkscope.observe.layout import Layout
from sinkscope.observe.reads import AttentionRead, Want, on_cpu
from sinkscope.schema.scan import Delimiter
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts, token_text
from sinkscope.subject.tokens import vocabulary

SINK = 0.3  # the threshold of Gu et al., used where one threshold is needed
WEAK = 0.1  # a tenth of the attention: less is no place where it gathers
# Three times uniform keeps very short prompts, where uniform attention is itself large, from
# passing: at T = 8 uniform late queries already give P0 0.16.
OVER_UNIFORM = 3.0
LEAST = 0.05  # a key or token with less is not counted among those that hold a sink
DELIMITERS = 12  # tokens away from P0 that are told
MIN_QUERIES = 16  # a key seen by fewer queries has no stable mean


class AttentionStats:
    """Accumulates reads; every array has the layer axis in order of the softmax blocks.

    tokens  prompts whose tokens are weighed, where sinks at tokens are looked for; all batches must
            come from them, in order
    """

    def __init__(self, vocabulary: int, tokens: Prompts | None = None) -> None:
        self.blocks: list[int] = []
        self.readers: list[tuple[str, str]] = []
        self._alpha0: list[torch.Tensor] = []
        self._late: list[torch.Tensor] = []
        self._uniform: list[torch.Tensor] = []
        self._curve = Curve()
        self._late_curves = (Curve(), Curve())
        self._late_hits = {bound: Curve() for bound in (SINK, LEAST)}
        self.tokens = None if tokens is None else TokenMass(tokens)
        self._sums: dict[str, torch.Tensor] = {}
        self._queries, self._samples = 0, 0
        self.token_hits = np.zeros(vocabulary, dtype=np.int64)
        self.token_received = np.zeros(vocabulary)

    def add(self, reads: list[AttentionRead], layout: Layout, ids: torch.Tensor) -> None:
        """Add the reads of one batch. ids [B, T] are the batch's token ids."""
        self.blocks = [read.block for read in reads]
        self.readers = [(read.reader, read.reason) for read in reads]
        reads = [on_cpu(read) for read in reads]  # the blocks may lie on several devices
        layout = layout.on(torch.device("cpu"))
        alphas = stacked([_alpha(read) for read in reads])  # [L, B, H, T]
        rows, keys = layout.is_p0.nonzero(as_tuple=True)
        # advanced indices apart put the sample axis first: [S, L, H]
        self._alpha0.append(alphas[:, rows, :, keys])
        late = [late_share(read, layout) for read in reads]
        self._late.append(stacked(late, 1))
        self._uniform.append(torch.stack([uniform_shares(layout, read.visible) for read in reads]))
        self._curve.add(alphas, layout, layout.valid)
        self._add_late(reads, layout)
        self._add_sums(reads, layout)
        self._add_elsewhere(reads, alphas, layout, ids.cpu())
        if self.tokens is not None:
            self.tokens.add(reads, layout, ids.cpu())
        self._queries += int(layout.valid.sum())

    def _add_late(self, reads: list[AttentionRead], layout: Layout) -> None:
        """Late share of every key of the first half, in halves of the prompts."""
        shares = stacked([_late_by_key(read) for read in reads])
        early = layout.valid & ~layout.late
        # every P0 opens a prompt of its own, so packed segments are told apart too
        number = (layout.is_p0.flatten().cumsum(0) - 1).view_as(early) + self._samples
        for half, curve in enumerate(self._late_curves):
            curve.add(shares, layout, early & (number % 2 == half))
        for bound, curve in self._late_hits.items():
            hits = torch.where(shares.isnan(), torch.nan, (shares > bound).float())
            curve.add(hits, layout, early)
        self._samples += int(layout.is_p0.sum())

    def _add_sums(self, reads: list[AttentionRead], layout: Layout) -> None:
        """Sums of what every query has, over real ones."""
        valid = layout.valid.unsqueeze(1)
        for name in ("entropy", "learned"):
            if all(getattr(read, name) is None for read in reads):
                continue
            rows = [
                torch.full((1, read.p0.shape[1]), torch.nan)
                if getattr(read, name) is None
                else (getattr(read, name) * valid).sum((0, 2)).unsqueeze(0)
                for read in reads
            ]
            self._sum(name, stacked(rows)[:, 0])

    def _add_elsewhere(
        self, reads: list[AttentionRead], alphas: torch.Tensor, layout: Layout, ids: torch.Tensor
    ) -> None:
        """Keys other than P0 that receive more than SINK in some head, and the mass they hold."""
        seen = torch.stack([read.visible.seen_by for read in reads])  # [L, B, T]
        away = layout.valid & (layout.relative > 0)
        sinks = (alphas > SINK) & (away & (seen >= MIN_QUERIES)).unsqueeze(2)
        alphas = torch.where(sinks, alphas, 0.0)
        self._sum("elsewhere", (alphas * seen.unsqueeze(2)).sum((1, 3)))
        hits = sinks.sum((0, 2))  # [B, T] over layers and heads
        tokens = ids[hits > 0].numpy()
        np.add.at(self.token_hits, tokens, hits[hits > 0].numpy())
        received = alphas.sum((0, 2))
        np.add.at(self.token_received, tokens, received[hits > 0].double().numpy())

    def _sum(self, name: str, value: torch.Tensor) -> None:
        self._sums[name] = self._sums[name] + value if name in self._sums else value

    @property
    def alpha0(self) -> np.ndarray:
        """alpha of P0: [sequence, layer, head]."""
        return torch.cat(self._alpha0).numpy()

    @property
    def late(self) -> np.ndarray:
        """Late share of P0: [sequence, layer, head]; NaN where no late query sees P0."""
        return torch.cat(self._late).numpy()

    @property
    def uniform(self) -> tuple[np.ndarray, np.ndarray]:
        """What uniform attention would give: (alpha of P0, late share), each [layer]."""
        received, late = torch.cat(self._uniform, 2).nanmean(2).unbind(1)
        return received.numpy(), late.numpy()

    @property
    def curve(self) -> np.ndarray:
        """alpha by position relative to P0, mean over prompts: [layer, head, position]."""
        return self._curve.mean

    @property
    def late_curves(self) -> np.ndarray:
        """Late share of keys of the first half by position, for each half of the prompts.

        [2, layer, head, position]; NaN where no late query sees the key, or no prompt has it.
        """
        return np.stack([curve.mean for curve in self._late_curves])

    @property
    def late_curve(self) -> np.ndarray:
        """The same over all prompts: [layer, head, position]."""
        first, second = self._late_curves
        return first.with_(second).mean

    def late_hits(self, bound: float) -> np.ndarray:
        """Share of prompts in which a key's late share exceeds a bound: [layer, head, position].

        bound  SINK or LEAST
        """
        return self._late_hits[bound].mean

    def mean(self, name: str) -> np.ndarray | None:
        """Mean over valid queries of entropy, learned mass or mass elsewhere: [layer, head]."""
        return (self._sums[name] / self._queries).numpy() if name in self._sums else None

    def delimiters(self, tokenizer) -> list[Delimiter]:
        """Tokens away from P0 that most often receive more than SINK, with their mean alpha."""
        order = np.argsort(-self.token_hits, kind="stable")[:DELIMITERS]
        return [
            {
                "token": token_text(tokenizer, int(i)),
                "id": int(i),
                "hits": int(self.token_hits[i]),
                "received": float(self.token_received[i] / self.token_hits[i]),
            }
            for i in order
            if self.token_hits[i] > 0
        ]


class Curve:
    """Mean over prompts of something that every key has, by position relative to its P0."""

    def __init__(self) -> None:
        self._sum = self._count = torch.zeros(0, 0, 0)

    def add(self, values: torch.Tensor, layout: Layout, counted: torch.Tensor) -> None:
        """Add values [L, B, H, T] of the counted keys [B, T]; what is NaN is left out."""
        layers, _, heads, length = values.shape
        if not self._sum.numel():
            self._sum = torch.zeros(layers, heads, length)
            self._count = torch.zeros(layers, heads, length)
        if length > self._sum.shape[2]:
            grow = (0, length - self._sum.shape[2])
            self._sum, self._count = (
                torch.nn.functional.pad(x, grow) for x in (self._sum, self._count)
            )
        known = counted[None, :, None, :] & values.isfinite()
        values = torch.where(known, values, 0.0)
        for row, places in enumerate(torch.where(counted, layout.relative, 0)):
            self._sum.index_add_(2, places, values[:, row])
            self._count.index_add_(2, places, known[:, row].float())

    def with_(self, other: Curve) -> Curve:
        """Both, which were added to alike, as one."""
        both = Curve()
        both._sum, both._count = self._sum + other._sum, self._count + other._count
        return both

    @property
    def mean(self) -> np.ndarray:
        """[layer, head, position]; NaN where nothing was counted."""
        return (self._sum / self._count).numpy()


def read_attention(
    subject: Subject,
    prompts: Prompts,
    reader: str = "auto",
    tokens: bool = False,
    size: int | None = None,
) -> AttentionStats:
    """The statistics of one pass over some prompts.

    tokens  whether their tokens are weighed, to look for sinks there
    size    tokens of a text that go through at a time, as of `observe`
    """
    stats = AttentionStats(vocabulary(subject), prompts if tokens else None)
    for batch in prompts.batches():
        reads, layout, _ = observe(subject, batch, Want(), reader, size=size)
        stats.add(reads, layout, batch.input_ids)
    return stats


def _alpha(read: AttentionRead) -> torch.Tensor:
    """Mean attention each key receives from the queries that see it: [B, H, T]."""
    assert read.received is not None
    return read.received / read.visible.seen_by.unsqueeze(1).clamp_min(1)


def _late_by_key(read: AttentionRead) -> torch.Tensor:
    """Mean attention of the late queries that see a key: [B, H, T]; NaN where there is none."""
    assert read.late is not None
    return mean_of(read.late, read.visible.late_seen.unsqueeze(1))


def late_share(read: AttentionRead, layout: Layout) -> torch.Tensor:
    """Late share of each P0: [S, H]."""
    return mean_by_p0(read.p0, late_seeing(layout, read.visible), layout)


def stacked(rows: list[torch.Tensor], dim: int = 0) -> torch.Tensor:
    """[B, H, ..] of each layer as one, layers on axis `dim`; heads that a layer lacks are NaN."""
    heads = max(row.shape[1] for row in rows)
    missing = ([row.shape[0], heads - row.shape[1], *row.shape[2:]] for row in rows)
    each = zip(rows, missing, strict=True)
    return torch.stack([torch.cat([row, row.new_full(m, torch.nan)], 1) for row, m in each], dim)
