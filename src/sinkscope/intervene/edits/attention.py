"""Edits of who sees whom, and of keys and values. They need transformers' attention registry."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch

from sinkscope.detect.qk import biases_off
from sinkscope.errors import InputError
from sinkscope.intervene.attend import Call
from sinkscope.intervene.edits.base import Context, Edit


@dataclass(frozen=True)
class SelfOnly(Edit):
    """Mask edit: `position` attends to one key only, itself or `to` (a control of equal width).

    blocks  those in which it does; None for all of them
    """

    position: int
    blocks: tuple[int, ...] | None = None
    to: int | None = None
    acts_on_attention = True

    def __str__(self) -> str:
        key = "itself" if self.to is None else f"key {self.to}"
        return f"position {self.position} attends only to {key} in {_where(self.blocks)}"

    def attention(self, context: Context, block: int, call: Call) -> Call:
        """Leave one key in the position's row of the mask."""
        if self.blocks is not None and block not in self.blocks:
            return call
        context.check(self.position)
        key = self.position if self.to is None else self.to
        if not 0 <= key <= self.position:
            raise InputError(f"position {self.position} cannot see key {key} in a causal model.")
        mask, hidden, seen = _mask(call)
        mask[..., self.position, :] = hidden
        mask[..., self.position, key] = seen
        return dataclasses.replace(call, mask=mask)


@dataclass(frozen=True)
class Transplant(Edit):
    """Activation patching of key, value or both: `target` gets those of `source` in `blocks`.

    A key is taken as queries see it, rotation included, so a query scores both alike.
    """

    target: int
    source: int = 0
    what: str = "both"
    blocks: tuple[int, ...] | None = None
    acts_on_attention = True

    def __str__(self) -> str:
        what = "key and value" if self.what == "both" else self.what
        return f"{what} of position {self.source} put at {self.target} in {_where(self.blocks)}"

    def attention(self, context: Context, block: int, call: Call) -> Call:
        """Copy the rows of key and value."""
        if self.blocks is not None and block not in self.blocks:
            return call
        context.check(max(self.source, self.target))
        changed = {}
        for name in key_and_value(self.what):
            rows = getattr(call, name).clone()
            rows[:, :, self.target] = rows[:, :, self.source]
            changed[name] = rows
        return dataclasses.replace(call, **changed)


@dataclass(frozen=True)
class QueryBias(Edit):
    """Scale the bias of the query projections of every block (0: without it).

    The query without bias comes from calling the attention module again with its biases at zero;
    keys and values stay as they are.
    """

    factor: float = 0.0
    blocks: tuple[int, ...] | None = None
    acts_on_attention = True

    def __str__(self) -> str:
        return f"query biases times {self.factor:g} in {_where(self.blocks)}"

    def hooks(self, context: Context) -> list[Any]:
        """Note down how each attention module was called."""
        chosen = range(len(context.subject.anatomy.blocks)) if self.blocks is None else self.blocks
        return context.note_calls(m for block in chosen for m in context.block(block).modules())

    def attention(self, context: Context, block: int, call: Call) -> Call:
        """Move the query toward the one computed without bias."""
        if self.blocks is not None and block not in self.blocks:
            return call
        with biases_off(call.module) as found:
            if not found:
                return call
            assert context.capture is not None
            args, kwargs = context.calls[id(call.module)]
            without = context.capture(lambda: call.module.forward(*args, **kwargs))
        return dataclasses.replace(call, query=without + self.factor * (call.query - without))


@dataclass(frozen=True)
class FreezeAttention(Edit):
    """Attention maps are constants: no gradient passes through queries and keys."""

    acts_on_attention = True

    def __str__(self) -> str:
        return "attention maps held constant in gradients"

    def attention(self, context: Context, block: int, call: Call) -> Call:
        """Cut queries and keys off the graph."""
        return dataclasses.replace(call, query=call.query.detach(), key=call.key.detach())


def key_and_value(what: str) -> tuple[str, ...]:
    """Names of the tensors of a call: those of key, value or both. InputError for another word."""
    if what not in ("key", "value", "both"):
        raise InputError(f"{what!r} is not key, value or both.")
    return ("key", "value") if what == "both" else (what,)


def _where(blocks: tuple[int, ...] | None) -> str:
    if blocks is None:
        return "all blocks"
    if len(blocks) > 2 and list(blocks) == list(range(blocks[0], blocks[-1] + 1)):
        return f"blocks {blocks[0]} to {blocks[-1]}"
    return ("block " if len(blocks) == 1 else "blocks ") + ", ".join(map(str, blocks))


def _mask(call: Call) -> tuple[torch.Tensor, Any, Any]:
    """A copy of the call's mask that may be written to, and its values for hidden and seen."""
    length = call.query.shape[2]
    if call.mask is None:
        mask = torch.ones(1, 1, length, length, dtype=torch.bool, device=call.query.device).tril()
        return mask, False, True
    mask = call.mask.clone()
    if mask.dtype == torch.bool:
        return mask, False, True
    return mask, torch.finfo(mask.dtype).min, 0.0
