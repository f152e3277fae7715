"""Hold a stage at its intact value while an earlier one is edited: the clamps of mediation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from sinkscope.errors import InputError
from sinkscope.intervene.edits.base import Call, Context, Edit
from sinkscope.observe.stream import first_hidden, hidden_of, put_hidden, with_hidden

if TYPE_CHECKING:
    from sinkscope.intervene.engine import Engine


@dataclass
class Intact:
    """What the unedited model had at some positions, by prompt.

    streams  (point, position, prompt) -> [d]
    keys     (block, position, prompt) -> [G, D], rotation included
    """

    streams: dict[tuple[int, int, int], torch.Tensor] = field(default_factory=dict)
    keys: dict[tuple[int, int, int], torch.Tensor] = field(default_factory=dict)


def record(engine: Engine, positions: Sequence[int]) -> Intact:
    """Read streams and keys of some positions in one unedited pass."""
    intact = Intact()
    engine.run([_Record(tuple(positions), intact)], want_logits=False)
    return intact


@dataclass(frozen=True)
class _Record(Edit):
    """Changes nothing and writes down what it sees."""

    positions: tuple[int, ...]
    intact: Intact = field(compare=False)
    acts_on_attention = True

    def hooks(self, context: Context) -> list[Any]:
        def keep(point: int, hidden: torch.Tensor) -> None:
            for position in self.positions:
                for row, value in zip(context.rows, hidden[:, position]):
                    self.intact.streams[point, position, row] = value.detach().clone()

        def enter(block: int):
            return lambda module, args, kwargs: keep(block, first_hidden(args, kwargs))

        handles = [
            context.block(block).register_forward_pre_hook(enter(block), with_kwargs=True)
            for block in range(len(context.subject.anatomy.blocks))
        ]
        last = len(handles)
        handles.append(
            context.block(last - 1).register_forward_hook(
                lambda module, args, output: keep(last, hidden_of(output))
            )
        )
        return handles

    def attention(self, context: Context, block: int, call: Call) -> Call:
        for position in self.positions:
            for row, value in zip(context.rows, call.key[:, :, position]):
                self.intact.keys[block, position, row] = value.detach().clone()
        return call


@dataclass(frozen=True)
class _Hold(Edit):
    position: int = 0
    intact: Intact | None = field(default=None, compare=False, repr=False)

    def to_json(self) -> dict[str, Any]:
        """The fields, without what was recorded: `record` gives it again."""
        own = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "intact"}
        return {"edit": type(self).__name__, **own}

    def _values(self, kind: str, at: int, context: Context) -> torch.Tensor:
        if self.intact is None:
            raise InputError("a held value is needed: pass intact=record(engine, positions).")
        store = getattr(self.intact, kind)
        return torch.stack([store[at, self.position, row] for row in context.rows])


@dataclass(frozen=True)
class HoldDirection(_Hold):
    """Path patching: freeze the component along the sink direction at its intact value.

    x' = x + (⟨x_intact, u⟩ − ⟨x, u⟩)·u for the position, at the input of every block of `points`.
    """

    points: tuple[int, ...] = ()

    def __str__(self) -> str:
        points = f"{self.points[0]} to {self.points[-1]}" if self.points else "none"
        return f"sink direction of position {self.position} held at points {points}"

    def first_block(self) -> int:
        """The first block whose input is held."""
        return min(self.points, default=0)

    def hooks(self, context: Context) -> list[Any]:
        """Move the row of each block's input along the direction."""
        context.check(self.position)
        if context.direction is None:
            raise InputError("there is no sink direction to hold.")

        def enter(point: int):
            def hook(module, args, kwargs):
                hidden = first_hidden(args, kwargs)
                held = self._held(hidden, self._values("streams", point, context), context)
                return put_hidden(args, kwargs, held)

            return hook

        depth = len(context.subject.anatomy.blocks)
        handles = [
            context.block(point).register_forward_pre_hook(enter(point), with_kwargs=True)
            for point in self.points
            if point < depth
        ]
        if depth in self.points:

            def leave(module, args, output):
                hidden = hidden_of(output)
                values = self._values("streams", depth, context)
                return with_hidden(output, self._held(hidden, values, context))

            handles.append(context.block(depth - 1).register_forward_hook(leave))
        return handles

    def _held(self, hidden: torch.Tensor, intact: torch.Tensor, context: Context) -> torch.Tensor:
        assert context.direction is not None
        u = context.direction.to(hidden.device, torch.float32)
        row = hidden[:, self.position].float()
        missing = intact.to(row.device).float() @ u - row @ u
        held = hidden.clone()
        held[:, self.position] = (row + missing.unsqueeze(-1) * u).to(hidden.dtype)
        return held


@dataclass(frozen=True)
class HoldKeys(_Hold):
    """Keep the keys of a position at their intact value, in every block of `blocks`."""

    blocks: tuple[int, ...] = ()
    acts_on_attention = True

    def __str__(self) -> str:
        return f"keys of position {self.position} held in {len(self.blocks)} blocks"

    def first_block(self) -> int:
        """The first of the blocks."""
        return min(self.blocks, default=0)

    def attention(self, context: Context, block: int, call: Call) -> Call:
        """Put the intact key in the position's place."""
        if block not in self.blocks:
            return call
        context.check(self.position)
        key = call.key.clone()
        key[:, :, self.position] = self._values("keys", block, context).to(key)
        return Call(call.module, call.query, key, call.value, call.mask, call.kwargs)
