"""Hooks of a one-token pass in which some units of position zero write as other positions do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from sinkscope.circuit.unit import HEAD, NEURON, SHARED, Unit, by_block
from sinkscope.circuit.writes import Key, dense_maps
from sinkscope.observe.experts import without_columns
from sinkscope.observe.sites import Sites, Sublayer
from sinkscope.observe.stream import hidden_of, with_hidden
from sinkscope.subject.at_hand import against_edit
from sinkscope.subject.load import Subject

Hooks = Callable[[], list[Any]]
SUBLAYERS = {HEAD: "attention", NEURON: "mlp", SHARED: "mlp"}


def ablated(
    subject: Subject, sites: Sites, usual: Mapping[Key, torch.Tensor], units: Sequence[Unit]
) -> Hooks | None:
    """Make the hooks that ablate these units at P0; None where one of them is out of reach.

    Heads and neurons are mean-ablated: what the last map is given becomes `usual`. Routed experts
    have nothing usual, for each is given other tokens, so that their neurons are switched off.
    """
    modules = subject.anatomy.modules(subject.model)
    made: list[Hooks] = []
    for kind, name in SUBLAYERS.items():
        for block, chosen in by_block(units, kind).items():
            index = next(i for b, i, n in sites.writes if (b, n) == (block, f"{block}.{name}"))
            sublayer = sites.blocks[block][index]
            if kind == NEURON and sublayer.experts is not None:
                if against_edit(modules[block], running=True):
                    return None
                made.append(_experts(modules[block], sublayer, chosen))
                continue
            which = " shared" if kind == SHARED else ""
            projection, key = dict(dense_maps(sublayer)).get(which), (block, f"{index}{which}")
            if projection is None or key not in usual:
                return None
            owner = projection.owner(modules[block])
            made.append(_dense(owner, chosen, sublayer.heads if kind == HEAD else None, usual[key]))
    if sum(unit.kind in SUBLAYERS for unit in units) < len(units):
        return None
    return lambda: [handle for make in made for handle in make()]


def _dense(owner: nn.Module, chosen: list[int], heads: int | None, usual: torch.Tensor) -> Hooks:
    """The map is given `usual` where the chosen heads or neurons write."""
    mask = torch.zeros(heads or len(usual), dtype=torch.bool)
    mask[chosen] = True
    mask = mask.repeat_interleave(len(usual) // len(mask)).to(usual.device)

    def swap(module: nn.Module, args: tuple) -> tuple:
        return (torch.where(mask, usual.to(args[0]), args[0]), *args[1:])

    return lambda: [owner.register_forward_pre_hook(swap)]


def _experts(block: nn.Module, sublayer: Sublayer, chosen: list[int]) -> Hooks:
    """The experts run again without the chosen neurons."""
    assert sublayer.experts is not None
    assert sublayer.projection is not None
    experts, projection = block.get_submodule(sublayer.experts), sublayer.projection

    def again(module: Any, args: tuple, kwargs: dict, output: Any) -> Any:
        with without_columns(block, projection, chosen):
            return with_hidden(output, hidden_of(module.forward(*args, **kwargs)))

    return lambda: [experts.register_forward_hook(again, with_kwargs=True)]
