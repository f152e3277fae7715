"""What every edit has in common, and what it may look at while it acts.

An edit is a frozen dataclass that says where, which position, and what. It is printed as one line,
written to JSON and read back, and a list of edits acts in one pass: an edit never knows of another.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from sinkscope.errors import InputError, Unsupported
from sinkscope.intervene.attend import Call
from sinkscope.intervene.one_token import projection_inputs
from sinkscope.observe.layout import Layout, layout_of
from sinkscope.observe.p0_stream import p0_states
from sinkscope.observe.sites import Sites, Sublayer
from sinkscope.observe.stream import first_hidden, hidden_of, put_hidden, with_hidden
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts

HOWS = ("zero", "mean", "resample")


@dataclass
class Context:
    """The rows of a pass, and what an edit may know of them.

    prompts    right-padded (no attention mask, no position ids of their own)
    sites      where blocks write; edits of writes need it
    rows       index of each row among all prompts, so that draws do not depend on batches
    direction  [d] sink direction u, or None
    calls      arguments of modules in flight, by id, for edits that call one again
    capture    runs a function that calls an attention module; gives the query [B, H, T, D]

    Raises InputError for left-padded or packed prompts.
    """

    subject: Subject
    prompts: Prompts
    sites: Sites | None = None
    rows: list[int] = field(default_factory=list)
    direction: torch.Tensor | None = None
    calls: dict[int, tuple[tuple, dict]] = field(default_factory=dict)
    capture: Callable[[Callable[[], Any]], torch.Tensor] | None = None

    def __post_init__(self) -> None:
        check_right_padded(self.prompts)
        self.rows = self.rows or list(range(len(self.prompts)))

    @cached_property
    def layout(self) -> Layout:
        """Where the tokens of each row are."""
        return layout_of(self.prompts, self.subject.device)

    @cached_property
    def clean(self) -> dict[tuple[int, str], Any]:
        """What output projections are given at P0 in the intact model (`projection_inputs`)."""
        if self.sites is None:
            raise InputError("this edit needs the write sites of the model (observe.sites).")
        return projection_inputs(self.subject, self.sites, self.prompts.input_ids[:, 0])

    @cached_property
    def p0_norms(self) -> torch.Tensor:
        """[B, point] norm of P0's stream in the intact model."""
        tokens, index = self.prompts.input_ids[:, 0].unique(return_inverse=True)
        return p0_states(self.subject, tokens)[index].norm(dim=-1)

    def note_calls(self, modules: Iterable[torch.nn.Module]) -> list[Any]:
        """Hooks that note down how each module is called, so that an edit can call it again."""

        def enter(module, args, kwargs):
            self.calls[id(module)] = (args, kwargs)

        return [each.register_forward_pre_hook(enter, with_kwargs=True) for each in modules]

    def block(self, index: int) -> torch.nn.Module:
        """A decoder block. Raises InputError where there is none of that index."""
        blocks = self.subject.anatomy.modules(self.subject.model)
        if not 0 <= index < len(blocks):
            raise InputError(f"there is no block {index}: the model has {len(blocks)}.")
        return blocks[index]

    def sublayer(self, block: int, kind: str) -> Sublayer:
        """The attention or mlp sublayer of a block. Raises where the block has none."""
        self.block(block)
        if self.sites is None:
            raise InputError("this edit needs the write sites of the model (observe.sites).")
        if kind not in ("attention", "mlp"):
            raise InputError(f"kind {kind!r} is not attention or mlp.")
        found = getattr(self.sites, kind)(block)
        if found is None:
            raise Unsupported(f"block {block} has no {kind} sublayer of its own to edit.")
        return found

    def check(self, position: int) -> None:
        """Raise InputError unless every row has that position."""
        shortest = int(self.layout.valid.sum(1).min())
        if not 0 <= position < shortest:
            raise InputError(f"position {position} lies outside a prompt of {shortest} tokens.")

    def others(self, position: int) -> torch.Tensor:
        """[B, T] valid positions that are neither P0 nor `position`."""
        others = self.layout.valid.clone()
        others[:, 0] = False
        others[:, position] = False
        return others

    def generators(self, seed: int) -> list[torch.Generator]:
        """One for each row, the same in whatever batch it is."""
        return [torch.Generator().manual_seed(1_000_003 * (seed + 1) + row) for row in self.rows]

    def picks(self, position: int, seed: int) -> torch.Tensor:
        """[B] a random other position of each row."""
        others = self.others(position).cpu()
        chosen = []
        for generator, mask in zip(self.generators(seed), others):
            candidates = mask.nonzero().flatten()
            chosen.append(candidates[torch.randint(len(candidates), (), generator=generator)])
        return torch.stack(chosen)

    def replacement(self, values: torch.Tensor, position: int, how: str, seed: int) -> torch.Tensor:
        """What stands at `position` instead: [B, ...] from values [B, T, ...].

        how  zero; mean (of the other positions of the prompt); resample (one of them, at random)
        """
        if how == "zero":
            return torch.zeros_like(values[:, position])
        if how == "mean":
            weight = self.others(position).to(values.device)
            weight = weight.reshape(*weight.shape, *(1,) * (values.dim() - 2))
            total = (values.float() * weight).sum(1) / weight.sum(1).clamp_min(1)
            return total.to(values.dtype)
        if how == "resample":
            picks = self.picks(position, seed).to(values.device)
            return values[torch.arange(len(picks), device=values.device), picks]
        raise InputError(f"{how!r} is not one of {', '.join(HOWS)}.")


