"""Where position zero is: P0 is the first visible key of a row, or of a packed segment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from sinkscope.subject.prompts import Prompts

ROWS = 256  # of a mask that are summed at a time
KEPT_MASKS = 4  # a model has a mask or two; one that makes a new mask per block must not pile up


@dataclass
class Visibility:
    """Which keys a kind of layer lets a query see, reduced to counts.

    keys_seen   [B, T] visible keys of each query
    seen_by     [B, K] valid queries that see each key
    p0_seen     [B, T] whether the query sees its P0 (and is valid)
    late_seen   [B, K] late queries that see each key
    late_even   [B, K] what each key would receive from them under uniform attention
    """

    keys_seen: torch.Tensor
    seen_by: torch.Tensor
    p0_seen: torch.Tensor
    late_seen: torch.Tensor
    late_even: torch.Tensor


@dataclass
class Layout:
    """The rows of one batch, or a piece of them.

    valid     [B, T] real tokens
    p0        [B, T] index of the P0 of each token among the keys; below zero where a cache has
              left it behind
    relative  [B, T] position within the row or segment, 0 at P0
    late      [B, T] valid queries in the second half of their row or segment
    before    keys ahead of the first token's own
    """

    valid: torch.Tensor
    p0: torch.Tensor
    relative: torch.Tensor
    late: torch.Tensor
    before: int = 0
    _cache: dict[int, tuple[Any, Visibility]] = field(default_factory=dict)
    _copies: dict[torch.device, Layout] = field(default_factory=dict)

    def on(self, device: torch.device) -> Layout:
        """The same layout on another device, for models that are spread over several."""
        if self.valid.device == device:
            return self
        if device not in self._copies:
            self._copies[device] = Layout(
                self.valid.to(device),
                self.p0.to(device),
                self.relative.to(device),
                self.late.to(device),
                self.before,
            )
        return self._copies[device]

    def part(self, start: int, stop: int, keys: int | None = None) -> Layout:
        """Tokens start..stop alone.

        keys  how many keys their attention has at hand, of which the last is that of the last
              token; by default all up to it
        """
        first = stop - (stop if keys is None else keys)
        if (first, start, stop) == (0, 0, self.valid.shape[1]):
            return self
        rows = slice(start, stop)
        p0 = self.p0[:, rows] - first
        return Layout(
            self.valid[:, rows], p0, self.relative[:, rows], self.late[:, rows], start - first
        )

    @property
    def simple(self) -> bool:
        """Whether P0 is key 0 of every row (no left padding, no packing)."""
        return not bool(self.p0.any())

    @property
    def all_late(self) -> bool:
        """Whether every real token is late, as in the second half of a text."""
        return bool((self.late == self.valid).all())

    @property
    def is_p0(self) -> torch.Tensor:
        """[B, T] tokens that are the P0 of their row or segment."""
        return self.valid & (self.relative == 0)

    def visibility(self, mask: torch.Tensor | None) -> Visibility:
        """Counts for a mask ([B or 1, 1, T, K] boolean, True = visible; None = plain causal).

        The mask is shared by the layers of one pass, so the counts are kept with it.
        """
        key = id(mask)
        if key not in self._cache:
            found = self._causal() if mask is None else self._from_mask(mask)
            while len(self._cache) >= KEPT_MASKS:
                self._cache.pop(next(iter(self._cache)))
            self._cache[key] = (mask, found)  # holding the mask keeps its id from being reused
        return self._cache[key][1]

    def _causal(self) -> Visibility:
        batch, length = self.valid.shape
        own = torch.arange(1, length + 1, device=self.valid.device)
        keys = (self.before + own).expand(batch, length)
        even = self.late / keys
        seen_by, late_seen, late_even = (
            self._later(x.flip(1).cumsum(1).flip(1)) for x in (self.valid, self.late, even)
        )
        return Visibility(keys, seen_by, self.valid & (self.p0 >= 0), late_seen, late_even)

    def _later(self, sums: torch.Tensor) -> torch.Tensor:
        """Sums over the queries from each on, [B, T], by key [B, K]: earlier keys get them all."""
        return torch.cat([sums[:, :1].expand(-1, self.before), sums], 1) if self.before else sums

    def _from_mask(self, mask: torch.Tensor) -> Visibility:
        batch, length = self.valid.shape
        visible = mask[:, 0].expand(batch, length, mask.shape[-1])
        keys = visible.sum(-1)
        late = self.late.float()
        queries = torch.stack([self.valid.float(), late, late / keys.clamp_min(1)])
        sums = queries.new_zeros(3, batch, mask.shape[-1])
        for start in range(0, length, ROWS):  # as numbers a mask takes four times its memory
            rows = slice(start, start + ROWS)
            part = visible[:, rows].float()
            sums += torch.einsum("nbt,btk->nbk", queries[:, :, rows], part)
        seen_by, late_seen, late_even = sums
        p0 = visible.gather(2, self.p0.clamp_min(0).unsqueeze(-1)).squeeze(-1) & (self.p0 >= 0)
        return Visibility(keys, seen_by.long(), p0 & self.valid, late_seen.long(), late_even)


def layout_of(prompts: Prompts, device: torch.device) -> Layout:
    """Read the layout off lengths, attention mask (left padding) and position ids (packing)."""
    batch, length = prompts.input_ids.shape
    positions = torch.arange(length, device=device).expand(batch, length)
    if prompts.attention_mask is not None:
        valid = prompts.attention_mask.to(device).bool()
    else:
        valid = positions < prompts.lengths.to(device).unsqueeze(1)
    if prompts.position_ids is not None:
        starts = _segment_starts(prompts.position_ids.to(device))
    else:
        starts = torch.zeros_like(valid)
        starts[torch.arange(batch, device=device), valid.int().argmax(1)] = True
    p0 = torch.where(starts, positions, 0).cummax(1).values
    relative = positions - p0
    return Layout(valid, p0, relative, valid & (2 * relative >= _segment_length(p0, valid)))


def _segment_starts(position_ids: torch.Tensor) -> torch.Tensor:
    """A segment starts where positions do not go up by one (as transformers itself decides)."""
    first = position_ids[:, :1] - 1
    starts = torch.diff(position_ids, prepend=first, dim=-1) != 1
    starts[:, 0] = True
    return starts


def _segment_length(p0: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """[B, T] number of valid tokens that share a P0 with each token."""
    counts = torch.zeros_like(p0).scatter_add(1, p0, valid.long())
    return counts.gather(1, p0)
