"""Which experts position zero is sent to, and how clearly.

Read from the call of the fused experts module (hidden, index, weights) and from whatever module
beside it gives one number for each expert. Router margin: logit of the last chosen expert less that
of the best one left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from sinkscope.observe.layout import Layout
from sinkscope.observe.sites import Sites
from sinkscope.schema.trace import Sent
from sinkscope.subject.load import Subject

P0, OTHERS = 0, 1


@dataclass
class _Block:
    """Sums over P0 and over the others: how often each expert is chosen, its weight, the margin.

    chosen, weight          [2, experts]
    margin, count, margins  [2] sum of the margins; tokens, and those of known margin
    """

    chosen: torch.Tensor
    weight: torch.Tensor
    margin: torch.Tensor
    count: torch.Tensor
    margins: torch.Tensor


class Routing:
    """Accumulates the routing of every block with fused experts; `hooks` go into a pass."""

    def __init__(self, subject: Subject, sites: Sites) -> None:
        self.subject, self.sites = subject, sites
        self.blocks: dict[int, _Block] = {}

    def hooks(self, layout: Callable[[], Layout | None]) -> list[Any]:
        """Hook handles; layout() says what is P0, None means that every token is."""
        handles = []
        modules = self.subject.anatomy.modules(self.subject.model)
        for index, sublayers in enumerate(self.sites.blocks):
            for sublayer in sublayers:
                if sublayer.experts is None or sublayer.projection is None:
                    continue
                experts = modules[index].get_submodule(sublayer.experts)
                count = sublayer.projection.weight(modules[index]).shape[0]
                logits: list[torch.Tensor] = []
                for name, child in modules[index].get_submodule(sublayer.source).named_modules():
                    if name and child is not experts:
                        handles.append(child.register_forward_hook(_keep_logits(logits, count)))
                handles.append(
                    experts.register_forward_pre_hook(
                        self._count(index, count, logits, layout), with_kwargs=True
                    )
                )
        return handles

    def _count(self, index: int, experts: int, logits: list[torch.Tensor], layout) -> Callable:
        def hook(module, args, kwargs):
            found = _index_and_weights((*args, *kwargs.values()))
            if found is None:
                return
            chosen, weights = found
            is_p0, valid = _masks(layout(), chosen)
            block = self.blocks.setdefault(index, _empty(experts))
            margin = _margin(logits, chosen)
            logits.clear()
            for group, rows in ((P0, is_p0), (OTHERS, valid & ~is_p0)):
                picks = chosen[rows].flatten().cpu()
                keep = picks < experts
                block.chosen[group] += torch.bincount(picks[keep], minlength=experts)
                amounts = weights[rows].flatten().double().cpu()
                block.weight[group].index_add_(0, picks[keep], amounts[keep])
                block.count[group] += int(rows.sum())
                if margin is not None:
                    block.margin[group] += margin[rows].double().sum().cpu()
                    block.margins[group] += int(rows.sum())

        return hook

    def summary(self, block: int, group: int) -> Sent:
        """Shares of tokens sent to each expert, mean weights where chosen, mean router margin."""
        b = self.blocks[block]
        count = max(float(b.count[group]), 1.0)
        margins = float(b.margins[group])
        return {
            "share": (b.chosen[group] / count).tolist(),
            "weight": (b.weight[group] / b.chosen[group].clamp_min(1)).tolist(),
            "margin": float(b.margin[group]) / margins if margins else None,
        }


def _empty(experts: int) -> _Block:
    def zeros(*shape: int) -> torch.Tensor:
        return torch.zeros(2, *shape, dtype=torch.float64)

    return _Block(zeros(experts), zeros(experts), zeros(), zeros(), zeros())


def _index_and_weights(values: tuple) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Chosen experts and their weights, [tokens, k], among the arguments of an experts module."""
    tensors = [v for v in values if isinstance(v, torch.Tensor)]
    index = next((t for t in tensors if not t.is_floating_point() and t.dim() == 2), None)
    if index is None:
        return None
    for tensor in tensors[1:]:
        if tensor.is_floating_point() and tensor.dim() == 2 and len(tensor) == len(index):
            same = tensor.shape == index.shape
            return index, tensor if same else tensor.gather(1, index)
    return index, torch.ones(index.shape, device=index.device)


def _keep_logits(logits: list[torch.Tensor], experts: int) -> Callable:
    def hook(module, args, output):
        values = output if isinstance(output, (tuple, list)) else (output,)
        for value in values:
            if (
                isinstance(value, torch.Tensor)
                and value.is_floating_point()
                and value.dim() >= 2
                and value.shape[-1] == experts
            ):
                logits.append(value.detach().reshape(-1, experts))
                return

    return hook


def _margin(logits: list[torch.Tensor], chosen: torch.Tensor) -> torch.Tensor | None:
    """Last chosen logit less the best one left out: [tokens]."""
    k = chosen.shape[1]
    if not logits or len(logits[0]) != len(chosen) or logits[0].shape[1] <= k:
        return None
    top = logits[0].float().topk(k + 1, dim=1).values
    return top[:, k - 1] - top[:, k]


def _masks(layout: Layout | None, chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    if layout is None:
        everything = torch.ones(len(chosen), dtype=torch.bool, device=chosen.device)
        return everything, everything
    there = layout.on(chosen.device)
    return there.is_p0.flatten(), there.valid.flatten()
