"""Edits that round what linear maps are given, or their weights, as quantised models do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from sinkscope.errors import InputError
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
    """

    bits: int = 4
    modules: tuple[str, ...] | None = None

    def __str__(self) -> str:
        what = "all linear maps" if self.modules is None else ", ".join(self.modules)
        return f"weights of {what} in {self.bits} bits"

    @contextmanager
    def weights(self, context: Context) -> Iterator[None]:
        """Round them, and put the old ones back."""
        chosen = [
            module
            for name, module in linear_maps(context.subject)
            if self.modules is None or name.endswith(self.modules)
        ]
        if not chosen:
            raise InputError(f"no linear map is called {', '.join(self.modules or ())}.")
        for block in context.subject.anatomy.modules(context.subject.model):
            refuse_edit(block, str(self))
        saved: list[tuple[Any, Any]] = [(module, module.weight.data) for module in chosen]
        try:
            for module, weight in saved:
                turned = not isinstance(module, nn.Linear)  # a Conv1D holds [in, out]
                new = rounded_rows(weight.T if turned else weight, self.bits)
                module.weight.data = new.T.contiguous() if turned else new
            yield
        finally:
            for module, weight in saved:
                module.weight.data = weight


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
