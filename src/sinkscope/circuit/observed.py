"""One pass over the prompts, from which everything about the other positions is taken.

Position zero itself needs no prompt (see `streams.one_token_pass`). What is kept is small: figures
by prompt, sums over prompts, and the states of a random sample of other positions.
"""

from __future__ import annotations

from copy import copy
from typing import Any

import numpy as np
import torch

from sinkscope.circuit.observed_heads import HeadRead
from sinkscope.circuit.routing import Routing
from sinkscope.circuit.streams import stream_hooks, width_of
from sinkscope.detect.attention import AttentionStats
from sinkscope.errors import Unsupported
from sinkscope.frame import Progress, silent
from sinkscope.observe.attention import observe
from sinkscope.observe.columns import p0_scores
from sinkscope.observe.late import late_seeing, mean_over
from sinkscope.observe.layout import layout_of
from sinkscope.observe.reads import AttentionCall, AttentionRead, Want
from sinkscope.observe.sites import Sites, Sublayer, find_sites
from sinkscope.observe.softmax import attend_without_first
from sinkscope.observe.stream import OthersMean, norm_ratio
from sinkscope.observe.tap import SIGMOID
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts
from sinkscope.subject.tokens import vocabulary

SAMPLE = 512  # other positions whose states are kept
SAMPLE_BYTES = 1 << 27  # and the most memory they may take
UNMIXED_ROWS = 16  # prompts on which unmixedness and the cone are measured
FIRST_ROWS = 8  # prompts whose P0 is compared with the same token alone


