"""Edits of single units of a sublayer: attention heads, MLP neurons, experts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from sinkscope.errors import InputError, Unsupported
from sinkscope.intervene.edits.base import Context, Edit, at_positions
from sinkscope.observe.experts import expert_columns, without_columns
from sinkscope.observe.stream import hidden_of, with_hidden
from sinkscope.subject.at_hand import refuse_edit


@dataclass(frozen=True)
class Heads(Edit):
    """Ablate heads: replace what they hand to the output projection (z), at one position.

    position  None for every position, where `how` can only be zero
    how       zero; mean of the other positions of the same prompt; resample
    """

    block: int
    heads: tuple[int, ...]
    position: int | None = 0
    how: str = "zero"
    seed: int = 0

    def __str__(self) -> str:
        heads = ", ".join(map(str, self.heads))
        where = "every position" if self.position is None else f"position {self.position}"
        return f"{self.how}-ablate heads {heads} of block {self.block} at {where}"

    def hooks(self, context: Context) -> list[Any]:
        """Replace the heads' part of the projection's input."""
        if self.position is None and self.how != "zero":
            raise InputError("heads at every position can only be switched off (how='zero').")
        context.check(self.position or 0)
        sublayer = context.sublayer(self.block, "attention")
        count = sublayer.heads
        if sublayer.projection is None or count is None:
            raise Unsupported(sublayer.reason or f"heads of block {self.block} mix before output.")
        if not self.heads or not all(0 <= head < count for head in self.heads):
            raise InputError(f"block {self.block} has heads 0 to {count - 1}.")
        module = sublayer.projection.owner(context.block(self.block))

        def enter(_, args):
            rows = input_rows(args[0], context, self.block)
            parts = rows.reshape(*rows.shape[:2], count, -1).clone()
            chosen = list(self.heads)
            if self.position is None:
                parts[:, :, chosen] = 0.0
            else:
                new = context.replacement(parts[:, :, chosen], self.position, self.how, self.seed)
                parts[:, self.position, chosen] = new
            return (parts.reshape(args[0].shape), *args[1:])

        return [module.register_forward_pre_hook(enter)]


@dataclass(frozen=True)
class Neurons(Edit):
    """Ablate MLP neurons of a block: replace their activation at one position.

    how     zero; mean of the other positions of the same prompt; resample
    expert  for routed MLPs: the expert that holds them, or None for every expert. There the
            neurons are switched off (zero) by running the position's experts without their columns.
    """

    block: int
    neurons: tuple[int, ...]
    position: int = 0
    how: str = "zero"
    expert: int | None = None
    seed: int = 0

    def __str__(self) -> str:
        few = ", ".join(map(str, self.neurons[:8])) + (", .." if len(self.neurons) > 8 else "")
        owner = "" if self.expert is None else f" of expert {self.expert}"
        where = f"block {self.block} at position {self.position}"
        what = "1 neuron" if len(self.neurons) == 1 else f"{len(self.neurons)} neurons"
        return f"{self.how}-ablate {what} ({few}){owner} of {where}"

    def hooks(self, context: Context) -> list[Any]:
        """Replace the neurons' part of the projection's input, or run the experts again."""
        context.check(self.position)
        sublayer = context.sublayer(self.block, "mlp")
        projection = sublayer.projection
        if projection is None:
            raise Unsupported(sublayer.reason or f"neurons of block {self.block} are out of reach.")
        if projection.layout.startswith("expert"):
            return self._expert_hooks(context, sublayer)
        if self.expert is not None:
            raise InputError(f"block {self.block} has no experts.")
        module = projection.owner(context.block(self.block))

        def enter(_, args):
            rows = input_rows(args[0], context, self.block).clone()
            _check_units(self.neurons, rows.shape[-1], self.block)
            chosen = list(self.neurons)
            new = context.replacement(rows[:, :, chosen], self.position, self.how, self.seed)
            rows[:, self.position, chosen] = new
            return (rows.reshape(args[0].shape), *args[1:])

        return [module.register_forward_pre_hook(enter)]

    def _expert_hooks(self, context: Context, sublayer: Any) -> list[Any]:
        if self.how != "zero":
            raise Unsupported("neurons inside experts can only be switched off (how='zero').")
        module = context.block(self.block).get_submodule(sublayer.experts)

        def leave(owner, args, kwargs, output):
            with expert_neurons_off(context, self.block, self.neurons, self.expert):
                return rerun_rows(owner, args, kwargs, output, context, self.position)

        return [module.register_forward_hook(not_within(leave), with_kwargs=True)]


def not_within(hook: Callable) -> Callable:
    """A forward hook that calls its module again, and is not run by that call too."""
    running: list[bool] = []

    def outermost(*given: Any) -> Any:
        if running:
            return None
        running.append(True)
        try:
            return hook(*given)
        finally:
            running.clear()

    return outermost


def rerun_rows(
    module: Any, args: tuple, kwargs: dict, output: Any, context: Context, position: int
) -> Any:
    """The module's output with the rows of one position computed again."""

    def rows(value: Any) -> Any:
        whole = at_positions(value, context) if isinstance(value, torch.Tensor) else None
        if whole is None:
            return value
        cut = whole[:, position : position + 1]
        return cut if whole is value else cut.reshape(-1, *value.shape[1:])

    new = hidden_of(
        module.forward(*(rows(a) for a in args), **{k: rows(v) for k, v in kwargs.items()})
    )
    return with_row(output, new, context, position)


def with_row(output: Any, new: torch.Tensor, context: Context, position: int) -> Any:
    """A module's output with the row of one position replaced by new [B, d] or [B, 1, d].

    Raises Unsupported for an output that has no row for each token.
    """
    hidden = hidden_of(output)
    whole = at_positions(hidden, context)
    if whole is None:
        raise Unsupported("these experts do not write one row a token.")
    whole = whole.clone()
    whole[:, position] = new.reshape(whole.shape[0], *whole.shape[2:])
    return with_hidden(output, whole.reshape(hidden.shape))


@contextmanager
def expert_neurons_off(
    context: Context, block: int, neurons: Sequence[int], expert: int | None
) -> Iterator[None]:
    """`without_columns` of a block, where its weights are such that this is exact."""
    projection = context.sublayer(block, "mlp").projection
    assert projection is not None
    module = context.block(block)
    refuse_edit(module, f"block {block}")
    experts, count, _ = expert_columns(module, projection).shape
    _check_units(neurons, count, block)
    if expert is not None and not 0 <= expert < experts:
        raise InputError(f"block {block} has experts 0 to {experts - 1}.")
    with without_columns(module, projection, neurons, expert):
        yield


def input_rows(value: torch.Tensor, context: Context, block: int) -> torch.Tensor:
    """What an output projection is given, [B, T, inputs]."""
    rows = at_positions(value, context)
    if rows is None:
        raise Unsupported(f"the output projection of block {block} does not see one row a token.")
    return rows


def _check_units(units: Sequence[int], count: int, block: int) -> None:
    if not units or not all(0 <= unit < count for unit in units):
        raise InputError(f"block {block} has neurons 0 to {count - 1}.")
