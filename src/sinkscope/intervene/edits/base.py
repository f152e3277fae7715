"""What every edit has in common, and what it may look at while it acts.

An edit is a frozen dataclass that says where, which position, and what. It is printed as one line,
written to JSON and read back, and a list of edits acts in one pass: an edit never knows of another.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from sinkscope.errors import InputError, Unsupported
from sinkscope.observe.layout import Layout
from sinkscope.subject.load import Subject

if TYPE_CHECKING:
    from sinkscope.observe.sites import Sites, Sublayer

HOWS = ("zero", "mean", "resample")


def _no_clean(block: int, kind: str) -> Any:
    raise InputError("this edit needs the intact values that an Engine keeps.")


@dataclass
class Context:
    """The pass an edit acts in.

    rows       index of each row among all prompts, so that draws do not depend on batches
    direction  [d] sink direction u, or None
    calls      arguments of modules in flight, by id, for edits that call one again
    clean      (block, "attention" | "mlp" | "shared") -> [B, inputs] of the output projection at P0
               in the intact model; (block, "experts") -> the arguments of the experts at P0
    capture    runs a function that calls an attention module, and gives the query it came up with
    """

    subject: Subject
    sites: Sites | None
    layout: Layout
    rows: list[int]
    direction: torch.Tensor | None = None
    calls: dict[int, tuple[tuple, dict]] = field(default_factory=dict)
    clean: Callable[[int, str], Any] = _no_clean
    capture: Callable[[Callable[[], Any]], torch.Tensor] | None = None

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

    def picks(self, position: int, seed: int) -> torch.Tensor:
        """[B] a random other position of each row."""
        others = self.others(position).cpu()
        chosen = []
        for row, mask in zip(self.rows, others):
            generator = torch.Generator().manual_seed(1_000_003 * (seed + 1) + row)
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


@dataclass
class Call:
    """One attention call on its way to the model: what an edit may change.

    query [B, H, T, D], key and value [B, G, T, D]; mask as the family built it, or None
    """

    module: torch.nn.Module
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    mask: torch.Tensor | None
    kwargs: dict[str, Any]


@dataclass(frozen=True)
class Edit:
    """Base of all edits: where it begins to act, and the four ways in which it may act."""

    acts_on_attention = False
    needs_clean = False  # reads `Context.clean`
    order = 1  # edits of inputs and of the stream are installed before those of sublayers

    def first_block(self) -> int:
        """The first block whose input or inside differs; earlier blocks need not be run."""
        return 0

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
        """Name and fields as plain JSON values."""
        return {"edit": type(self).__name__, **dataclasses.asdict(self)}


def described(block: int, kind: str, position: int) -> str:
    """Where a sublayer edit acts, in words."""
    return f"{kind} output of block {block} at position {position}"


def at_positions(x: torch.Tensor, context: Context) -> torch.Tensor | None:
    """A tensor as [B, T, ...] if it holds one row for each token, also where they are flattened."""
    batch, length = context.layout.valid.shape
    if x.shape[:2] == (batch, length):
        return x
    if x.shape[0] == batch * length:
        return x.reshape(batch, length, *x.shape[1:])
    return None
