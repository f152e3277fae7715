"""Shares and margins of a few keys from rows of scores, summed over late queries.

They come from scores in fp32, with the log-sum-exp over the other keys taken directly:
`log(a/(1 − a))` from a rounded `a` is meaningless in saturated heads.
"""

from __future__ import annotations

from functools import reduce
from itertools import pairwise

import torch

from sinkscope.observe.late import mean_of
from sinkscope.observe.scores import NEVER


class Row:
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


class Sums:
    """Sums over late queries of shares and margins: [position, B, H] each."""

    NAMES = ("share", "margin", "bare_share", "bare_margin")

    def __init__(self, positions: int, batch: int, heads: int, device: torch.device) -> None:
        shape = (len(self.NAMES), positions, batch, heads)
        self.sums = torch.zeros(shape, dtype=torch.float64, device=device)
        self.counts = torch.zeros_like(self.sums)

    def add(self, i: int, p: int, row: Row, visible, total, late, learned) -> None:
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
