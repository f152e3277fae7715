"""The residual stream at position zero: norm, direction, massive activations, secondary sinks.

All at read point l = input of block l (the last point is the output of the last block).
"""

from __future__ import annotations

import numpy as np
import torch

from sinkscope.observe.layout import Layout
from sinkscope.observe.p0_stream import p0_states
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
        self._norm_ratio: list[list[np.ndarray]] = [[] for _ in range(points)]
        self._massive = np.zeros((2, points))
        self._rows = np.zeros(points)
        self._channels = np.zeros((points, size))
        self._p0_count = 0
        self._others = torch.zeros(points, size, dtype=torch.float64)
        self._other_count = np.zeros(points)
        self._aligned = np.zeros(points)
        self._flags: list[torch.Tensor] = []
        self.lifetimes: dict[tuple[int, int], int] = {}
        self.rule: Massive = {"rule_met": False, "max_abs": 0.0, "ratio": 0.0, "point": 0}

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
        self._norms(point, norms, p0, others)
        self._massive_activations(point, x, p0, others)
        unit = x / norms.clamp_min(1e-12).unsqueeze(-1)
        self._others[point] += unit[others].double().sum(0).cpu()
        self._other_count[point] += int(others.sum())
        if self.direction is not None:
            cosine = (unit @ self.direction[point].to(x.device)).abs()
            flags = (cosine > ALIGNED) & others
            self._aligned[point] += int(flags.sum())
            self._flags.append(flags.cpu())
            if len(self._flags) == len(self._norm_ratio):
                self._count_lifetimes()

    def _norms(self, point: int, norms, p0, others) -> None:
        median = norms.masked_fill(~others, torch.nan).nanmedian(1).values
        ratio = norms / median.clamp_min(1e-12).unsqueeze(1)
        self._norm_ratio[point].append(ratio[p0].cpu().numpy())

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
            self.rule |= {"max_abs": largest, "ratio": largest / median, "point": point}

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
    def other_direction(self) -> torch.Tensor:
        """Mean unit vector of the other positions: [point, d]."""
        count = torch.from_numpy(np.maximum(self._other_count, 1))
        return (self._others / count.unsqueeze(1)).float()

    @property
    def aligned_share(self) -> np.ndarray:
        """Share of the other tokens that lie along the sink direction: [point]."""
        return self._aligned / np.maximum(self._other_count, 1)


def p0_directions(subject, tokens: torch.Tensor) -> tuple[torch.Tensor, np.ndarray]:
    """Mean unit vector of P0 over first tokens [point, d], and their mean pairwise cosine [point].

    The cosine is `(‖Σ x̂‖² − n) / (n(n−1))`, exact for all pairs without forming them; NaN for a
    single token. By idea 2 the text behind the first token cannot matter, so none is run.
    """
    states = p0_states(subject, tokens)
    unit = states / states.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    count = unit.shape[0]
    total = unit.double().sum(0)
    pairs = (total.square().sum(-1) - count) / max(count * (count - 1), 1)
    cosine = pairs.cpu().numpy() if count > 1 else np.full(unit.shape[1], np.nan)
    return unit.mean(0), cosine


def sink_direction(p0_mean: torch.Tensor, other_mean: torch.Tensor) -> torch.Tensor:
    """u: unit vector of (mean normalised P0) − (mean normalised others), at each read point."""
    difference = p0_mean.float().cpu() - other_mean.cpu()
    return difference / difference.norm(dim=-1, keepdim=True).clamp_min(1e-12)
