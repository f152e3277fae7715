"""Vocabulary items at position zero: how many of them become the sink.

One-token sequences through the blocks that are needed, in batches, without logits. A vocabulary
that would cost more than PASSES plain passes over the prompts is sampled, never below LEAST items:
the share then has the interval of a sample drawn without replacement.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from sinkscope.frame import Progress, silent
from sinkscope.observe.p0_stream import BATCH, one_token_pass
from sinkscope.observe.stream import first_hidden, hidden_of
from sinkscope.observe.together import together
from sinkscope.result import Measured
from sinkscope.stats import drawn_share
from sinkscope.subject.load import Subject

PASSES = 0.5
LEAST = 4096
TOGETHER = 32  # batches that go through the blocks together, where those are read from disk


@dataclass(frozen=True)
class Vocabulary:
    """What each of k items becomes at P0.

    items   [k] their token ids; all of them where k is `of`, else drawn at random
    along   [k] ⟨x̂_0, u⟩; norm [k] ‖x_0‖, both at the input of block `point`
    sinks   [k] on the sink's side: above the midpoint along u, and, where the norm is amplified,
            above half of P0's median norm
    """

    point: int
    items: np.ndarray
    of: int
    along: np.ndarray
    norm: np.ndarray
    sinks: np.ndarray

    @property
    def ratio(self) -> Measured:
        """Share of the vocabulary that becomes the sink (Sun et al., arXiv 2603.05498)."""
        return drawn_share(int(self.sinks.sum()), len(self.sinks), self.of)


def affordable(size: int, tokens: int, depth: int, point: int, seed: int) -> torch.Tensor:
    """[k] token ids to put at P0, sorted: all `size`, or as many as PASSES allow.

    tokens, depth  of a plain pass; point  blocks that an item is run through
    """
    count = max(LEAST, int(PASSES * tokens * depth / max(point, 1)))
    if count >= size:
        return torch.arange(size)
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(size, generator=generator)[:count].sort().values


def scan_vocabulary(
    subject: Subject,
    items: torch.Tensor,
    of: int,
    u: torch.Tensor,
    point: int,
    midpoint: float,
    least_norm: float,
    progress: Progress = silent,
) -> Vocabulary:
    """Put items [k], out of `of`, at P0 and read them along u [d] at the input of block `point`."""
    size = len(items)
    along, norm = np.empty(size, dtype=np.float32), np.empty(size, dtype=np.float32)

    def keep(at: slice, hidden: torch.Tensor) -> None:
        x = hidden[:, 0].float()
        length = x.norm(dim=-1)
        norm[at] = length.cpu().numpy()
        along[at] = ((x @ u.to(x)) / length.clamp_min(1e-12)).cpu().numpy()

    blocks = subject.anatomy.modules(subject.model)

    def put(at: slice) -> None:
        def before(module, args, kwargs):
            keep(at, first_hidden(args, kwargs))

        def behind(module, args, output):
            keep(at, hidden_of(output))

        def taps():
            if point < len(blocks):
                return [blocks[point].register_forward_pre_hook(before, with_kwargs=True)]
            return [blocks[-1].register_forward_hook(behind)]

        one_token_pass(subject, items[at], taps, point)

    batches = [slice(first, min(first + BATCH, size)) for first in range(0, size, BATCH)]
    for first in range(0, len(batches), TOGETHER):
        with together(subject) as start:
            for at, done in [(at, start(put, at)) for at in batches[first : first + TOGETHER]]:
                progress("vocabulary", at.start, size)
                done()
    progress("vocabulary", size, size)
    sinks = (along > midpoint) & (norm > least_norm)
    return Vocabulary(point, items.numpy(), of, along, norm, sinks)
