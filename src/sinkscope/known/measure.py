"""Measure a constructed model directly: where attention goes and how long the stream is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from sinkscope.known.constructed.plan import BOS, EOS
from sinkscope.known.constructed.truth import Truth
from sinkscope.observe.attention import observe
from sinkscope.observe.late import first_late
from sinkscope.observe.parity import token_prompts
from sinkscope.observe.reads import Want
from sinkscope.observe.residual import keep_streams
from sinkscope.observe.stream import norm_ratio, unit
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts

ROWS = 16
MANY = 64  # rows over which a head's small share of position zero is averaged
LENGTH = 64
FRESH = 8  # tokens at the start of a row that do not repeat


@dataclass
class ObservedPass:
    """One pass over a batch of n rows of T tokens.

    maps     [L, n, H, T, T] attention
    learned  [L, n, H, T] mass on a learned logit, or None
    stream   [L + 1, n, T, d] residual stream at each read point
    """

    maps: torch.Tensor
    learned: torch.Tensor | None
    stream: torch.Tensor

    def late(self, keys: torch.Tensor) -> torch.Tensor:
        """Mean mass of late queries (t ≥ T/2) on the marked keys [n, T]: [L, H]."""
        late = first_late(self.maps.shape[-1])
        mass = (self.maps[..., late:, :] * keys[None, :, None, None].float()).sum(-1)
        return mass.mean((1, 3))

    def late_learned(self) -> torch.Tensor:
        """Mean mass of late queries on the learned logit: [L, H]."""
        assert self.learned is not None
        return self.learned[..., first_late(self.learned.shape[-1]) :].mean((1, 3))

    def received(self) -> torch.Tensor:
        """α_k = mean over t ≥ k of A_tk: [L, n, H, T]."""
        length = self.maps.shape[-1]
        return self.maps.sum(-2) / torch.arange(length, 0, -1)

    def norm_ratio(self, keys: torch.Tensor) -> torch.Tensor:
        """Mean norm at the marked positions [n, T] over the median norm elsewhere: [L + 1]."""
        norms = self.stream.norm(dim=-1).flatten(1)
        return norm_ratio(norms, ~keys.flatten())[:, keys.flatten()].mean(1)

    def cosine(self, keys: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
        """Cosine to a direction [d] at the marked positions [n, T]: [L + 1, marked]."""
        return unit(self.stream)[:, keys] @ direction


def look(
    subject: Subject, ids: torch.Tensor, positions: torch.Tensor | None = None
) -> ObservedPass:
    """Run a batch of token ids [n, T] and keep everything; `positions` [n, T] replace 0..T−1."""
    prompts = token_prompts(ids)
    if positions is not None:
        prompts = Prompts(ids, prompts.lengths, "ids", "without", position_ids=positions)
    points, taps = keep_streams(subject)
    reads, _, _ = observe(subject, prompts, Want(received=False, maps=True), extra_hooks=taps)
    maps = torch.stack([read.map for read in reads if read.map is not None])
    learned = [read.learned for read in reads if read.learned is not None]
    stream = torch.stack([points[p] for p in sorted(points)])
    return ObservedPass(maps, torch.stack(learned) if learned else None, stream)


def late_share(subject: Subject, ids: torch.Tensor) -> torch.Tensor:
    """Mean mass of late queries on key 0 of rows ids [n, T], without keeping maps: [L, H]."""
    reads, _, _ = observe(subject, token_prompts(ids), Want(received=False))
    late = first_late(ids.shape[1])
    return torch.stack([read.p0[..., late:].mean((0, 2)) for read in reads])


def plain_tokens(truth: Truth) -> torch.Tensor:
    """The ids [k] that nothing singles out: no special, marked or delimiting tokens."""
    marked = {BOS, EOS, *truth.tokens, *((truth.secondary or {}).get("tokens", []))}
    return torch.tensor([i for i in range(truth.spec["vocab"]) if i not in marked])


def plain_rows(truth: Truth, seed: int, rows: int = ROWS, length: int = LENGTH) -> torch.Tensor:
    """Random plain ids [rows, length] whose first eight do not repeat.

    Repeats at the very start leave a position as unmixed as P0, which the truth does not promise.
    """
    generator = torch.Generator().manual_seed(seed)
    tokens = plain_tokens(truth)
    ids = tokens[torch.randint(len(tokens), (rows, length), generator=generator)]
    for row in ids:
        row[:FRESH] = tokens[torch.randperm(len(tokens), generator=generator)[:FRESH]]
    return ids


@contextmanager
def restored(model: Any) -> Iterator[None]:
    """Put every weight back as it was on leaving."""
    saved = [(parameter, parameter.detach().clone()) for parameter in model.parameters()]
    try:
        with torch.no_grad():
            yield
    finally:
        with torch.no_grad():
            for parameter, value in saved:
                parameter.copy_(value)
