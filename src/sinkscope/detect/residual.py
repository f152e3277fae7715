"""The residual stream at position zero: norm, direction, massive activations, secondary sinks.

All at read point l = input of block l (the last point is the output of the last block).
"""

from __future__ import annotations

import numpy as np
import torch

from sinkscope.observe.layout import Layout
from sinkscope.observe.stream import norm_ratio, unit

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
        self._norm_ratio: list[list[np.ndarray]] = [[] for _ in range(points)]
        self._massive = np.zeros((2, points))
        self._rows = np.zeros(points)
        self._channels = np.zeros((points, size))
        self._p0_count = 0
        self._other_count = np.zeros(points)
        self._aligned = np.zeros(points)
        self._flags: list[torch.Tensor] = []
        self.lifetimes: dict[tuple[int, int], int] = {}
        self.rule = {"rule_met": False, "max_abs": 0.0, "ratio": 0.0, "point": 0}

    def begin(self, layout: Layout) -> None:
        """Say which batch the next `consume` calls belong to."""
        self.layout = layout
        self._flags = []
        self._p0_count += int(layout.is_p0.sum())

    def consume(self, point: int, hidden: torch.Tensor) -> None:
        """Take the residual stream [B, T, d] at one read point."""
        assert self.layout is not None
        layout = self.layout.on(hidden.device)
        x = hidden.float()
        p0 = layout.is_p0
        others = layout.valid & ~p0
        norms = x.norm(dim=-1)
        self._norm_ratio[point].append(norm_ratio(norms, others)[p0].cpu().numpy())
        self._massive_activations(point, x, p0, others)
        self._other_count[point] += int(others.sum())
        if self.direction is not None:
            cosine = (unit(x) @ self.direction[point].to(x.device)).abs()
            flags = (cosine > ALIGNED) & others
            self._aligned[point] += int(flags.sum())
            self._flags.append(flags.cpu())
            if len(self._flags) == len(self._norm_ratio):
                self._count_lifetimes()

    def _massive_activations(self, point: int, x, p0, others) -> None:
        magnitude = x.abs()
        top = magnitude.amax(-1)
        for row in range(x.shape[0]):
            flat = magnitude[row][p0[row] | others[row]].flatten()
            stride = max(1, flat.numel() // MEDIAN_SAMPLE)
            median = flat[::stride].median().clamp_min(1e-12).item()
            at_p0 = top[row][p0[row]].max().item()
            elsewhere = top[row][others[row]].max().item() if bool(others[row].any()) else np.nan
            self._massive[:, point] += (at_p0 / median, elsewhere / median)
            self._rows[point] += 1
            self._rule(point, max(at_p0, np.nan_to_num(elsewhere)), median)
        self._channels[point] += magnitude[p0].sum(0).double().cpu().numpy()

    def _rule(self, point: int, largest: float, median: float) -> None:
        if largest > RULE_ABSOLUTE and largest >= RULE_RATIO * median:
            self.rule["rule_met"] = True
        if largest / median > self.rule["ratio"]:
            self.rule.update(max_abs=largest, ratio=largest / median, point=point)

    def _count_lifetimes(self) -> None:
        """Runs of read points at which a token is aligned: (first point, length) -> tokens."""
        flags = torch.stack(self._flags, -1).reshape(-1, len(self._flags))
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
