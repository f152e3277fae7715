"""Which tokens late queries look at."""

from __future__ import annotations

import numpy as np
import torch

from sinkscope.observe.late import first_late


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
