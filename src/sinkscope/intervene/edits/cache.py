"""Edits that make the key-value cache what a server makes of it: short, or of few bits."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch

from sinkscope.errors import InputError, Unsupported
from sinkscope.intervene.attend import Call
from sinkscope.intervene.edits.base import Context, Edit
from sinkscope.intervene.rounding import rounded
from sinkscope.observe.tap import boolean_mask, scale_of


@dataclass(frozen=True)
class SlidingCache(Edit):
    """A cache of `window` tokens: the first `keep` of the text, and the latest.

    Query t sees keys 0 .. keep − 1 and the last window − keep, its own included. Positions count
    within the cache, as in StreamingLLM (Xiao et al., arXiv 2309.17453): the distance to a recent
    key is its own, that to kept key j is min(t, window − 1) − j. One pass gives what a server gives
    token by token, since what is evicted stays evicted in every block.

    heads  (block, key head) with such a cache, the others keep everything; None for all

    Rotary positions only (Unsupported elsewhere): q·R(p) of the kept keys is read from the
    attention module, called again with the rotation of other positions. Scores of recent and kept
    keys are one dot product, [q_t, q′_t]·[k_s, 0] or ·[0, k_j].
    """

    window: int
    keep: int = 0
    heads: tuple[tuple[int, int], ...] | None = None
    acts_on_attention = True

    def __post_init__(self) -> None:
        if not 0 <= self.keep < self.window:
            raise InputError(f"a cache of {self.window} tokens cannot keep {self.keep} first ones.")

    def __str__(self) -> str:
        where = "" if self.heads is None else f", in {len(self.heads)} key-value heads"
        return f"a cache of {self.window} tokens, the first {self.keep} among them{where}"

    def first_block(self) -> int:
        """The first block with such a cache."""
        return 0 if self.heads is None else min(block for block, _ in self.heads)

    def hooks(self, context: Context) -> list[Any]:
        """Remember how each attention module was called."""

        def enter(module, args, kwargs):
            context.calls[id(module)] = (args, kwargs)

        return [
            context.subject.model.get_submodule(path).register_forward_pre_hook(
                enter, with_kwargs=True
            )
            for block in context.subject.anatomy.blocks
            for path in block.attention
        ]

    def attention(self, context: Context, block: int, call: Call) -> Call:
        """The call with the keys that are still there, and the query rotated for kept ones."""
        length = call.query.shape[2]
        held = self._held(block, call)
        if length <= self.window or (held is not None and not held.any()):
            return call
        at = torch.arange(length, device=call.query.device)
        kept = at < self.keep
        seen = (at[None, :] <= at[:, None]) & (
            kept[None, :] | (at[:, None] - at[None, :] < self.window - self.keep)
        )
        mask = seen[None, None]
        if held is not None:
            everything = (at[None, :] <= at[:, None])[None, None]
            mask = torch.where(held[None, :, None, None], mask, everything)
        given = boolean_mask(call.mask)
        call = dataclasses.replace(call, mask=mask if given is None else mask & given)
        return self._rotated(context, call, kept, held) if self.keep else call

    def _held(self, block: int, call: Call) -> torch.Tensor | None:
        """[H] query heads whose keys are in such a cache; None for all."""
        if self.heads is None:
            return None
        groups = call.query.shape[1] // call.key.shape[1]
        held = torch.zeros(call.key.shape[1], dtype=torch.bool, device=call.query.device)
        held[[head for at, head in self.heads if at == block]] = True
        return held.repeat_interleave(groups)

    def _rotated(
        self, context: Context, call: Call, kept: torch.Tensor, held: torch.Tensor | None
    ) -> Call:
        positions = torch.arange(len(kept), device=kept.device).clamp_max(self.window - 1)
        other = query_at(context, call, positions)
        if held is not None:
            other = torch.where(held[None, :, None, None], other, call.query)
        chosen = kept[None, None, :, None]
        nothing = torch.zeros((), dtype=call.key.dtype, device=call.key.device)
        key = torch.cat(
            [torch.where(chosen, nothing, call.key), torch.where(chosen, call.key, nothing)], -1
        )
        kwargs = call.kwargs | {"scaling": scale_of(call.kwargs, call.query)}
        query = torch.cat([call.query, other], -1)
        return dataclasses.replace(call, query=query, key=key, kwargs=kwargs)


@dataclass(frozen=True)
class RoundCache(Edit):
    """Keys and values rounded to a few bits, as a quantised cache holds them.

    what   key, value or both
    group  what shares a scale in a head: token, channel (over the tokens of a prompt) or tensor
    exact  positions that are kept in full precision
    """

    bits: int = 8
    what: str = "both"
    group: str = "token"
    exact: tuple[int, ...] = ()
    acts_on_attention = True

    def __str__(self) -> str:
        return f"{self.what} cache in {self.bits} bits by {self.group}{but(self.exact)}"

    def attention(self, context: Context, block: int, call: Call) -> Call:
        """The call with keys and values rounded."""
        if self.what not in ("key", "value", "both"):
            raise InputError(f"{self.what!r} is not key, value or both.")
        names = ("key", "value") if self.what == "both" else (self.what,)
        changed: dict[str, Any] = {}
        for name in names:
            x = getattr(call, name)  # a head at a time: heads never share a scale
            heads = rounded(x.flatten(0, 1), self.bits, self.group, self.exact)
            changed[name] = heads.reshape(x.shape)
        return dataclasses.replace(call, **changed)


def but(exact: tuple[int, ...]) -> str:
    """Which positions are kept in full precision, in words."""
    return f", but position {', '.join(map(str, exact))}" if exact else ""


def query_at(context: Context, call: Call, positions: torch.Tensor) -> torch.Tensor:
    """The query of a call [B, H, T, D] as it were with the rotary embedding of other positions [T].

    Raises Unsupported where positions do not come as rotary embeddings.
    """
    args, kwargs = context.calls.get(id(call.module), ((), {}))
    rotary = kwargs.get("position_embeddings")
    if not (isinstance(rotary, tuple) and all(isinstance(x, torch.Tensor) for x in rotary)):
        raise Unsupported(
            f"{context.subject.anatomy.model_type} has no rotary positions that could count within "
            "the cache."
        )
    moved = {**kwargs, "position_embeddings": tuple(x[..., positions, :] for x in rotary)}
    assert context.capture is not None
    return context.capture(lambda: call.module.forward(*args, **moved))
