"""Every vocabulary item at position zero: how many of them become the sink.

One-token sequences through the blocks that are needed, in batches, without logits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from sinkscope.observe.p0_stream import BATCH, one_token_pass
from sinkscope.observe.stream import first_hidden, hidden_of
from sinkscope.subject.load import Subject

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Vocabulary:
    """What each item becomes at P0.

    along   [V] ⟨x̂_0, u⟩; norm [V] ‖x_0‖, both at the input of block `point`
    sinks   [V] on the sink's side: above the midpoint along u, and, where the norm is amplified,
            above half of P0's median norm
    """

    point: int
    along: np.ndarray
    norm: np.ndarray
    sinks: np.ndarray

    @property
    def ratio(self) -> float:
        """Share of the vocabulary that becomes the sink (Sun et al., arXiv 2603.05498)."""
        return float(self.sinks.mean())


def scan_vocabulary(
    subject: Subject,
    size: int,
    u: torch.Tensor,
    point: int,
    midpoint: float,
    least_norm: float,
    progress: Progress | None = None,
) -> Vocabulary:
    """Put the items 0..size−1 at P0 and read them at the input of block `point`."""
    along, norm = np.empty(size, dtype=np.float32), np.empty(size, dtype=np.float32)
    at = slice(0, 0)

    def keep(hidden: torch.Tensor) -> None:
        x = hidden[:, 0].float()
        length = x.norm(dim=-1)
        norm[at] = length.cpu().numpy()
        along[at] = ((x @ u.to(x)) / length.clamp_min(1e-12)).cpu().numpy()

    blocks = subject.anatomy.modules(subject.model)

    def taps():
        if point < len(blocks):
            return [
                blocks[point].register_forward_pre_hook(
                    lambda module, args, kwargs: keep(first_hidden(args, kwargs)), with_kwargs=True
                )
            ]
        return [blocks[-1].register_forward_hook(lambda module, args, out: keep(hidden_of(out)))]

    for start in range(0, size, BATCH):
        if progress:
            progress("vocabulary", start, size)
        at = slice(start, min(start + BATCH, size))
        one_token_pass(subject, torch.arange(at.start, at.stop), taps, point)
    if progress:
        progress("vocabulary", size, size)
    return Vocabulary(point, along, norm, (along > midpoint) & (norm > least_norm))
