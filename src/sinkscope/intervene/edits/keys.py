"""Edits of what later queries read at one key: its attention, or the value they find there.

With a the attention of query t on the key, v the key's value and r_t the output of the softmax over
all other keys by itself, an intact output is a·v + (1 − a)·r_t, and

    RemoveAttention, dose λ   (1 − λ)a·v + (1 − (1 − λ)a)·r_t    the others share what is taken
    RemoveValue, dose λ       (1 − λ)a·v + (1 − a)·r_t
    ClampAttention to m       m·v + (1 − m)·r_t

exactly, with no attention map (`intervene.attend`). RemoveAttention at dose 1 is attention
knockout with renormalisation. The key's own query is left alone, so its stream does not change, and
nor do those of earlier queries. Edits of one key compose in the order in which they are given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

import torch

from sinkscope.errors import InputError
from sinkscope.intervene.attend import Call, intact, take_apart
from sinkscope.intervene.edits.base import Context, Edit
from sinkscope.observe.tap import why_not_lean


@dataclass(frozen=True)
class KeyEdit(Edit):
    """Base of the edits of one key.

    position  of the key: one for all prompts, or one for each of them (in their order)
    """

    position: int | tuple[int, ...] = 0
    acts_on_attention = True
    changes = True  # False for an edit that only looks

    def blocks(self) -> set[int] | None:
        """The blocks in which it acts; None for all of them."""
        return None

    def first_block(self) -> int:
        """The first of the blocks."""
        return min(self.blocks() or {0})

    def mass(self, context: Context, block: int, mass: torch.Tensor) -> torch.Tensor:
        """Attention [B, H, T] on the key as it should be, from what it is."""
        return mass

    def factor(self, block: int, mass: torch.Tensor) -> torch.Tensor | float:
        """What the key's value is multiplied by: [H, 1] or a number."""
        return 1.0


@dataclass(frozen=True)
class Remove(KeyEdit):
    """Base of the edits that take something away, by dose and in some heads."""

    dose: float = 1.0
    heads: tuple[tuple[int, int], ...] | None = None
    what = ""

    def __post_init__(self) -> None:
        if not 0.0 <= self.dose <= 1.0:
            raise InputError(f"a dose lies between 0 and 1, not at {self.dose:g}.")

    def __str__(self) -> str:
        share = "" if self.dose == 1 else f"{self.dose:.0%} of "
        where = "" if self.heads is None else f", in {len(self.heads)} heads"
        return f"{share}{self.what.format(_named(self.position))}{where}"

    def blocks(self) -> set[int] | None:
        """The blocks of the heads."""
        return None if self.heads is None else {block for block, _ in self.heads}

    def _left(self, block: int, mass: torch.Tensor) -> torch.Tensor | float:
        """1 − dose, [H, 1] where only some heads are edited."""
        if self.heads is None:
            return 1.0 - self.dose
        left = mass.new_ones(mass.shape[1], 1)
        for at, head in self.heads:
            if not 0 <= head < len(left):
                raise InputError(f"there is no head {head} in block {at}.")
            if at == block:
                left[head] = 1.0 - self.dose
        return left


@dataclass(frozen=True)
class RemoveAttention(Remove):
    """Take attention off a key; the softmax over the other keys shares it out.

    dose   how much of it, 0..1
    heads  (block, head) in which it is taken; None for all
    """

    what = "the attention on {} removed and renormalised"

    def mass(self, context: Context, block: int, mass: torch.Tensor) -> torch.Tensor:
        """(1 − dose)·mass, [B, H, T]."""
        return self._left(block, mass) * mass


@dataclass(frozen=True)
class RemoveValue(Remove):
    """Take away what is read at a key, and leave the attention on it where it is.

    dose   how much of it, 0..1
    heads  (block, head) in which it is taken; None for all
    """

    what = "the value of {} removed where later queries read it"

    def factor(self, block: int, mass: torch.Tensor) -> torch.Tensor | float:
        """1 − dose: [H, 1] where only some heads are edited, else a number."""
        return self._left(block, mass)


@dataclass(frozen=True)
class _Masses(KeyEdit):
    """masses: (block, prompt) -> [k, H, T] for the k rows that a pass has of the prompt."""

    masses: dict[tuple[int, int], torch.Tensor] | None = field(
        default=None, compare=False, repr=False
    )

    def _store(self) -> dict[tuple[int, int], torch.Tensor]:
        if self.masses is None:
            raise InputError("this edit needs masses={}, the same for both passes.")
        return self.masses


