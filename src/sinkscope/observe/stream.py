"""What is said of the residual stream at position zero, and how a block's stream is replaced.

    r   = ‖x_0‖ / median_{t>0} ‖x_t‖                                     norm ratio
    u   = unit vector of (mean unit P0 over first tokens) − (mean unit others)    sink direction

The median of an even number of norms is the lower of the two in the middle.
"""

from __future__ import annotations

from typing import Any

import torch

from sinkscope.errors import Unsupported
from sinkscope.observe.layout import Layout

TINY = 1e-12  # least norm that is divided by


def unit(x: torch.Tensor) -> torch.Tensor:
    """Rows x [.., d] scaled to length one: x / ‖x‖, [.., d]; rows of zeros stay so."""
    return x / x.norm(dim=-1, keepdim=True).clamp_min(TINY)


def eigenvalues(gram: torch.Tensor) -> torch.Tensor:
    """Eigenvalues of symmetric matrices [..., d, d], smallest first: [..., d].

    NaN for a matrix that LAPACK gives up on: one with infinite entries, or too wide a range.
    """
    try:
        return torch.linalg.eigvalsh(gram)
    except torch.linalg.LinAlgError:
        if gram.ndim == 2:
            return gram.new_full(gram.shape[:1], torch.nan)
        return torch.stack([eigenvalues(each) for each in gram])


def others_median(norms: torch.Tensor, others: torch.Tensor | None = None) -> torch.Tensor:
    """Median over the last axis of norms [..., T]: [...].

    others  boolean, like norms or one for all: the positions that count; all but the first if None
    """
    if others is None:
        return norms[..., 1:].median(-1).values
    return norms.masked_fill(~others, torch.nan).nanmedian(-1).values


def norm_ratio(norms: torch.Tensor, others: torch.Tensor | None = None) -> torch.Tensor:
    """Norms over the median norm of the others, [..., T]; `others` as in `others_median`."""
    return norms.clamp_min(TINY) / others_median(norms, others).clamp_min(TINY).unsqueeze(-1)


def sink_direction(p0: torch.Tensor, other_mean: torch.Tensor) -> torch.Tensor:
    """u [.., d] from P0's states [n, .., d] over first tokens and the others' mean unit [.., d]."""
    return unit(unit(p0).mean(0) - other_mean)


def mean_cosine(states: torch.Tensor) -> torch.Tensor:
    """Mean cosine over all pairs of rows, [n, .., d] -> [..], in double; NaN for a single row.

    (‖Σ x̂‖² − n) / (n(n − 1)), exact for all pairs without forming them.
    """
    n = states.shape[0]
    total = unit(states).sum(0, dtype=torch.float64).square().sum(-1)
    return (total - n) / (n * (n - 1)) if n > 1 else torch.full_like(total, torch.nan)


class OthersMean:
    """Mean unit vector of the other positions at each read point, over the batches added."""

    def __init__(self) -> None:
        self._sums: dict[int, torch.Tensor] = {}
        self._counts: dict[int, int] = {}

    def add(self, point: int, hidden: torch.Tensor, layout: Layout) -> None:
        """Add the stream [B, T, d] of a batch; P0 and padding are left out."""
        layout = layout.on(hidden.device)
        x, others = hidden.float(), layout.valid & ~layout.is_p0
        weight = others / x.norm(dim=-1).clamp_min(TINY)
        total = torch.einsum("btd,bt->d", x, weight).double().cpu()
        self._sums[point] = self._sums[point] + total if point in self._sums else total
        self._counts[point] = self._counts.get(point, 0) + int(others.sum())

    @property
    def mean(self) -> torch.Tensor:
        """[point, d], fp32."""
        points = sorted(self._sums)
        means = [self._sums[point] / max(self._counts[point], 1) for point in points]
        return torch.stack(means).float()


def first_hidden(args: tuple, kwargs: dict) -> torch.Tensor:
    """The hidden states [B, T, d] among a block's arguments: by name, or the first floats.

    Raises Unsupported where there are none.
    """
    if "hidden_states" in kwargs:
        return kwargs["hidden_states"]
    for value in args:
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            return value
    raise Unsupported("a block was called without hidden states.")


def hidden_of(output: Any) -> torch.Tensor:
    """The hidden states [B, T, d] in a block's output, which is a tensor or begins with one."""
    return output if isinstance(output, torch.Tensor) else output[0]


def put_hidden(args: tuple, kwargs: dict, hidden: torch.Tensor) -> tuple[tuple, dict]:
    """A block's arguments with its hidden states replaced by `hidden` [B, T, d]."""
    if "hidden_states" in kwargs:
        return args, {**kwargs, "hidden_states": hidden}
    old = first_hidden(args, kwargs)
    return tuple(hidden if value is old else value for value in args), kwargs


def with_hidden(output: Any, hidden: torch.Tensor) -> Any:
    """A block's output with its hidden states replaced by `hidden` [B, T, d]."""
    if isinstance(output, torch.Tensor):
        return hidden
    return type(output)([hidden, *output[1:]])
