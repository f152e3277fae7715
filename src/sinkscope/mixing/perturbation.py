"""Perturbation spread: how far a change of one token travels, over blocks and positions.

For a prompt s and a variant s' that differ at position i only,

    D^l_t = ‖x^l_t(s) − x^l_t(s')‖ / ‖x^l_t(s)‖,    t > i,

at every read point l (Barbero et al., arXiv 2504.02732, whose figure it is). The spread of a pair
at a read point is the mean of D over t > i. Original and variants run side by side in one pass, and
the norms are taken as the stream goes by, so nothing but D is kept.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch

from sinkscope.mixing.conditions import INTACT, Condition, run
from sinkscope.mixing.pairs import Pairs
from sinkscope.mixing.thresholds import REACHED
from sinkscope.observe.sites import Sites
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import TOKENS_PER_BATCH

ARRAYS = ("change", "norm", "p0_norm", "at_edit", "shares", "removed")


@dataclass
class Spread:
    """D under one condition.

    change   [n, kind, point, T] D^l_t, NaN before the edit and in padding
    norm     [n, point] mean norm of the later positions' streams
    p0_norm  [n, point] norm of P0's stream
    at_edit  [n, kind, point] D at the last position that was edited
    shares   [n, layer, H] late share of the key acted on (P0 by default), as read in the originals
    removed  [n, layer, H] mass that late queries lost there
    kinds    names of the variants
    last     [n] last position that was edited
    """

    change: np.ndarray
    norm: np.ndarray
    p0_norm: np.ndarray
    at_edit: np.ndarray
    shares: np.ndarray
    removed: np.ndarray
    kinds: tuple[str, ...]
    last: np.ndarray

    @property
    def curves(self) -> np.ndarray:
        """[n, kind, point] spread: mean of D over later positions."""
        return np.nanmean(self.change, -1)

    @property
    def final(self) -> np.ndarray:
        """[n] spread at the last read point, mean over kinds of variants."""
        return self.curves[:, :, -1].mean(1)

    @property
    def reach(self) -> np.ndarray:
        """[n] share of (read point, later position) at which D exceeds REACHED, mean over kinds."""
        behind = self.change[:, :, 1:]
        seen = np.isfinite(behind)
        far = (np.nan_to_num(behind) > REACHED) & seen
        return far.sum((1, 2, 3)) / np.maximum(seen.sum((1, 2, 3)), 1)

    def by_offset(self) -> np.ndarray:
        """[kind, point, offset] mean D at t − i = 1, 2, ..: the map of the report."""
        n, kinds, points, length = self.change.shape
        total = np.zeros((kinds, points, length))
        count = np.zeros(length)
        for row in range(n):
            part = self.change[row, :, :, self.last[row] + 1 :]
            seen = np.isfinite(part[0, 0])
            width = int(seen.sum())
            total[:, :, :width] += part[:, :, :width]
            count[:width] += 1
        width = int((count > 0).sum())
        return total[:, :, :width] / count[:width]


def perturb(
    subject: Subject,
    pairs: Pairs,
    condition: Condition = INTACT,
    *,
    sites: Sites | None = None,
) -> Spread:
    """Spread of all pairs under a condition: (1 + kinds) rows for each prompt, one pass.

    A key that is edited must lie before the change, as P0 does (see `conditions.earlier_keys`).
    Of a condition with several draws, the average of their spreads.
    """
    if condition.draws:
        draws = [perturb(subject, pairs, one, sites=sites) for one in condition.each()]
        arrays = {name: np.mean([getattr(draw, name) for draw in draws], 0) for name in ARRAYS}
        return dataclasses.replace(draws[0], **arrays)
    each = 1 + len(pairs.kinds)
    rows = max(1, TOKENS_PER_BATCH // (each * pairs.prompts.length))
    parts = []
    for start in range(0, len(pairs), rows):
        batch = slice(start, min(start + rows, len(pairs)))
        collect = _Collect(pairs, batch, each)
        done = run(
            subject,
            pairs.stacked(batch),
            condition,
            consume=collect.consume,
            sites=sites,
            # a variant is edited as its original is
            rows=[r for r in range(batch.start, batch.stop) for _ in range(each)],
        )
        parts.append(collect.spread(done.shares()[::each], done.removed()[::each]))
    arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in ARRAYS}
    return Spread(**arrays, kinds=pairs.kinds, last=pairs.last.numpy())


class _Collect:
    """Takes D off the stream as it goes by."""

    def __init__(self, pairs: Pairs, batch: slice, each: int) -> None:
        cut = pairs.take(batch)
        self.each, self.kinds = each, pairs.kinds
        self.later = cut.later()
        self.last = cut.last
        self.change: list[torch.Tensor] = []
        self.norm: list[torch.Tensor] = []
        self.p0_norm: list[torch.Tensor] = []

    def consume(self, point: int, hidden: torch.Tensor) -> None:
        """D of all pairs at one read point, from hidden [n·(1 + kinds), T, d].

        An original and its variants stand together.
        """
        x = hidden.view(-1, self.each, *hidden.shape[1:])
        base = x[:, 0].float()
        norm = base.norm(dim=-1)
        change = torch.stack(
            [(x[:, v].float() - base).norm(dim=-1) for v in range(1, self.each)], 1
        )
        self.change.append((change / norm.unsqueeze(1).clamp_min(1e-30)).cpu())
        self.p0_norm.append(norm[:, 0].cpu())
        later = self.later.to(norm.device)
        self.norm.append(((norm * later).sum(1) / later.sum(1).clamp_min(1)).cpu())

    def spread(self, shares: torch.Tensor, removed: torch.Tensor) -> Spread:
        """The Spread of this batch; shares and removed [n, layer, H] of its originals."""
        change = torch.stack(self.change, 2)  # [n, kind, point, T]
        index = self.last.view(-1, 1, 1, 1).expand(*change.shape[:3], 1)
        at_edit = change.gather(3, index).squeeze(3)
        change = change.masked_fill(~self.later[:, None, None], torch.nan)
        return Spread(
            change=change.numpy(),
            norm=torch.stack(self.norm, 1).numpy(),
            p0_norm=torch.stack(self.p0_norm, 1).numpy(),
            at_edit=at_edit.numpy(),
            shares=shares.numpy(),
            removed=removed.numpy(),
            kinds=self.kinds,
            last=self.last.numpy(),
        )
