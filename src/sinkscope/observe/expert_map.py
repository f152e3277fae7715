"""The last map of fused experts: the parameter of three dimensions in which they are linear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sinkscope.observe.stream import hidden_of
from sinkscope.subject.spread import spread_as

CLOSE = 1e-5  # relative to the largest entry; half precision gets more


def last_map(module: nn.Module, given: tuple, width: int) -> tuple[str, str] | None:
    """Name and layout of the 3-d parameter in which a module's output is linear."""
    args, kwargs = given
    three = [n for n, p in module.named_parameters(recurse=False) if p.dim() == 3]
    for name in three:
        if width not in getattr(module, name).shape[1:]:
            continue
        # any weights will do: those of experts that are switched off would show nothing, and
        # neither would experts whose first map gives nothing
        for drawn in ({name: _drawn(module, name)}, {each: _drawn(module, each) for each in three}):
            call = _Drawn(module, name, drawn, args, kwargs)
            if call.affine():
                return name, call.layout(width)
    return None


def _drawn(module: nn.Module, name: str) -> torch.Tensor:
    weight = getattr(module, name).detach()
    drawn = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    return spread_as(drawn, weight)


@dataclass(frozen=True, eq=False)
class _Drawn:
    """A module on what it was given, with drawn weights; `name` is the parameter in question."""

    module: nn.Module
    name: str
    weights: dict[str, torch.Tensor]
    args: tuple
    kwargs: dict[str, Any]

    def __call__(self, weight: torch.Tensor) -> torch.Tensor:
        weights = self.weights | {self.name: weight}
        with torch.no_grad():
            out = torch.func.functional_call(self.module, weights, self.args, self.kwargs)
        return hidden_of(out).clone()

    def affine(self) -> bool:
        """f(3W) − f(2W) = f(2W) − f(W), and f does depend on W."""
        one, two, three = (self(s * self.weights[self.name]) for s in (1.0, 2.0, 3.0))
        return close(three - two, two - one) and not close(two, one)

    def layout(self, width: int) -> str:
        """Which axis of the parameter holds the output channels."""
        weight = self.weights[self.name]
        if weight.shape[1] != weight.shape[2]:
            return "expert_out_in" if weight.shape[1] == width else "expert_in_out"
        # square: only the row (or column) of output channel 0 can change that channel
        cut = weight.clone()
        cut[:, 0] = 0
        whole, part = self(weight), self(cut)
        return "expert_out_in" if close(whole[..., 1:], part[..., 1:]) else "expert_in_out"


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal up to rounding, relative to the largest entry."""
    tolerance = CLOSE if a.dtype in (torch.float32, torch.float64) else 2e-2
    largest = b.float().abs().max().item() or 1.0
    return (a.float() - b.float()).abs().max().item() <= tolerance * largest
