"""A long text in pieces: each piece's queries see the cached keys of all before (chunked prefill).

Memory grows with the length: what a pass holds is the cache of keys and values, what is kept of
each query and key, and the activations of one piece. The cache is transformers' own, so that
sliding windows keep what they need and no more.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch

from sinkscope.observe.layout import Layout, Visibility
from sinkscope.observe.reads import AttentionRead

ROWS_OF_KEYS = ("received", "late")  # what is summed over queries; the rest has a row a query
ROWS_OF_QUERIES = ("p0", "entropy", "learned")


def spans(length: int, size: int | None) -> list[tuple[int, int]]:
    """Tokens start..stop of each piece; one piece without a size."""
    size = size or length
    return [(start, min(start + size, length)) for start in range(0, length, size)]


def piece_inputs(
    inputs: dict[str, Any], size: int | None, config: Any
) -> Iterator[tuple[tuple[int, int], dict[str, Any]]]:
    """The span of each piece, and the keyword arguments of its forward call.

    inputs  of the whole text: input_ids [B, T], attention_mask [B, T] and position_ids [B, T]
    config  of the model, which tells the cache about sliding windows
    """
    length = inputs["input_ids"].shape[1]
    if size is None:
        yield (0, length), inputs
        return
    from transformers import DynamicCache

    cache = DynamicCache(config=config)
    for start, stop in spans(length, size):
        piece = {**inputs, "use_cache": True, "past_key_values": cache}
        for name in ("input_ids", "position_ids"):
            if name in inputs:
                piece[name] = inputs[name][:, start:stop]
        if "attention_mask" in inputs:
            piece["attention_mask"] = inputs["attention_mask"][:, :stop]
        yield (start, stop), piece


def as_before(inputs: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    """Remember a cache as it is, so that a call can be made once more after it has grown.

    What is returned gives the arguments of that call. The keys and values that a layer keeps whole
    are taken from the grown cache, so that they are not held twice; a window's are few.
    """
    cache = inputs.get("past_key_values")
    if cache is None:
        return lambda: inputs
    held = [_length(layer) or copy.copy(layer) for layer in cache.layers]

    def again() -> dict[str, Any]:
        before = copy.copy(cache)  # its tensors are replaced as it grows, never written to
        before.layers = [
            _first(grown, kept) if isinstance(kept, int) else kept
            for kept, grown in zip(held, cache.layers, strict=True)
        ]
        return {**inputs, "past_key_values": before}

    return again


def _length(layer: Any) -> int:
    """Number of tokens that a layer of a cache keeps whole; 0 for none, and for a window's."""
    from transformers.cache_utils import DynamicLayer

    return layer.get_seq_length() if type(layer) is DynamicLayer else 0


def _first(layer: Any, length: int) -> Any:
    """A layer of a cache with its first tokens alone; shares memory."""
    first = copy.copy(layer)
    first.keys, first.values = layer.keys[..., :length, :], layer.values[..., :length, :]
    return first


class Piece:
    """The tokens that run now: what their calls are, and which of the keys they see.

    layout  of the whole text
    span    the tokens start..stop; None where all go through at once
    """

    def __init__(self, layout: Layout, span: tuple[int, int] | None = None) -> None:
        self.layout, self.span = layout, span
        self._parts: dict[tuple[torch.device, int], Layout] = {}
        self._plain: dict[int, tuple[torch.Tensor, bool]] = {}

    def is_foreign(self, query: torch.Tensor, key: torch.Tensor) -> bool:
        """Whether a call, query [B, H, T, D] and key [B, G, K, D], is not over these tokens."""
        asked, given = query.shape[2], key.shape[2]
        if self.span is None:
            return asked != given
        start, stop = self.span
        return asked != stop - start or not asked <= given <= stop

    def layout_for(self, query: torch.Tensor, key: torch.Tensor) -> Layout:
        """The layout of these tokens and of the keys that a call has at hand; shapes as above."""
        at = query.device, key.shape[2]
        if at not in self._parts:
            layout = self.layout.on(query.device)
            self._parts[at] = layout.part(*self.span, key.shape[2]) if self.span else layout
        return self._parts[at]

    def sees_all(self, mask: torch.Tensor) -> bool:
        """Whether a boolean mask [B or 1, 1, T, K] is plain causality; found once for each mask."""
        if id(mask) not in self._plain:
            queries, keys = mask.shape[-2:]
            causal = torch.ones(queries, queries, dtype=torch.bool, device=mask.device).tril()
            plain = bool((mask[..., keys - queries :] == causal).all())
            plain = plain and bool(mask[..., : keys - queries].all())
            self._plain[id(mask)] = (mask, plain)  # holding the mask keeps its id from being reused
        return self._plain[id(mask)][1]


class Assembly:
    """The reads of a whole text, put together from those of its pieces."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.reads: list[AttentionRead] = []

    def add(self, reads: list[AttentionRead], start: int, stop: int) -> None:
        """Add the reads of tokens start..stop, in order of the calls."""
        if (start, stop) == (0, self.length):
            self.reads = reads
            return
        if not self.reads:
            self.reads = [self._empty(read) for read in reads]
        for whole, part in zip(self.reads, reads, strict=True):
            whole.reason = whole.reason or part.reason
            for name in ROWS_OF_QUERIES:
                if getattr(part, name) is not None:
                    getattr(whole, name)[..., start:stop] = getattr(part, name)
            for name in ROWS_OF_KEYS:
                if getattr(part, name) is not None:
                    _end_at(getattr(whole, name), stop, getattr(part, name))
            seen = part.visible
            whole.visible.keys_seen[:, start:stop] = seen.keys_seen
            whole.visible.p0_seen[:, start:stop] = seen.p0_seen
            for name in ("seen_by", "late_seen", "late_even"):
                _end_at(getattr(whole.visible, name), stop, getattr(seen, name))

    def _empty(self, read: AttentionRead) -> AttentionRead:
        def zeros(part: torch.Tensor | None) -> Any:
            return None if part is None else part.new_zeros(*part.shape[:-1], self.length)

        kept = {name: zeros(getattr(read, name)) for name in (*ROWS_OF_QUERIES, *ROWS_OF_KEYS)}
        visible = Visibility(**{name: zeros(x) for name, x in vars(read.visible).items()})
        return AttentionRead(read.block, read.reader, read.reason, visible, **kept)


def _end_at(whole: torch.Tensor, stop: int, part: torch.Tensor) -> None:
    """Add what the keys up to `stop` received, part [.., K], to whole [.., T]."""
    whole[..., stop - part.shape[-1] : stop] += part
