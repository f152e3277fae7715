"""Edits that make the key-value cache what a server makes of it: short, or of few bits."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch

from sinkscope.errors import InputError, Unsupported
from sinkscope.intervene.attend import Call
from sinkscope.intervene.edits.attention import key_and_value
from sinkscope.intervene.edits.base import Context, Edit
from sinkscope.intervene.rounding import rounded
from sinkscope.observe.tap import boolean_mask, scale_of


@dataclass(frozen=True)
class SlidingCache(Edit):
    """A cache of `window` tokens: the first `keep` of the text, others that are named, the latest.

    The oldest token that is not kept goes first: query t, with e = max(0, t + 1 − window) tokens
    gone, sees the kept keys and the others but their first e. Positions count within the cache, as
    in StreamingLLM (Xiao et al., arXiv 2309.17453): the distance to a recent key is its own, that
    to a kept key s, with r tokens before it that are not kept, is t − s − max(0, e − r). One pass
    gives what a server gives token by token, since what is gone stays gone in every block.

    heads  (block, key head) with such a cache, the others keep everything; None for all
    extra  for each prompt the positions of tokens that are kept beside the first

    Rotary positions only (Unsupported elsewhere): q·R(p) of the kept keys is read from the
    attention module, called again with the rotation of other positions. Scores of recent and kept
    keys are one dot product, [q_t, q′_t, ..]·[k_s, 0, ..] or ·[0, k_j, ..].
    """

    window: int
    keep: int = 0
    heads: tuple[tuple[int, int], ...] | None = None
    extra: tuple[tuple[int, ...], ...] = ()
    acts_on_attention = True

    def __post_init__(self) -> None:
        most = self.keep + max(map(len, self.extra), default=0)
        if self.keep < 0 or not most < self.window:
            raise InputError(f"a cache of {self.window} tokens cannot keep {most} of them.")

    def __str__(self) -> str:
        where = "" if self.heads is None else f", in {len(self.heads)} key-value heads"
        more = " and others" if self.extra else ""
        return f"a cache of {self.window} tokens, the first {self.keep}{more} among them{where}"

    def first_block(self) -> int:
        """The first block with such a cache."""
        return 0 if self.heads is None else min(block for block, _ in self.heads)

    def hooks(self, context: Context) -> list[Any]:
        """Note down how each attention module was called."""
        subject = context.subject
        paths = [path for block in subject.anatomy.blocks for path in block.attention]
        return context.note_calls(map(subject.model.get_submodule, paths))

    def attention(self, context: Context, block: int, call: Call) -> Call:
        """The call with the keys that are still there, and the query rotated for kept ones."""
        length = call.query.shape[2]
        held = self._held(block, call)
        if length <= self.window or (held is not None and not held.any()):
            return call
        at = torch.arange(length, device=call.query.device)
        gone = (at + 1 - self.window).clamp_min(0)
        places = self._places(context, at)
        kept = torch.zeros(len(context.prompts), length, dtype=torch.bool, device=at.device)
        for place in places:
            kept |= at[None] == place[:, None]
        before = (~kept).long().cumsum(1) - (~kept).long()  # tokens that are not kept before each
        seen = (at[None, :] <= at[:, None])[None] & (
            kept[:, None, :] | (before[:, None, :] >= gone[None, :, None])
        )
        mask = seen[:, None]
        if held is not None:
            everything = (at[None, :] <= at[:, None])[None, None]
            mask = torch.where(held[None, :, None, None], mask, everything)
        given = boolean_mask(call.mask)
        call = dataclasses.replace(call, mask=mask if given is None else mask & given)
        groups = self._groups(places, before, at, gone)
        return self._rotated(context, call, groups, held) if groups else call

    def _places(self, context: Context, at: torch.Tensor) -> list[torch.Tensor]:
        """[B] position of each kept token, −1 where a prompt has none."""
        rows = len(context.prompts)
        first = [torch.full((rows,), place, device=at.device) for place in range(self.keep)]
        given = [self.extra[row] for row in context.rows] if self.extra else []
        count = max(map(len, given), default=0)
        named = [[*each, *(-1,) * (count - len(each))] for each in given]
        return [*first, *torch.tensor(named, device=at.device).reshape(rows, count).unbind(1)]

    def _groups(self, places, before, at, gone) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Keys [B, T] that share a query, and the positions [B, T] that it has for them."""
        groups = []
        first = (at < self.keep).expand(len(before), -1)
        if self.keep:
            groups.append((first, (at - gone).expand_as(before)))
        for place in places[self.keep :]:
            key = at[None] == place[:, None]
            rank = before.gather(1, place.clamp_min(0)[:, None])
            groups.append((key & ~first, at - (gone - rank).clamp_min(0)))
        return groups

    def _held(self, block: int, call: Call) -> torch.Tensor | None:
        """[H] query heads whose keys are in such a cache; None for all."""
        if self.heads is None:
            return None
        groups = call.query.shape[1] // call.key.shape[1]
        held = torch.zeros(call.key.shape[1], dtype=torch.bool, device=call.query.device)
        held[[head for at, head in self.heads if at == block]] = True
        return held.repeat_interleave(groups)

    def _rotated(self, context: Context, call: Call, groups, held: torch.Tensor | None) -> Call:
        queries, rest = [call.query], torch.ones_like(groups[0][0])
        keys = []
        nothing = torch.zeros((), dtype=call.key.dtype, device=call.key.device)
        for chosen, positions in groups:
            other = query_at(context, call, positions)
            if held is not None:
                other = torch.where(held[None, :, None, None], other, call.query)
            queries.append(other)
            keys.append(torch.where(chosen[:, None, :, None], call.key, nothing))
            rest = rest & ~chosen
        keys = [torch.where(rest[:, None, :, None], call.key, nothing), *keys]
        kwargs = call.kwargs | {"scaling": scale_of(call.kwargs, call.query)}
        query, key = torch.cat(queries, -1), torch.cat(keys, -1)
        return dataclasses.replace(call, query=query, key=key, kwargs=kwargs)