@dataclass(frozen=True)
class RecordAttention(_Masses):
    """Changes nothing and writes down the attention on a key in every block, into `masses`."""

    changes = False

    def __str__(self) -> str:
        return f"the attention on {_named(self.position)} written down"

    def mass(self, context: Context, block: int, mass: torch.Tensor) -> torch.Tensor:
        """The attention [B, H, T] as it is, written down."""
        for prompt, rows in _rows_of(context):
            self._store()[block, prompt] = mass[rows].detach().cpu()
        return mass


@dataclass(frozen=True)
class ClampAttention(_Masses):
    """Hold the attention on a key, in every head, at what `RecordAttention` wrote into `masses`."""

    def __str__(self) -> str:
        return f"the attention on {_named(self.position)} held at what it is in another pass"

    def mass(self, context: Context, block: int, mass: torch.Tensor) -> torch.Tensor:
        """The attention [B, H, T] that was written down. Raises InputError where none fits."""
        found = [self._store().get((block, prompt)) for prompt, _ in _rows_of(context)]
        if any(one is None for one in found):
            raise InputError(f"the attention on {_named(self.position)} was not written down.")
        held = torch.cat(found).to(mass.device)  # type: ignore[arg-type]
        if held.shape != mass.shape:
            raise InputError("what was written down is of prompts of another shape.")
        return held


@dataclass
class KeyRead:
    """A call as key edits left it: output [B, T, H, D], mass and what is left of it [B, H, T].

    seen  [B, 1, T] which queries see the key
    """

    output: torch.Tensor
    mass: torch.Tensor
    left: torch.Tensor
    seen: torch.Tensor


class KeyEdits:
    """The key edits of one pass, carried out together.

    keys  [B] the key that they act on; P0 where there are none

    Raises InputError where they act on different keys, or a prompt has no such position.
    """

    def __init__(self, context: Context, edits: Sequence[Edit]) -> None:
        self.context = context
        self.edits = [edit for edit in edits if isinstance(edit, KeyEdit)]
        positions = {edit.position for edit in self.edits} or {0}
        if len(positions) > 1:
            raise InputError("edits of what is read at a key must act on one key in one pass.")
        self.keys = _keys(positions.pop(), context)

    def acting(self, block: int) -> list[KeyEdit]:
        """Those that act in a block."""
        blocks = [edit.blocks() for edit in self.edits]
        return [e for e, where in zip(self.edits, blocks) if where is None or block in where]

    def attend(self, block: int, call: Call, own: bool) -> KeyRead:
        """The call as it should be. own: through the family's own attention, as lean cannot."""
        keys = self.keys.to(call.query.device)
        own = own or bool(why_not_lean(call.kwargs, call.query, call.mask))
        acting = self.acting(block)
        if not any(edit.changes for edit in acting):
            out, mass, seen = intact(call, keys, own)
            for edit in acting:
                edit.mass(self.context, block, mass)
            return KeyRead(out, mass, mass, seen)
        parts = take_apart(call, keys, own)
        mass = left = parts.mass
        queries = torch.arange(mass.shape[-1], device=mass.device)
        alone = (keys.unsqueeze(1) == queries).unsqueeze(1)
        factor: torch.Tensor | float = 1.0
        for edit in acting:
            left = torch.where(alone, left, edit.mass(self.context, block, left))
            factor = factor * edit.factor(block, mass)
        on_key = torch.where(alone, mass, factor * left)
        return KeyRead(parts.combine(on_key, 1.0 - left), mass, left, parts.seen)


def _keys(position: int | tuple[int, ...], context: Context) -> torch.Tensor:
    """[B] the key of each row."""
    if isinstance(position, tuple):
        if max(context.rows) >= len(position):
            raise InputError(f"{len(position)} keys were given for more prompts.")
        keys = torch.tensor([position[row] for row in context.rows])
    else:
        keys = torch.full((len(context.rows),), position)
    lengths = context.layout.valid.sum(1).cpu()
    if bool(((keys < 0) | (keys >= lengths)).any()):
        raise InputError(f"a key lies outside a prompt of {int(lengths.min())} tokens.")
    return keys.to(context.layout.valid.device)


def _rows_of(context: Context) -> list[tuple[int, slice]]:
    """Prompts of a pass, each with its rows, which stand together."""
    found, start = [], 0
    for prompt, rows in groupby(context.rows):
        stop = start + len(list(rows))
        found.append((prompt, slice(start, stop)))
        start = stop
    return found


def _named(position: int | tuple[int, ...]) -> str:
    return f"position {position}" if isinstance(position, int) else "a position of each prompt"
