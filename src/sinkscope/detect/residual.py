"""The residual stream at position zero: norm, direction, massive activations, secondary sinks.

All at the input of block l, resid_pre of l (the last point is the output of the last block).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from sinkscope.observe.layout import Layout
from sinkscope.observe.stream import norm_ratio, unit
from sinkscope.schema.scan import Massive

RANKS = 5  # channels reported for each read point
ALIGNED = 0.9  # |cos| with the sink direction above which a token counts as a secondary sink
# Sun et al. (arXiv 2402.17762): massive if above 100 and 1000 times the median of the whole map.
RULE_ABSOLUTE, RULE_RATIO = 100.0, 1000.0
MEDIAN_SAMPLE = 1 << 14  # entries of a row's map from which its median is taken


class ResidualStats:
    """Accumulates one batch after another; `consume` is the hook of `observe.residual`.

    direction [points, d] unit vectors of the sink direction, or None to skip secondary sinks.
    """

    def __init__(self, points: int, size: int, direction: torch.Tensor | None = None) -> None:
        self.direction = direction
        self.layout: Layout | None = None
        self._span = (0, 0)
        self._norms: list[list[torch.Tensor]] = [[] for _ in range(points)]
        self._flagged: list[list[torch.Tensor]] = [[] for _ in range(points)]
        self._magnitudes = [_Magnitudes() for _ in range(points)]
        self._norm_ratio: list[list[np.ndarray]] = [[] for _ in range(points)]
        self._massive = np.zeros((2, points))
        self._rows = np.zeros(points)
        self._channels = np.zeros((points, size))
        self._p0_count = 0
        self._other_count = np.zeros(points)
        self._aligned = np.zeros(points)
        self.lifetimes: dict[tuple[int, int], int] = {}
        self.rule: Massive = {"rule_met": False, "max_abs": 0.0, "ratio": 0.0, "point": 0}

    def begin(self, layout: Layout) -> None:
        """Say which batch the next `consume` calls belong to."""
        self.layout = layout
        self._span = (0, layout.valid.shape[1])
        self._p0_count += int(layout.is_p0.sum())

    def piece(self, start: int, stop: int) -> None:
        """Say that the next `consume` calls bring the tokens start..stop alone, in order."""
        self._span = (start, stop)

    def consume(self, point: int, hidden: torch.Tensor) -> None:
        """Take the residual stream [B, T, d] at one block input, or a piece of it."""
        assert self.layout is not None
        whole = self.layout.on(hidden.device)
        layout = whole.part(*self._span)
        x = hidden.float()
        others = layout.valid & ~layout.is_p0
        magnitude = x.abs()
        self._norms[point].append(x.norm(dim=-1))
        self._magnitudes[point].add(magnitude, layout, whole)
        self._channels[point] += magnitude[layout.is_p0].sum(0).double().cpu().numpy()
        self._other_count[point] += int(others.sum())
        if self.direction is not None:
            cosine = (unit(x) @ self.direction[point].to(x.device)).abs()
            flags = (cosine > ALIGNED) & others
            self._aligned[point] += int(flags.sum())
            self._flagged[point].append(flags.cpu())
        if self._span[1] == whole.valid.shape[1]:
            self._finish(point, whole)

    def _finish(self, point: int, layout: Layout) -> None:
        """What needs the whole of a text."""
        norms, self._norms[point] = torch.cat(self._norms[point], 1), []
        ratio = norm_ratio(norms, layout.valid & ~layout.is_p0)
        self._norm_ratio[point].append(ratio[layout.is_p0].cpu().numpy())
        magnitudes, self._magnitudes[point] = self._magnitudes[point], _Magnitudes()
        for median, at_p0, elsewhere in magnitudes.rows():
            self._massive[:, point] += (at_p0 / median, elsewhere / median)
            self._rows[point] += 1
            self._rule(point, max(at_p0, np.nan_to_num(elsewhere)), median)
        if self.direction is not None and point == len(self._norm_ratio) - 1:
            self._count_lifetimes()

    def _rule(self, point: int, largest: float, median: float) -> None:
        if largest > RULE_ABSOLUTE and largest >= RULE_RATIO * median:
            self.rule["rule_met"] = True
        if largest / median > self.rule["ratio"]:
            self.rule |= {"max_abs": largest, "ratio": largest / median, "point": point}

    def _count_lifetimes(self) -> None:
        """Runs of read points at which a token is aligned: (first point, length) -> tokens."""
        flags = torch.stack([torch.cat(pieces, 1) for pieces in self._flagged], -1).flatten(0, 1)
        self._flagged = [[] for _ in self._flagged]
        for row in flags[flags.any(1)].numpy():
            edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(np.int8), [0]])))
            for start, stop in zip(edges[::2], edges[1::2], strict=True):
                key = (int(start), int(stop - start))
                self.lifetimes[key] = self.lifetimes.get(key, 0) + 1

    @property
    def norm_ratio(self) -> np.ndarray:
        """Norm of P0 over the median norm of the others: [sequence, point]."""
        return np.stack([np.concatenate(rows) for rows in self._norm_ratio], 1)

    @property
    def massive(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean over prompts of max|x|/median|x| at P0 and elsewhere: two of [point]."""
        means = self._massive / np.maximum(self._rows, 1)
        return means[0], means[1]

    @property
    def channels(self) -> tuple[np.ndarray, np.ndarray]:
        """Largest channels of P0: (ids, mean magnitude), each [point, rank]."""
        means = self._channels / max(self._p0_count, 1)
        ids = np.argsort(-means, axis=1, kind="stable")[:, :RANKS]
        return ids, np.take_along_axis(means, ids, 1)

    @property
    def aligned_share(self) -> np.ndarray:
        """Share of the other tokens that lie along the sink direction: [point]."""
        return self._aligned / np.maximum(self._other_count, 1)


class _Magnitudes:
    """Magnitudes |x| of each row of a batch: the median of a sample, and the largest."""

    def __init__(self) -> None:
        self._samples: list[list[torch.Tensor]] = []
        self._seen: list[int] = []
        self._largest: list[np.ndarray] = []

    def add(self, magnitude: torch.Tensor, layout: Layout, whole: Layout) -> None:
        """Add magnitudes [B, T, d] of the tokens of `layout`, a piece of the layout `whole`.

        Every n-th entry of a row is sampled, counted over all its real tokens.
        """
        rows, _, size = magnitude.shape
        if not self._samples:
            self._samples, self._seen = [[] for _ in range(rows)], [0] * rows
            self._largest = [np.full(2, np.nan) for _ in range(rows)]
        top = magnitude.amax(-1)
        strides = (whole.valid.sum(1) * size // MEDIAN_SAMPLE).clamp_min(1).tolist()
        p0, others = layout.is_p0, layout.valid & ~layout.is_p0
        for row, stride in enumerate(strides):
            flat = magnitude[row][layout.valid[row]].flatten()
            self._samples[row].append(flat[-self._seen[row] % stride :: stride])
            self._seen[row] += flat.numel()
            for which, tokens in enumerate((p0[row], others[row])):
                if bool(tokens.any()):
                    found = top[row][tokens].max().item()
                    self._largest[row][which] = np.fmax(self._largest[row][which], found)

    def rows(self) -> Iterator[tuple[float, float, float]]:
        """For each row: the median, the largest at P0, the largest elsewhere (NaN for none)."""
        for samples, (at_p0, elsewhere) in zip(self._samples, self._largest, strict=True):
            yield torch.cat(samples).median().clamp_min(1e-12).item(), at_p0, elsewhere
