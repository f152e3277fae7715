"""Edits that round what linear maps are given, or their weights, as quantised models do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sinkscope.errors import InputError, Unsupported
from sinkscope.intervene.edits.base import Context, Edit, at_positions
from sinkscope.intervene.edits.cache import but
from sinkscope.intervene.rounding import rounded, rounded_rows
from sinkscope.subject.at_hand import refuse_edit


@dataclass(frozen=True)
class RoundInputs(Edit):
    """Inputs of the linear maps of all blocks rounded to a few bits, scaled on the fly.

    group    what shares a scale: tensor (all tokens of a prompt), channel or token
    exact    positions that are kept in full precision, and set no scale
    without  path endings of maps that are left alone, such as 1.mlp.down_proj
    """

    bits: int = 8
    group: str = "tensor"
    exact: tuple[int, ...] = ()
    without: tuple[str, ...] = ()

    def __str__(self) -> str:
        left = f", without {', '.join(self.without)}" if self.without else ""
        return f"activations in {self.bits} bits by {self.group}{but(self.exact)}{left}"

    def hooks(self, context: Context) -> list[Any]:
        """Round what each map is given."""

        def enter(module, args):
            rows = at_positions(args[0], context)
            if rows is None:  # experts are given the tokens that were sent to them: no rows
                new = rounded(args[0].unsqueeze(0), self.bits, "token").squeeze(0)
                return (new, *args[1:])
            new = rounded(rows, self.bits, self.group, self.exact)
            return (new.reshape(args[0].shape), *args[1:])

        return [
            module.register_forward_pre_hook(enter)
            for name, module in linear_maps(context.subject)
            if not name.endswith(self.without or ("\0",))
        ]


@dataclass(frozen=True)
class RoundWeights(Edit):
    """Weights of some linear maps rounded to a few bits, a scale for each output.

    modules  path endings, such as layers.1.mlp.down_proj; None for all maps of all blocks
    neurons  a block and MLP neurons of it: what they read and write by stays in full precision,
             and sets no scale
    """

    bits: int = 4
    modules: tuple[str, ...] | None = None
    neurons: tuple[int, tuple[int, ...]] | None = None

    def __str__(self) -> str:
        what = "all linear maps" if self.modules is None else ", ".join(self.modules)
        left = ""
        if self.neurons:
            left = f", but {len(self.neurons[1])} neurons of block {self.neurons[0]}"
        return f"weights of {what} in {self.bits} bits{left}"

    @contextmanager
    def weights(self, context: Context) -> Iterator[None]:
        """Round them, and put the old ones back."""
        chosen = [
            (name, module)
            for name, module in linear_maps(context.subject)
            if self.modules is None or name.endswith(self.modules)
        ]
        if not chosen:
            raise InputError(f"no linear map is called {', '.join(self.modules or ())}.")
        for block in context.subject.anatomy.modules(context.subject.model):
            refuse_edit(block, str(self))
        exact = self._exact(context)
        saved: list[tuple[Any, Any]] = [(module, module.weight.data) for _, module in chosen]
        try:
            for name, module in chosen:
                weight: torch.Tensor = module.weight.data  # type: ignore[union-attr, assignment]
                turned = not isinstance(module, nn.Linear)  # a Conv1D holds [in, out]
                new = self._rounded(weight.T if turned else weight, *exact.get(name, ((), ())))
                module.weight.data = new.T.contiguous() if turned else new
            yield
        finally:
            for module, weight in saved:
                module.weight.data = weight

    def _rounded(self, weight: torch.Tensor, outputs, inputs) -> torch.Tensor:
        """A weight [out, in] rounded, but for these outputs and inputs."""
        inputs, outputs = list(inputs), list(outputs)
        others = weight.clone()
        others[:, inputs] = 0.0
        new = rounded_rows(others, self.bits)
        new[:, inputs], new[outputs] = weight[:, inputs], weight[outputs]
        return new

    def _exact(self, context: Context) -> dict[str, tuple[list[int], list[int]]]:
        """Path of a map -> its outputs and its inputs that belong to the neurons."""
        if self.neurons is None:
            return {}
        at, neurons = self.neurons
        sublayer = context.sublayer(at, "mlp")
        if sublayer.projection is None or sublayer.experts is not None:
            raise Unsupported(f"the neurons of block {at} are out of reach.")
        count = len(sublayer.projection.columns(context.block(at)))
        writes = f"{context.subject.anatomy.blocks[at].name}.{sublayer.projection.module}"
        found: dict[str, tuple[list[int], list[int]]] = {writes: ([], list(neurons))}
        for name, module in linear_maps(context.subject):
            weight: Any = module.weight
            outputs = weight.shape[0 if isinstance(module, nn.Linear) else 1]
            beside = name.rpartition(".")[0] == writes.rpartition(".")[0] and name != writes
            if beside and outputs % count == 0:  # a fused map holds gate and up one after another
                rows = [n + count * part for part in range(outputs // count) for n in neurons]
                found[name] = (rows, [])
        return found


def linear_maps(subject: Any) -> list[tuple[str, nn.Module]]:
    """Path and module of every linear map inside the blocks."""
    return [
        (f"{block.name}.{name}", module)
        for block, whole in zip(
            subject.anatomy.blocks, subject.anatomy.modules(subject.model), strict=True
        )
        for name, module in whole.named_modules()
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
    ]
