"""Routed experts with some of their neurons switched off for the time being."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from sinkscope.observe.projection import Projection


@contextmanager
def without_columns(
    block: nn.Module, projection: Projection, neurons: Sequence[int], expert: int | None = None
) -> Iterator[None]:
    """Zero what the neurons of an expert (of every one: None) write; put back at the end."""
    units = expert_columns(block, projection)
    chosen = slice(None) if expert is None else slice(expert, expert + 1)
    index = list(neurons)
    with torch.no_grad():
        saved = units[chosen, index].clone()
        try:
            units[chosen, index] = 0.0
            yield
        finally:
            units[chosen, index] = saved


def expert_columns(block: nn.Module, projection: Projection) -> torch.Tensor:
    """What each neuron of each expert writes, as a view of the parameter: [experts, neurons, d]."""
    weight = projection.weight(block)
    return weight.transpose(1, 2) if projection.layout == "expert_out_in" else weight
