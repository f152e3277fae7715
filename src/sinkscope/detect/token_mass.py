"""Which tokens late queries look at, wherever they stand; P0 left out.

Counted in each half of the prompts, so that tokens that are found on one half are judged on the
other; a token that only one half holds cannot be judged, and is not counted.
"""

from __future__ import annotations

import numpy as np
import torch

from sinkscope.observe.late import first_late
from sinkscope.observe.layout import Layout
from sinkscope.observe.reads import AttentionRead
from sinkscope.subject.prompts import Prompts


class TokenMass:
    """Late attention by the token that receives it, in halves of the prompts.

    tokens   ids that both halves hold
    mass     [2, L, H, tokens] sums of attention over late queries
    even     [2, L, tokens] what uniform attention over the visible keys would give
    queries  [2] how many late queries were summed over
    """

    def __init__(self, prompts: Prompts) -> None:
        ids, lengths = prompts.input_ids.cpu(), prompts.lengths.tolist()
        first, second = (
            np.concatenate([[], *(row[:n] for row, n in zip(ids[half::2], lengths[half::2]))])
            for half in (0, 1)
        )
        self.tokens = np.intersect1d(first, second).astype(np.int64)
        self._places = _first_places(ids, lengths, self.tokens)
        self._lengths = torch.tensor(lengths)
        self._rows = 0
        self.mass: torch.Tensor | None = None
        self.even = torch.zeros(0)
        self.queries = torch.zeros(2)

    def add(self, reads: list[AttentionRead], layout: Layout, ids: torch.Tensor) -> None:
        """Add the reads of one batch, whose token ids [B, T] are the next of the prompts."""
        if self.mass is None:
            heads = max(read.p0.shape[1] for read in reads)
            self.mass = torch.zeros(2, len(reads), heads, len(self.tokens))
            self.even = torch.zeros(2, len(reads), len(self.tokens))
        at = np.searchsorted(self.tokens, ids.numpy()).clip(max=max(len(self.tokens) - 1, 0))
        known = torch.from_numpy(self.tokens[at] == ids.numpy()) if len(self.tokens) else None
        for row in range(len(ids)):
            half, self._rows = self._rows % 2, self._rows + 1
            self.queries[half] += float(layout.late[row].sum())
            if known is None:
                continue
            keys = known[row] & layout.valid[row] & ~layout.is_p0[row]
            index = torch.from_numpy(at[row])[keys]
            for layer, read in enumerate(reads):
                assert read.late is not None
                mass, even = read.late[row][:, keys], read.visible.late_even[row][keys]
                self.mass[half, layer, : len(mass)].index_add_(1, index, mass)
                self.even[half, layer].index_add_(0, index, even.float())

    def shares(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean share of a late query on each token, and its uniform value, by half of the prompts.

        [2, L, H, tokens] and [2, L, tokens].
        """
        assert self.mass is not None
        count = self.queries.clamp_min(1)
        mass, even = self.mass / count.view(2, 1, 1, 1), self.even / count.view(2, 1, 1)
        return mass.numpy(), even.numpy()

    def seen(self, chosen: np.ndarray, half: int) -> float:
        """Share of a half's late queries behind the first of the chosen tokens ([tokens], boolean).

        A sliding window may have left it behind; then what is held is more than is said.
        """
        lengths, places = self._lengths[half::2], self._places[half::2, torch.from_numpy(chosen)]
        late = torch.tensor([first_late(length) for length in lengths.tolist()])
        behind = (lengths - torch.maximum(places.amin(1), late)).clamp_min(0)
        return float(behind.sum() / (lengths - late).sum().clamp_min(1))


def _first_places(ids: torch.Tensor, lengths: list[int], tokens: np.ndarray) -> torch.Tensor:
    """Position at which each token first stands in each row, P0 left out: [n, tokens]."""
    first = torch.full((len(ids), len(tokens)), torch.iinfo(torch.long).max)
    for row, length in enumerate(lengths):
        held, at = np.unique(ids[row, 1:length].numpy(), return_index=True)
        _, ours, theirs = np.intersect1d(tokens, held, return_indices=True)
        first[row, torch.from_numpy(ours)] = torch.from_numpy(at[theirs] + 1)
    return first