@dataclass(frozen=True)
class RoundCache(Edit):
    """Keys and values rounded to a few bits, as a quantised cache holds them.

    what     key, value or both
    group    what shares a scale in a head: token, channel (over the tokens of a prompt) or tensor
    exact    positions that are kept in full precision
    without  blocks whose cache is left alone
    """

    bits: int = 8
    what: str = "both"
    group: str = "token"
    exact: tuple[int, ...] = ()
    without: tuple[int, ...] = ()
    acts_on_attention = True

    def __str__(self) -> str:
        left = f", without {len(self.without)} blocks" if self.without else ""
        return f"{self.what} cache in {self.bits} bits by {self.group}{but(self.exact)}{left}"

    def attention(self, context: Context, block: int, call: Call) -> Call:
        """The call with keys and values rounded."""
        if block in self.without:
            return call
        changed: dict[str, Any] = {}
        for name in key_and_value(self.what):
            x = getattr(call, name)  # a head at a time: heads never share a scale
            heads = rounded(x.flatten(0, 1), self.bits, self.group, self.exact)
            changed[name] = heads.reshape(x.shape)
        return dataclasses.replace(call, **changed)


def but(exact: tuple[int, ...]) -> str:
    """Which positions are kept in full precision, in words."""
    return f", but position {', '.join(map(str, exact))}" if exact else ""


def query_at(context: Context, call: Call, positions: torch.Tensor) -> torch.Tensor:
    """The query of a call [B, H, T, D] with the rotary embedding of other positions [B, T].

    Raises Unsupported where positions do not come as rotary embeddings.
    """
    args, kwargs = context.calls.get(id(call.module), ((), {}))
    rotary = kwargs.get("position_embeddings")
    if not (isinstance(rotary, tuple) and all(isinstance(x, torch.Tensor) for x in rotary)):
        raise Unsupported(
            f"{context.subject.anatomy.model_type} has no rotary positions that could count within "
            "the cache."
        )
    rows = torch.arange(len(positions), device=positions.device)[:, None]
    embedded = tuple(x.expand(len(positions), -1, -1)[rows, positions] for x in rotary)
    moved = {**kwargs, "position_embeddings": embedded}
    assert context.capture is not None
    return context.capture(lambda: call.module.forward(*args, **moved))