class Observed:
    """Streaming statistics of one pass; `run` fills them.

    log_ratio       [n, points] log of P0's norm over the median norm of the others
    other_mean      [points, d] mean unit vector of the others
    sample          [m, points, d] states of random other positions
    attention_out   block -> (P0's mean write, the others' mean write), each [d]
    out_norm        block -> [T] mean norm of attention's write by position; out_variance likewise
    attention       AttentionStats, or None where a scan was given
    several         blocks that attend more than once; they have no HeadRead
    """

    def __init__(
        self, subject: Subject, sites: Sites, prompts: Prompts, seed: int, *, stats: bool
    ) -> None:
        """stats: whether attention is read too; sinking heads of a scan spare it."""
        self.subject, self.sites, self.prompts = subject, sites, prompts
        self.attention = AttentionStats(vocabulary(subject)) if stats else None
        self.heads: dict[int, HeadRead] = {}
        self.own_maps = False
        self.sigmoid = False
        self.several: set[int] = set()
        self._seen_points: set[int] = set()
        self._seen_calls: set[int] = set()
        self._generator = torch.Generator().manual_seed(seed)
        points, size = len(sites.points), width_of(subject)
        most = max(64, SAMPLE_BYTES // (4 * points * size))
        self._per_row = max(2, min(SAMPLE, most) // len(prompts))
        self._log_ratio: list[list[torch.Tensor]] = [[] for _ in range(points)]
        self._others = OthersMean()
        self._sample: list[list[torch.Tensor]] = [[] for _ in range(points)]
        self._mixer = {b: _first_mixer(sublayers) for b, sublayers in enumerate(sites.blocks)}
        self._out: dict[int, list[torch.Tensor]] = {}
        self._curves: dict[int, torch.Tensor] = {}
        self._curve_rows = 0
        self._first_rows: list[torch.Tensor] = []
        self._rows_done = 0
        self.routing = Routing(subject, sites)

    def run(self, reader: str = "auto", progress=silent) -> Observed:
        """One pass over all prompts."""
        want = Want(received=self.attention is not None, inspect=(self._inspect,))
        stream = stream_hooks(self.subject, self.sites, self._point, self._write)

        def taps() -> list[Any]:
            return [*stream(), *self.routing.hooks(lambda: self._layout)]

        for batch in self.prompts.batches():
            progress("trace", self._rows_done, len(self.prompts))
            self._layout = layout_of(batch, self.subject.device)
            self._seen_points, self._seen_calls = set(), set()
            self._choose(batch)
            reads, layout, _ = observe(self.subject, batch, want, reader, taps)
            self.own_maps = self.own_maps or any(r.reader == "own maps" for r in reads)
            self.sigmoid = self.sigmoid or any(r.reason == SIGMOID for r in reads)
            if self.attention is not None:
                self.attention.add(reads, layout, batch.input_ids)
            self._rows_done += len(batch)
            if layout.simple:
                self._curve_rows += int((layout.valid.all(1)).sum())
        progress("trace", self._rows_done, len(self.prompts))
        return self

    def _choose(self, batch: Prompts) -> None:
        """Which other positions of this batch go into the sample."""
        layout = self._layout.on(torch.device("cpu"))
        rows, columns = [], []
        for row in range(len(batch)):
            others = (layout.valid[row] & ~layout.is_p0[row]).nonzero().flatten()
            pick = torch.randperm(len(others), generator=self._generator)[: self._per_row]
            columns.append(others[pick])
            rows.append(torch.full_like(pick, row))
        self._rows, self._columns = torch.cat(rows), torch.cat(columns)

    def _point(self, number: int, hidden: torch.Tensor) -> None:
        if number in self._seen_points:
            raise Unsupported(
                f"{self.subject.anatomy.model_type} runs its blocks more than once in a pass, so "
                "its stream cannot be traced from block to block."
            )
        self._seen_points.add(number)
        layout = self._layout.on(hidden.device)
        x = hidden.float()
        norms = x.norm(dim=-1)
        p0, others = layout.is_p0, layout.valid & ~layout.is_p0
        log_ratio = norm_ratio(norms, others).log()
        self._log_ratio[number].append(log_ratio.masked_fill(~p0, torch.nan).nanmean(1).cpu())
        self._others.add(number, x, layout)
        if self._rows_done == 0 and layout.simple:
            self._first_rows.append(x[:FIRST_ROWS, 0].cpu())
        rows, columns = self._rows.to(x.device), self._columns.to(x.device)
        self._sample[number].append(x[rows, columns].cpu())

    def _write(self, block: int, index: int, delta: torch.Tensor) -> None:
        if index != self._mixer.get(block):
            return
        layout = self._layout.on(delta.device)
        x = delta.float()
        others = layout.valid & ~layout.is_p0
        sums = [x[layout.is_p0].sum(0), x[others].sum(0)]
        counts = [layout.is_p0.sum().float(), others.sum().float()]
        sums = [torch.cat([s, c.reshape(1)]).double().cpu() for s, c in zip(sums, counts)]
        before = self._out.get(block)
        self._out[block] = sums if before is None else [a + b for a, b in zip(before, sums)]
        if layout.simple:
            full = layout.valid.all(1)
            rows = torch.stack([x[full].norm(dim=-1).sum(0), x[full].var(-1).sum(0)])
            old = self._curves.get(block)
            rows = rows.double().cpu()
            self._curves[block] = rows if old is None or old.shape != rows.shape else old + rows

    def _inspect(self, call: AttentionCall, read: AttentionRead) -> None:
        layout = self._layout.on(call.values.device)
        if read.block in self._seen_calls:  # several softmaxes in one block have no one margin
            self.several.add(read.block)
            self.heads.pop(read.block, None)
        self._seen_calls.add(read.block)
        if not layout.simple or read.block in self.several:
            return
        head = self.heads.setdefault(read.block, HeadRead())
        s = call.scores
        head.scale, head.softcap = s.scale, s.softcap
        late = late_seeing(layout, read.visible)
        count = late.sum(1).clamp_min(1)[:, None, None]
        head.query.append((torch.einsum("bhtd,bt->bhd", s.q.float(), late.float()) / count).cpu())
        late = late.unsqueeze(1)
        head.logit.append(mean_over(p0_scores(s, layout.p0), late).cpu())
        head.others.append(mean_over(attend_without_first(s, call.values)[1], late).cpu())
        if self._rows_done < UNMIXED_ROWS and bool(layout.valid.all()):
            head.add_unmixed(call, read.learned, slice(0, UNMIXED_ROWS - self._rows_done))

    def of(self, rows: np.ndarray) -> Observed:
        """The same of some prompts [k] alone; sums over prompts stay those of all."""
        held, seen = copy(self), torch.from_numpy(rows)
        held.prompts = self.prompts.take(seen)
        held._log_ratio = [[torch.cat(point)[seen]] for point in self._log_ratio]
        held.heads = {block: head.of(seen) for block, head in self.heads.items()}
        held._first_rows = [point[seen[seen < len(point)]] for point in self._first_rows]
        return held

    @property
    def log_ratio(self) -> np.ndarray:
        """Log norm ratio of P0: [n, points]."""
        return torch.stack([torch.cat(rows) for rows in self._log_ratio], 1).double().numpy()

    @property
    def other_mean(self) -> torch.Tensor:
        """Mean unit vector of the others: [points, d]."""
        return self._others.mean

    @property
    def input_mean(self) -> torch.Tensor:
        """The same at the inputs of the blocks, and behind the last: [L + 1, d]."""
        return self.other_mean[self.sites.inputs]

    @property
    def first_rows(self) -> torch.Tensor | None:
        """P0's states within the first prompts, [rows, points, d]; None for packed rows."""
        first = self._first_rows
        return torch.stack(first, 1) if first and len(first[0]) else None

    @property
    def sample(self) -> torch.Tensor:
        """States of random other positions: [m, points, d]."""
        return torch.stack([torch.cat(rows) for rows in self._sample], 1)

    @property
    def attention_out(self) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
        """Mean write of each block's attention: (P0, others), each [d]."""
        return {
            block: tuple((s[:-1] / s[-1].clamp_min(1)).float() for s in sums)  # type: ignore[misc]
            for block, sums in self._out.items()
        }

    @property
    def out_curves(self) -> dict[int, np.ndarray]:
        """Norm and variance over channels of attention's write by position: block -> [2, T]."""
        return {b: (rows / max(self._curve_rows, 1)).numpy() for b, rows in self._curves.items()}


def observed_on(
    subject: Subject,
    prompts: Prompts,
    reader: str = "auto",
    seed: int = 0,
    progress: Progress = silent,
) -> Observed:
    """The one pass over the prompts, once it is proved where every block writes.

    Raises Unsupported for a model whose residual identity does not hold.
    """
    sites = find_sites(subject, prompts)
    return Observed(subject, sites, prompts, seed, stats=False).run(reader, progress)


def _first_mixer(sublayers: tuple[Sublayer, ...]) -> int | None:
    """Index of the first write of a block that is not an MLP's."""
    return next((i for i, s in enumerate(sublayers) if s.kind != "mlp"), None)
