"""Which neurons write the sink direction at P0, and which experts P0 is routed to.

What an MLP writes is linear in the inputs of its last map: neuron n writes act_n · W_down[:, n]. A
norm behind the MLP is frozen: its factor for each channel, output over input, is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from sinkscope.errors import Unsupported
from sinkscope.observe.p0_stream import one_token_pass
from sinkscope.observe.sites import Sites, Sublayer, find_sites
from sinkscope.observe.stream import first_hidden, hidden_of
from sinkscope.subject.load import Subject
from sinkscope.training_runs.view import View

SHARE = 0.9  # of what neurons write along u
ROUTED = 0.5  # an expert is P0's if at least half of the first tokens are routed to it


@dataclass
class P0Parts:
    """Mean activation and write of the MLPs at P0.

    active   block -> (act [neurons], columns [neurons, d]) averaged over first tokens
    experts  block -> share of the first tokens routed to each expert [experts]
    """

    active: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)
    experts: dict[int, torch.Tensor] = field(default_factory=dict)

    def chosen(self, u: torch.Tensor, point: int) -> tuple[np.ndarray, np.ndarray]:
        """k90 neurons along u [d] in the blocks before `point`, and experts: both [n, 2] int64."""
        found = [
            (act * (columns @ u), block)
            for block, (act, columns) in sorted(self.active.items())
            if block < point
        ]
        neurons: list[tuple[int, int]] = []
        if found:
            shares = torch.cat([share for share, _ in found]).clamp_min(0)
            places = [(block, i) for share, block in found for i in range(len(share))]
            order = shares.argsort(descending=True, stable=True)
            total = shares.sum().clamp_min(1e-30)
            count = int((shares[order].cumsum(0) < SHARE * total).sum()) + 1
            neurons = sorted(places[i] for i in order[:count].tolist())
        experts = [
            (block, int(e))
            for block, share in sorted(self.experts.items())
            for e in (share >= ROUTED).nonzero().flatten()
        ]
        return (np.array(a, dtype=np.int64).reshape(-1, 2) for a in (neurons, experts))  # type: ignore[return-value]


def p0_parts(subject: Subject, view: View) -> P0Parts:
    """Run the first tokens alone and keep what goes into the last map of every MLP.

    A model whose residual stream is not proven has no parts: the result is empty.
    """
    try:
        sites = find_sites(subject, view.prompts)
    except Unsupported:
        return P0Parts()
    parts = P0Parts()
    one_token_pass(subject, view.first_tokens, lambda: _hooks(subject, sites, parts))
    return parts


def _hooks(subject: Subject, sites: Sites, parts: P0Parts) -> list[Any]:
    handles = []
    for index, block in enumerate(subject.anatomy.modules(subject.model)):
        mlp = sites.mlp(index)
        if mlp is None:
            continue
        if mlp.experts is not None:
            routed = block.get_submodule(mlp.experts)
            handles.append(
                routed.register_forward_pre_hook(_routing(index, routed, parts), with_kwargs=True)
            )
        elif mlp.projection is not None and not mlp.inside:
            handles += _dense(index, block, mlp, parts)
    return handles


def _dense(index: int, block: Any, mlp: Sublayer, parts: P0Parts) -> list[Any]:
    """Keep the mean input of the projection, and what a unit of each neuron finally adds."""
    assert mlp.projection is not None
    projection = mlp.projection
    raw: list[torch.Tensor] = []

    def enter(module, args, kwargs):
        act = first_hidden(args, kwargs)
        parts.active[index] = (act.float().flatten(0, -2).mean(0).cpu(), torch.zeros(0))

    def source(module, args, output):
        raw[:] = [hidden_of(output).float().flatten(0, -2)]

    def write(module, args, output):
        added = hidden_of(output).float().flatten(0, -2) * mlp.scale
        factor = (added / torch.where(raw[0].abs() < 1e-12, 1e-12, raw[0])).mean(0)
        columns = projection.columns(block).float() * factor
        parts.active[index] = (parts.active[index][0], columns.cpu())

    return [
        projection.owner(block).register_forward_pre_hook(enter, with_kwargs=True),
        block.get_submodule(mlp.source).register_forward_hook(source),
        block.get_submodule(mlp.write).register_forward_hook(write),
    ]


def _routing(index: int, routed: Any, parts: P0Parts) -> Callable:
    """Experts are called as (hidden, index [tokens, k], weights)."""
    count = next(p.shape[0] for p in routed.parameters(recurse=False) if p.dim() == 3)

    def enter(module, args, kwargs):
        values = [*args, *kwargs.values()]
        chosen = next(
            (v for v in values if isinstance(v, torch.Tensor) and not v.is_floating_point()), None
        )
        if chosen is not None:
            hits = torch.zeros(chosen.shape[0], count).scatter_(
                1, chosen.reshape(chosen.shape[0], -1).long().cpu(), 1.0
            )
            parts.experts[index] = hits.mean(0)

    return enter