@dataclass(frozen=True)
class Edit:
    """Base of all edits: where it begins to act, and the four ways in which it may act."""

    acts_on_attention = False
    order = 1  # edits of inputs and of the stream are installed before those of sublayers

    def first_block(self) -> int:
        """The first block whose input or inside differs; earlier blocks need not be run.

        A field `block`, `blocks` or `point` says it; without one it is block 0.
        """
        own = vars(self)
        first = own.get("block", own.get("point", 0))
        return min(own.get("blocks") or (first,))

    def prepare(self, context: Context) -> None:
        """Read what is needed of the intact model: called before any edit is in place."""

    def hooks(self, context: Context) -> list[Any]:
        """Hook handles that carry the edit out."""
        return []

    def attention(self, context: Context, block: int, call: Call) -> Call:
        """The attention call of a block as it should be."""
        return call

    def inputs(self, context: Context, inputs: dict[str, Any]) -> dict[str, Any]:
        """The keyword arguments of the forward call as they should be."""
        return inputs

    def weights(self, context: Context) -> AbstractContextManager:
        """Changes weights for the time being."""
        return nullcontext()

    def to_json(self) -> dict[str, Any]:
        """Name and fields as plain JSON values, without those that are not printed.

        What was recorded in another pass does not travel: that pass gives it again.
        """
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.repr}
        return {"edit": type(self).__name__, **own}


def described(block: int, kind: str, position: int) -> str:
    """Where a sublayer edit acts, in words."""
    return f"{'MLP' if kind == 'mlp' else kind} output of block {block} at position {position}"


def check_right_padded(prompts: Prompts) -> None:
    """Raise InputError for rows whose position zero is not key zero."""
    if not prompts.right_padded:
        raise InputError("edits need right-padded prompts, not left-padded or packed ones.")


def stream_hooks(
    context: Context, points: Iterable[int], change: Callable[[int, torch.Tensor], torch.Tensor]
) -> list[Any]:
    """Hooks that put change(point, hidden [B, T, d]) in place of the stream at read points."""
    depth = len(context.subject.anatomy.blocks)

    def enter(point: int) -> Callable:
        def hook(module, args, kwargs):
            return put_hidden(args, kwargs, change(point, first_hidden(args, kwargs)))

        return hook

    def leave(module, args, output):
        return with_hidden(output, change(depth, hidden_of(output)))

    chosen = set(points)
    blocks = {point: context.block(point) for point in sorted(chosen - {depth})}
    handles = [  # once all are known to be there, so that none is left behind by an error
        block.register_forward_pre_hook(enter(point), with_kwargs=True)
        for point, block in blocks.items()
    ]
    if depth in chosen:
        handles.append(context.block(depth - 1).register_forward_hook(leave))
    return handles


def at_positions(x: torch.Tensor, context: Context) -> torch.Tensor | None:
    """A tensor as [B, T, ...] if it holds one row for each token, also where they are flattened."""
    batch, length = context.layout.valid.shape
    if x.shape[:2] == (batch, length):
        return x
    if x.shape[0] == batch * length:
        return x.reshape(batch, length, *x.shape[1:])
    return None
