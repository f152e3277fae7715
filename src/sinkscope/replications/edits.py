"""Edits of whole modules and of entries of the stream, as published experiments make them.

Each acts in every row and is undone exactly: hooks are removed.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sinkscope.errors import InputError, Unsupported
from sinkscope.intervene.attend import Call
from sinkscope.intervene.edits.base import Context, Edit, at_positions, stream_hooks
from sinkscope.observe.registry import attention_functions
from sinkscope.observe.stream import first_hidden, hidden_of, with_hidden
from sinkscope.subject.load import Subject


@dataclass(frozen=True)
class WithoutSublayers(Edit):
    """The sublayers of one kind add nothing, in all blocks and at all positions."""

    kind: str = "mlp"

    def __str__(self) -> str:
        return f"no {self.kind} output in any block"

    def hooks(self, context: Context) -> list[Any]:
        """Zero what the sublayers write."""
        modules = []  # all of them first: a refusal must leave no hook behind
        for block in range(len(context.subject.anatomy.blocks)):
            if context.sites is not None and getattr(context.sites, self.kind)(block) is None:
                continue  # nothing is written there
            sublayer = context.sublayer(block, self.kind)
            if sublayer.inside:
                raise Unsupported(
                    f"{context.subject.anatomy.model_type} adds the stream inside its {self.kind}, "
                    "so it cannot be left out as a module."
                )
            modules.append(context.block(block).get_submodule(sublayer.write))
        return [module.register_forward_hook(leave_out) for module in modules]


def leave_out(module, args, output):
    """A hook: the module writes nothing."""
    return with_hidden(output, torch.zeros_like(hidden_of(output)))


@dataclass(frozen=True)
class NeuronsOff(Edit):
    """Some MLP neurons of a block are zero at every position, or at every one but the first."""

    block: int
    neurons: tuple[int, ...]
    but_first: bool = False

    def __str__(self) -> str:
        which = ", ".join(map(str, self.neurons))
        but = " but the first" if self.but_first else ""
        return f"neurons {which} of block {self.block} zero at every position{but}"

    def hooks(self, context: Context) -> list[Any]:
        """Zero their part of the output projection's input."""
        sublayer = context.sublayer(self.block, "mlp")
        if sublayer.projection is None or sublayer.experts is not None:
            raise Unsupported(
                sublayer.reason or f"block {self.block} holds its neurons in experts."
            )

        def enter(module, args):
            value = args[0].clone()
            rows = at_positions(value, context)  # a view of it
            if rows is None:
                raise Unsupported(f"the MLP of block {self.block} does not see one row a token.")
            rows[:, int(self.but_first) :, list(self.neurons)] = 0.0
            return (value, *args[1:])

        owner = sublayer.projection.owner(context.block(self.block))
        return [owner.register_forward_pre_hook(enter)]


@dataclass(frozen=True)
class KeyColumns(Edit):
    """Input channels that key projections do not see: columns of W_k at zero, in every block.

    channels  the same in every block; or `count` random ones, drawn by `seed` for each block

    Keys come from calling the attention module again with those channels of its input at zero;
    queries and values stay as they are. A key bias stays too.
    """

    channels: tuple[int, ...] = ()
    count: int = 0
    seed: int = 0
    acts_on_attention = True

    def __str__(self) -> str:
        if self.count:
            return f"{self.count} random columns of every W_k zero"
        return f"columns {', '.join(map(str, self.channels))} of every W_k zero"

    def hooks(self, context: Context) -> list[Any]:
        """Remember how each attention module was called."""

        def enter(module, args, kwargs):
            context.calls[id(module)] = (args, kwargs)

        return [
            child.register_forward_pre_hook(enter, with_kwargs=True)
            for block in range(len(context.subject.anatomy.blocks))
            for child in context.block(block).modules()
        ]

    def attention(self, context: Context, block: int, call: Call) -> Call:
        """Take the key from a call without the channels."""
        args, kwargs = context.calls[id(call.module)]
        hidden = first_hidden(args, kwargs)
        cut = hidden.clone()
        cut[..., list(self._chosen(block, hidden.shape[-1]))] = 0.0
        args = tuple(cut if value is hidden else value for value in args)
        kwargs = {name: cut if value is hidden else value for name, value in kwargs.items()}
        key = key_of(context.subject, call.module, args, kwargs)
        return dataclasses.replace(call, key=key)

    def _chosen(self, block: int, width: int) -> tuple[int, ...]:
        if not self.count:
            return self.channels
        generator = torch.Generator().manual_seed(1000 * self.seed + block)
        return tuple(torch.randperm(width, generator=generator)[: self.count].tolist())


def key_of(subject: Subject, module: nn.Module, args: tuple, kwargs: dict) -> torch.Tensor:
    """The key [B, G, T, D] that an attention module comes up with when it is called so."""
    found: list[torch.Tensor] = []

    def grab(module, query, key, value, attention_mask, **rest):
        found.append(key)
        batch, heads, length = query.shape[:3]
        return value.new_zeros(batch, length, heads, value.shape[-1]), None

    with attention_functions(subject.model, grab, "sdpa"):
        module.forward(*args, **kwargs)
    return found[0]


@dataclass(frozen=True)
class SetEntries(Edit):
    """Set single entries of the stream before block `point`: channels at one position.

    values  one for each channel
    above   only where the entry is larger than this in magnitude, at any position
    """

    point: int
    channels: tuple[int, ...]
    values: tuple[float, ...]
    position: int | None = 0
    above: float = 0.0
    order = 0

    def __str__(self) -> str:
        where = "every position" if self.position is None else f"position {self.position}"
        what = "zero" if not any(self.values) else "set"
        entries = f"{len(self.channels)} entries" + (f" over {self.above:g}" if self.above else "")
        return f"{entries} of the stream before block {self.point} {what} at {where}"

    def hooks(self, context: Context) -> list[Any]:
        """Change the entries of the block's input."""
        if len(self.channels) != len(self.values):
            raise InputError("as many values as channels are needed.")

        def change(_: int, hidden: torch.Tensor) -> torch.Tensor:
            edited = hidden.clone()
            at = slice(None) if self.position is None else slice(self.position, self.position + 1)
            for channel, value in zip(self.channels, self.values):
                entries = edited[:, at, channel]
                edited[:, at, channel] = torch.where(entries.abs() > self.above, value, entries)
            return edited

        return stream_hooks(context, [self.point], change)
