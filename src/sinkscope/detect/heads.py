"""What a head does with the sink: value norms, rank of its update, no-op or broadcast.

Fesser et al. (arXiv 2606.08105): the same attention pattern serves two ends. In an adaptive no-op
the sink's value is near zero and the head writes nothing; in a broadcast the value carries a
message and the head writes nearly the same vector everywhere (stable rank near one).
"""

from __future__ import annotations

import numpy as np
import torch

from sinkscope.observe.layout import Layout
from sinkscope.observe.reads import AttentionCall, AttentionRead
from sinkscope.observe.scores import repeat_heads
from sinkscope.observe.stream import eigenvalues, norm_ratio
from sinkscope.stats import nan_mean

NOT_A_SINK, NO_OP, BROADCAST, UNDECIDED = range(4)
CLASS_MEANINGS = "not_a_sink no_op broadcast undecided"
# Thresholds of Fesser et al.; between them the class is undecided.
NO_OP_VALUE, BROADCAST_VALUES, BROADCAST_RANK = 0.2, (0.5, 1.5), 1.5
RANK_ROWS = 8  # prompts from which stable ranks are taken


class HeadStats:
    """Streaming value-norm ratios and stable ranks; `inspect` goes into `Want.inspect`."""

    def __init__(self) -> None:
        self.layout: Layout | None = None
        self._span = (0, 0)
        self._layer = 0
        self._held: dict[int, _Held] = {}
        self._value: list[list[np.ndarray]] = []
        self._rank: list[list[np.ndarray]] = []
        self._rows = 0

    def begin(self, layout: Layout) -> None:
        """Say which batch the next `inspect` calls belong to."""
        self.layout = layout
        self.piece(0, layout.valid.shape[1])

    def piece(self, start: int, stop: int) -> None:
        """Say that the next `inspect` calls are of the tokens start..stop alone, in order."""
        self._span, self._layer = (start, stop), 0

    def finish(self) -> None:
        """Close the batch."""
        if self.layout is not None:
            self._rows += self.layout.valid.shape[0]

    def inspect(self, call: AttentionCall, read: AttentionRead) -> None:
        """Take one attention call: of a whole text, or of a piece on the keys so far."""
        if len(self._value) <= self._layer:
            self._value.append([])
            self._rank.append([])
        assert self.layout is not None
        layout = self.layout.on(call.values.device)
        held = self._held.setdefault(self._layer, _Held())
        start, stop = self._span
        held.norms.append(call.values[:, :, start - stop :].float().norm(dim=-1))
        ranked = self._rows < RANK_ROWS and layout.simple
        if ranked:
            rows = slice(0, RANK_ROWS - self._rows)
            held.add_updates(call, read, layout.part(start, stop), rows)
        if stop == layout.valid.shape[1]:
            norms = torch.cat(held.norms, 2)
            self._value[self._layer].append(_ratio_at_p0(norms, layout).cpu().numpy())
            if ranked:
                self._rank[self._layer].append(_rank_of(held.grams).cpu().numpy())
            del self._held[self._layer]
        self._layer += 1

    @property
    def value_ratio(self) -> list[np.ndarray]:
        """Norm of P0's value over the median of the others: one [key head] for each layer."""
        return [nan_mean(np.concatenate(rows)) for rows in self._value]

    @property
    def stable_rank(self) -> list[np.ndarray]:
        """Stable rank of the update with and without P0's part: one [2, head] for each layer."""
        return [nan_mean(np.concatenate(rows)) if rows else np.empty((2, 0)) for rows in self._rank]


def value_norm_ratio(values: torch.Tensor, layout: Layout) -> torch.Tensor:
    """‖v_0‖ over median ‖v_t‖, t > 0: [B, key head]. values [B, G, T, Dv]."""
    return _ratio_at_p0(values.float().norm(dim=-1), layout)


def _ratio_at_p0(norms: torch.Tensor, layout: Layout) -> torch.Tensor:
    """P0's norm over the median of the others', norms [B, G, T]: [B, G]."""
    p0 = layout.is_p0.unsqueeze(1)
    others = (layout.valid & ~layout.is_p0).unsqueeze(1)
    ratio = norm_ratio(norms, others)
    return ratio.masked_fill(~p0, torch.nan).nanmean(2)


def stable_rank(update: torch.Tensor) -> torch.Tensor:
    """‖U‖_F² / σ₁² of [..., T, D], from the D × D Gram matrix; NaN for a zero update."""
    return _rank_of(_gram(update))


def _gram(update: torch.Tensor) -> torch.Tensor:
    return update.double().transpose(-1, -2) @ update.double()


def _rank_of(gram: torch.Tensor) -> torch.Tensor:
    values = eigenvalues(gram)
    largest = values[..., -1]
    return torch.where(largest > 0, values.sum(-1) / largest, torch.nan)


class _Held:
    """What is held of one layer until the whole of a text has gone through.

    norms  of values, [B, G, T] for each piece
    grams  of each head's update over t > 0, with and without P0's part: [B, 2, H, D, D]
    """

    def __init__(self) -> None:
        self.norms: list[torch.Tensor] = []
        self.grams: torch.Tensor = torch.zeros(())

    def add_updates(
        self, call: AttentionCall, read: AttentionRead, layout: Layout, rows: slice
    ) -> None:
        """Add the updates of the tokens of `layout`; where P0 is seen, the first value is its."""
        output = call.output[rows].transpose(1, 2).float()
        value0 = repeat_heads(call.values[rows][:, :, :1].float(), output.shape[1])
        keep = (layout.valid & ~layout.is_p0)[rows][:, None, :, None]
        part = read.p0[rows].unsqueeze(-1) * value0
        both = [_gram(output * keep), _gram((output - part) * keep)]
        self.grams = self.grams.to(output.device) + torch.stack(both, 1)


def classify(sinks: np.ndarray, value_ratio: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """Class of each head, from [layer, head] figures: [layer, head].

    sinks        whether it sinks at P0
    value_ratio  ‖v_0‖ over the others' median, spread over the query heads
    rank         stable rank of its update
    """
    found = np.full(sinks.shape, UNDECIDED, dtype=np.int8)
    low, high = BROADCAST_VALUES
    with np.errstate(invalid="ignore"):
        found[value_ratio < NO_OP_VALUE] = NO_OP
        inside = (value_ratio >= low) & (value_ratio <= high)
        found[inside & (rank <= BROADCAST_RANK)] = BROADCAST
        found[~sinks] = NOT_A_SINK
    return found
