"""Keep only some units of what a sublayer writes at position zero, or all but them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from sinkscope.errors import InputError, Unsupported
from sinkscope.intervene.edits.base import Context, Edit, at_positions
from sinkscope.intervene.edits.units import (
    expert_neurons_off,
    input_rows,
    not_within,
    with_row,
)
from sinkscope.observe.stream import hidden_of


@dataclass(frozen=True)
class KeepUnits(Edit):
    """Faithfulness: of a sublayer's output at P0 keep the units' part, mean-ablate the rest.

    What is kept is held at its intact value, whatever else is edited; what is ablated becomes the
    mean of the other positions of the same prompt. Units are heads (attention) or neurons (mlp; of
    every expert where there are some).

    shared      neurons of the expert that serves every token
    complement  completeness: the units are mean-ablated and the rest is held
    """

    block: int
    kind: str
    units: tuple[int, ...] = ()
    shared: tuple[int, ...] = ()
    complement: bool = False

    def __str__(self) -> str:
        unit = "heads" if self.kind == "attention" else "neurons"
        count = len(self.units) + len(self.shared)
        verb = "mean-ablate" if self.complement else "keep only"
        return (
            f"{verb} {count} {unit} of the {self.kind} output of block {self.block} at position 0"
        )

    def prepare(self, context: Context) -> None:
        """Read what is held."""
        _ = context.clean

    def hooks(self, context: Context) -> list[Any]:
        """Replace P0's row before the output projection, or behind the experts."""
        sublayer = context.sublayer(self.block, self.kind)
        block = context.block(self.block)
        if sublayer.projection is None:
            raise Unsupported(sublayer.reason or f"units of block {self.block} are out of reach.")
        handles = []
        if sublayer.experts is not None:
            experts = block.get_submodule(sublayer.experts)
            handles.append(experts.register_forward_hook(self._experts(context), with_kwargs=True))
        else:
            enter = self._rows(context, self.units, self.kind, sublayer.heads)
            handles.append(sublayer.projection.owner(block).register_forward_pre_hook(enter))
        if sublayer.shared is not None:
            enter = self._rows(context, self.shared, "shared", None)
            handles.append(sublayer.shared.owner(block).register_forward_pre_hook(enter))
        return handles

    def _rows(self, context: Context, units: tuple[int, ...], kind: str, heads: int | None):
        def enter(_, args):
            rows = input_rows(args[0], context, self.block).clone()
            mean = context.replacement(rows, 0, "mean", 0)
            clean = context.clean[self.block, kind].to(rows.device)
            held = self._held(rows.shape[-1], units, heads, rows.device)
            rows[:, 0] = torch.where(held, clean, mean)
            return (rows.reshape(args[0].shape), *args[1:])

        return enter

    def _held(self, width: int, units: tuple[int, ...], heads: int | None, device) -> torch.Tensor:
        count = heads or width
        if not all(0 <= unit < count for unit in units):
            raise InputError(f"block {self.block} has units 0 to {count - 1}.")
        chosen = torch.zeros(count, dtype=torch.bool, device=device)
        chosen[list(units)] = True
        return chosen.repeat_interleave(width // count) ^ self.complement

    def _experts(self, context: Context):
        def leave(module, args, kwargs, output):
            new = self._expert_row(module, args, kwargs, output, context)
            return with_row(output, new, context, 0)

        return not_within(leave)

    def _expert_row(self, module, args, kwargs, output, context: Context) -> torch.Tensor:
        """P0's row: units' part intact and the rest the others' mean, or the other way round."""
        clean_args, clean_kwargs = context.clean[self.block, "experts"]

        def run(a: tuple, k: dict) -> torch.Tensor:
            return hidden_of(module.forward(*a, **k))

        whole = run(clean_args, clean_kwargs)
        rest, others_rest = whole, hidden_of(output)
        if self.units:
            with expert_neurons_off(context, self.block, self.units, None):
                rest, others_rest = run(clean_args, clean_kwargs), run(args, kwargs)
        rest, whole = (x.reshape(len(context.rows), -1) for x in (rest, whole))
        mean, mean_rest = (
            context.replacement(at_positions(x, context), 0, "mean", 0)  # type: ignore[arg-type]
            for x in (hidden_of(output), others_rest)
        )
        if self.complement:
            return rest + (mean - mean_rest)
        return mean_rest + (whole - rest)
