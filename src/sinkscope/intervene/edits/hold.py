"""Hold a stage at its intact value while an earlier one is edited: the clamps of mediation."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from sinkscope.errors import InputError
from sinkscope.intervene.attend import Call
from sinkscope.intervene.edits.base import Context, Edit, stream_hooks
from sinkscope.observe.residual import residual_hooks

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
    engine.run([Record(tuple(positions), intact)], want_logits=False)
    return intact


@dataclass(frozen=True)
class Record(Edit):
    """Changes nothing and writes down what it sees."""

    positions: tuple[int, ...]
    intact: Intact = field(compare=False)
    acts_on_attention = True

    def hooks(self, context: Context) -> list[Any]:
        """Note the streams down."""

        def keep(point: int, hidden: torch.Tensor) -> None:
            for position in self.positions:
                for row, value in zip(context.rows, hidden[:, position]):
                    self.intact.streams[point, position, row] = value.detach().clone()

        return residual_hooks(context.subject, keep)()

    def attention(self, context: Context, block: int, call: Call) -> Call:
        """Note the keys down."""
        for position in self.positions:
            for row, value in zip(context.rows, call.key[:, :, position]):
                self.intact.keys[block, position, row] = value.detach().clone()
        return call


@dataclass(frozen=True)
class _Hold(Edit):
    position: int = 0
    intact: Intact | None = field(default=None, compare=False, repr=False)

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

        def held(point: int, hidden: torch.Tensor) -> torch.Tensor:
            return self._held(hidden, self._values("streams", point, context), context)

        return stream_hooks(context, self.points, held)

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

    def attention(self, context: Context, block: int, call: Call) -> Call:
        """Put the intact key in the position's place."""
        if block not in self.blocks:
            return call
        context.check(self.position)
        key = call.key.clone()
        key[:, :, self.position] = self._values("keys", block, context).to(key)
        return dataclasses.replace(call, key=key)


@dataclass(frozen=True)
class KeepNorm(Edit):
    """P0's stream keeps its intact norm from read point `point` on, its direction left as it is."""

    point: int
    order = 2  # behind every other edit of the stream

    def __str__(self) -> str:
        return f"the norm of position 0 kept from read point {self.point} on"

    def prepare(self, context: Context) -> None:
        """Read the intact norms."""
        _ = context.p0_norms

    def hooks(self, context: Context) -> list[Any]:
        """Scale P0's row of the stream."""

        def scaled(point: int, hidden: torch.Tensor) -> torch.Tensor:
            wanted = context.p0_norms[:, point].to(hidden.device)
            row = hidden[:, 0].float()
            own = row.norm(dim=-1).clamp_min(1e-30)
            new = hidden.clone()
            new[:, 0] = (row * (wanted / own).unsqueeze(-1)).to(hidden.dtype)
            return new

        depth = len(context.subject.anatomy.blocks)
        return stream_hooks(context, range(self.point, depth + 1), scaled)
