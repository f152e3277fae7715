"""Late queries: the second half of a row, where even attention on one key is small.

The late share of a key is the mean of A_tk over the late queries (2·t ≥ T) that see it (Ran-Milo et
al., arXiv 2604.14722). A query that a window keeps from the key, or that is padding, is left out;
where none is left there is no value. `Layout.late` marks late queries in rows of any kind.
"""

from __future__ import annotations

import torch

from sinkscope.observe.layout import Layout, Visibility


def first_late(length: int) -> int:
    """First late query of a row of `length` tokens: the least t with 2·t ≥ T."""
    return (length + 1) // 2


def late_seeing(layout: Layout, visible: Visibility) -> torch.Tensor:
    """[B, T] late queries that see their P0."""
    return layout.late & visible.p0_seen


def mean_of(sums: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Sums [...] over counts, which broadcast to them: [...]; NaN where nothing was counted."""
    return torch.where(counts > 0, sums / counts.clamp_min(1), torch.nan)


def mean_over(values: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """Mean of values [B, H, T] over the counted queries [B, 1 or H, T]: [B, H]; NaN for none."""
    return mean_of(torch.where(counted, values, 0.0).sum(-1), counted.sum(-1))


def mean_by_p0(values: torch.Tensor, counted: torch.Tensor, layout: Layout) -> torch.Tensor:
    """`mean_over` for rows that may hold several segments, one row a P0: [S, H].

    values [B, H, T], counted [B, T].
    """
    index = layout.p0
    values = torch.where(counted.unsqueeze(1), values, 0.0)
    sums = torch.zeros_like(values).scatter_add(2, index.unsqueeze(1).expand_as(values), values)
    count = torch.zeros_like(index).scatter_add(1, index, counted.long())
    rows, keys = layout.is_p0.nonzero(as_tuple=True)
    return mean_of(sums[rows, :, keys], count[rows, keys].unsqueeze(1))


def uniform_shares(layout: Layout, visible: Visibility) -> torch.Tensor:
    """alpha and late share of each P0 if every query attended uniformly to what it sees: [2, S]."""
    share = (1.0 / visible.keys_seen.clamp_min(1)).unsqueeze(1)
    counted = (visible.p0_seen, late_seeing(layout, visible))
    return torch.stack([mean_by_p0(share, one, layout)[:, 0] for one in counted])


def uniform_late_share(length: int) -> float:
    """Late share of uniform attention in a full causal row: mean of 1/(t + 1) over late t.

    0.0340 at T = 40.
    """
    return float((1.0 / torch.arange(first_late(length) + 1, length + 1).double()).mean())
