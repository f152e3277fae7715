"""The stream at every read point and every write, also within blocks."""

from __future__ import annotations

from collections.abc import Callable

import torch

from sinkscope.observe.p0_stream import Taps, p0_states
from sinkscope.observe.residual import residual_hooks
from sinkscope.observe.sites import Sites, write_hooks
from sinkscope.subject.load import Subject


def stream_hooks(
    subject: Subject,
    sites: Sites,
    point: Callable[[int, torch.Tensor], None],
    write: Callable[[int, int, torch.Tensor], None] | None = None,
) -> Taps:
    """A hook factory: point(number, hidden) at each of `sites.points`, hidden [B, T, d].

    write, where given, is called as write(block, index, delta) at each write, delta [B, T, d].
    """
    at = sites.inputs
    stream: list[torch.Tensor] = []

    def keep(block: int, hidden: torch.Tensor) -> None:
        stream[:] = [hidden]
        point(at[block], hidden)

    def added(block: int, index: int, delta: torch.Tensor) -> None:
        if index == 0 and sites.mid[block]:
            point(at[block] + 1, stream[0] + delta)
        if write is not None:
            write(block, index, delta)

    read, wrote = residual_hooks(subject, keep), write_hooks(subject, sites, added)
    return lambda: [*read(), *wrote()]


def p0_points(subject: Subject, sites: Sites, tokens: torch.Tensor) -> torch.Tensor:
    """P0's stream at each of `sites.points` for each of tokens [n]: [n, points, d], fp32."""
    return p0_states(subject, tokens, lambda keep: stream_hooks(subject, sites, keep))


def width_of(subject: Subject) -> int:
    """Channels of the stream; a nested configuration may not say."""
    weight = subject.model.get_input_embeddings().weight
    return subject.anatomy.hidden_size or weight.shape[1]
