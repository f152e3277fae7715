"""The scores of one attention call: what they are made of, and a few rows of them at a time.

Shapes: q [B, H, T, D]; k, v [B, G, K, D] with G dividing H; mask boolean [B or 1, 1, T, K]. K is T,
or more where the queries are a piece of a text and the keys all that it has had so far: the queries
are those of the last T keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

CHUNK = 128  # queries whose scores are held at a time
HELD = 1 << 26  # scores, at the most; fewer queries then
NEVER = -1e30


def capped(scores: torch.Tensor, cap: float | None) -> torch.Tensor:
    """Soft-capped scores: cap·tanh(s / cap); as they are without a cap."""
    return scores if cap is None else torch.tanh(scores / cap) * cap


def repeat_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """Key heads repeated, one for each of `heads` query heads: [B, G, K, D] → [B, H, K, D]."""
    groups = heads // x.shape[1]
    return x if groups == 1 else x.repeat_interleave(groups, dim=1)


@dataclass
class Scores:
    """What defines the scores of one attention call: inputs, mask, scale, cap.

    q [B, H, T, D]; k [B, G, K, D]; mask boolean [B or 1, 1, T, K], True = visible. None with
    `causal` means plain causal attention; None without it, no mask at all.
    """

    q: torch.Tensor
    k: torch.Tensor
    mask: torch.Tensor | None
    causal: bool
    scale: float
    softcap: float | None = None

    def expand(self, x: torch.Tensor) -> torch.Tensor:
        """Key heads repeated, one for each query head: [B, G, K, D] → [B, H, K, D]."""
        return repeat_heads(x, self.q.shape[1])

    @property
    def before(self) -> int:
        """How many keys come before the first query's own."""
        return self.k.shape[2] - self.q.shape[2]

    def pieces(self) -> Iterator[tuple[int, int]]:
        """Consecutive queries start..stop whose scores can be held at once."""
        batch, heads, length, _ = self.q.shape
        size = max(1, min(CHUNK, HELD // (batch * heads * self.k.shape[2])))
        for start in range(0, length, size):
            yield start, min(start + size, length)

    def chunk(self, start: int, stop: int, k: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores of queries start..stop in fp32 (masked ones at NEVER), and where they are visible.

        k [B, H, K, D], expanded. Scores [B, H, stop − start, n]: n = K, but under plain causality
        later keys than the last query's own are left out. The mask broadcasts to them.
        """
        keys = self.before + stop if self.mask is None and self.causal else k.shape[2]
        scores = self.q[:, :, start:stop].float() @ k[:, :, :keys].float().transpose(-1, -2)
        scores = capped(scores.mul_(self.scale), self.softcap)
        if self.mask is not None:
            visible = self.mask[:, :, start:stop]
            return scores.masked_fill_(~visible, NEVER), visible
        if self.causal:
            rows = torch.arange(start, stop, device=k.device).unsqueeze(1)
            hidden = torch.arange(keys, device=k.device) > self.before + rows
            return scores.masked_fill_(hidden, NEVER), ~hidden
        return scores, torch.ones((), dtype=torch.bool, device=k.device)
