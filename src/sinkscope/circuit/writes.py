"""What of position zero's stream was written by whom: embedding, heads, neurons, experts.

One batched one-token pass. The stream is x_0 = embedding + Σ Δ, and each Δ is linear in what heads
and neurons put on the input of its last map, once norms behind it are frozen. So the share of a
unit along a direction is input × gradient of ⟨Δ, direction⟩; inside fused experts it is parameter ×
gradient, summed over the batch. Shares and biases add up to ⟨Δ, direction⟩ exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from sinkscope.circuit.frozen import FrozenNorms
from sinkscope.observe.p0_stream import BATCH, Taps, one_token_pass
from sinkscope.observe.projection import Projection
from sinkscope.observe.residual import residual_hooks
from sinkscope.observe.sites import Sites, Sublayer, write_hooks
from sinkscope.subject.at_hand import bring
from sinkscope.subject.load import Subject
from sinkscope.subject.spread import whole

Key = tuple[int, str]  # block, number of the sublayer and which of its last maps (`dense_maps`)
Along = Callable[[int], torch.Tensor]  # block -> direction, [d] or one for each token [n, d]


@dataclass
class Writes:
    """Means over first tokens of what was written along a direction, in the stream's own units.

    embedding  of x0 itself
    total      write name -> ⟨Δ, u⟩
    units      write name -> [inputs] of the last map: channels of heads, or neurons;
               [experts, neurons] in fused experts
    shared     write name -> [neurons] of the expert that serves every token
    bias       write name -> what the biases of the last map and norms behind it wrote
    error      largest |Σ units + bias − total| over the largest |total|
    """

    sites: Sites
    embedding: float = 0.0
    total: dict[str, float] = field(default_factory=dict)
    units: dict[str, torch.Tensor] = field(default_factory=dict)
    shared: dict[str, torch.Tensor] = field(default_factory=dict)
    bias: dict[str, float] = field(default_factory=dict)
    without_units: dict[str, str] = field(default_factory=dict)

    @property
    def error(self) -> float:
        """How far units and biases are from adding up, relative to the largest write."""
        top = max((abs(v) for v in self.total.values()), default=0.0) or 1.0
        return max((abs(self._rest(name)) / top for name in self.units), default=0.0)

    def _rest(self, name: str) -> float:
        parts = float(self.units[name].sum()) + self.bias.get(name, 0.0)
        if name in self.shared:
            parts += float(self.shared[name].sum())
        return self.total[name] - parts


def written_along(
    subject: Subject,
    sites: Sites,
    tokens: torch.Tensor,
    along: Along,
    stop: int,
    usual: Mapping[Key, torch.Tensor] | None = None,
) -> Writes:
    """Writes of the blocks below `stop` at P0, mean over the tokens (see `Writes`).

    along(block) gives the direction for the writes of a block; −1 asks for the embedding's. A
    direction of shape [n, d] has one row for each token.
    usual: [inputs] what last maps are given at other positions; shares of heads and neurons are
    then of the difference from that, and no longer add up to the write. Fused experts are left as
    they are.
    """
    found = Writes(sites)
    done = 0
    for batch in tokens.split(BATCH):
        rows = slice(done, done + len(batch))
        weight = len(batch) / len(tokens)
        _Pass(subject, sites, found, along, rows, weight, stop, usual or {}).run(batch)
        done += len(batch)
    return found


class _Pass:
    """One batch of `written_along`."""

    def __init__(self, subject, sites, found, along, rows, weight, stop, usual) -> None:
        self.subject, self.sites, self.found = subject, sites, found
        self.along, self.rows, self.weight, self.stop = along, rows, weight, stop
        self.blocks = subject.anatomy.modules(subject.model)[:stop]
        self.leaves: dict[Key, torch.Tensor] = {}
        self.parameters: dict[tuple[int, int, str], nn.Parameter] = {}
        self.usual: Mapping[Key, torch.Tensor] = usual

    def run(self, batch: torch.Tensor) -> None:
        norms = FrozenNorms(
            [
                block.get_submodule(s.write)
                for block, sublayers in zip(self.blocks, self.sites.blocks)
                for s in sublayers
                if s.write != s.source
            ]
        )
        with norms.recording():
            one_token_pass(self.subject, batch, self._taps(), self.stop, grad=True)

    def _linear_parameters(self, b: int) -> dict[tuple[int, int, str], nn.Parameter]:
        """Parameters of a block in which writes are linear: down maps of fused experts, biases."""
        found: dict[tuple[int, int, str], nn.Parameter] = {}
        block = self.blocks[b]
        for i, sublayer in enumerate(self.sites.blocks[b]):
            for projection in (sublayer.projection, sublayer.shared):
                if projection is None:
                    continue
                owner = projection.owner(block)
                if projection is sublayer.projection and sublayer.experts is not None:
                    found[b, i, "experts"] = projection.weight(block)
                    bias = getattr(owner, f"{projection.parameter}_bias", None)
                else:
                    bias = getattr(owner, "bias", None)
                if isinstance(bias, nn.Parameter):
                    key = "shared bias" if projection is sublayer.shared else "bias"
                    found[b, i, key] = bias
            after = block.get_submodule(sublayer.write)
            bias = getattr(after, "bias", None)
            if sublayer.write != sublayer.source and isinstance(bias, nn.Parameter):
                found[b, i, "norm bias"] = bias
        return found

    def _taps(self) -> Taps:
        def embedding(point: int, hidden: torch.Tensor) -> None:
            if point == 0:
                u = self._direction(-1, hidden)
                self.found.embedding += self._mean((hidden[:, 0].float() * u).sum(-1))

        read = residual_hooks(self.subject, embedding)
        wrote = write_hooks(self.subject, self.sites, self._written)

        return lambda: [
            *self._ask_hooks(), *read(), *self._leaf_hooks(), *wrote(), *self._cut_hooks()
        ]  # fmt: skip

    def _ask_hooks(self) -> list[Any]:
        """Ask for the gradients of a block's parameters when it begins; they are read before.

        The pass has switched all others off, and puts every one back as it was.
        """

        def ask(b: int) -> Callable:
            def hook(module, args):
                bring(module)
                own = self._linear_parameters(b)
                for parameter in own.values():
                    parameter.requires_grad_(True)
                self.parameters.update(own)

            return hook

        return [block.register_forward_pre_hook(ask(b)) for b, block in enumerate(self.blocks)]

    def _leaf_hooks(self) -> list[Any]:
        """The input of every last map becomes a leaf of its own."""
        handles = []
        for b, block in enumerate(self.blocks):
            for i, sublayer in enumerate(self.sites.blocks[b]):
                for name, projection in dense_maps(sublayer):
                    owner = projection.owner(block)
                    handles.append(owner.register_forward_pre_hook(self._leaf((b, f"{i}{name}"))))
        return handles

    def _leaf(self, key: Key) -> Callable:
        def hook(module, args):
            leaf = args[0].detach().requires_grad_(True)
            self.leaves[key] = leaf
            return (leaf, *args[1:])

        return hook

    def _cut_hooks(self) -> list[Any]:
        """Nothing behind a write may hold on to its graph."""

        def cut(module, args, output):
            if isinstance(output, torch.Tensor):
                return output.detach()
            return type(output)(o.detach() if isinstance(o, torch.Tensor) else o for o in output)

        return [
            block.get_submodule(s.write).register_forward_hook(cut)
            for block, sublayers in zip(self.blocks, self.sites.blocks)
            for s in sublayers
        ]

    def _direction(self, block: int, like: torch.Tensor) -> torch.Tensor:
        u = self.along(block).to(like.device).float()
        return u if u.dim() == 1 else u[self.rows]

    def _mean(self, values: torch.Tensor) -> float:
        return float(values.detach().double().mean()) * self.weight

    def _written(self, block: int, index: int, delta: torch.Tensor) -> None:
        if block >= self.stop:
            return
        name = self.sites.name_of(block, index)
        u = self._direction(block, delta)
        along = (delta[:, 0].float() * u).sum(-1)
        self._add(self.found.total, name, self._mean(along))
        sublayer = self.sites.blocks[block][index]
        if sublayer.projection is None:
            self.found.without_units[name] = sublayer.reason
            return
        self._units(block, index, name, sublayer, along)

    def _units(self, block, index, name, sublayer: Sublayer, along: torch.Tensor) -> None:
        leaves = {
            kind: self.leaves.pop((block, f"{index}{kind}")) for kind, _ in dense_maps(sublayer)
        }
        keys = [key for key in self.parameters if key[:2] == (block, index)]
        own = {key[2]: self.parameters.pop(key) for key in keys}
        if any(parameter.device.type == "meta" for parameter in own.values()):
            self.found.without_units[name] = "its weights lie on disk"
            return
        wanted = [*leaves.values(), *own.values()]
        if not wanted or not along.requires_grad:
            self.found.without_units[name] = "its write does not depend on its last map"
            return
        grads = torch.autograd.grad(along.mean(), wanted, allow_unused=True)
        pairs = zip([*leaves, *own], wanted, grads)
        for kind, x, grad in pairs:
            if grad is None:
                continue
            usual = self.usual.get((block, f"{index}{kind}"), 0.0)
            part = (whole(x.detach()).float() - usual) * whole(grad).float()
            if kind == "experts":
                layout = sublayer.projection.layout  # type: ignore[union-attr]
                self._unit_sum(self.found.units, name, part.sum(1 if "out_in" in layout else 2))
            elif kind.endswith("bias"):
                self._add(self.found.bias, name, float(part.sum()) * self.weight)
            else:
                into = self.found.shared if kind == " shared" else self.found.units
                self._unit_sum(into, name, part.reshape(-1, part.shape[-1]).sum(0))

    def _unit_sum(self, into: dict, name: str, part: torch.Tensor) -> None:
        part = part.detach().cpu() * self.weight
        into[name] = into[name] + part if name in into else part

    @staticmethod
    def _add(into: dict[str, float], name: str, value: float) -> None:
        into[name] = into.get(name, 0.0) + value


def dense_maps(sublayer: Sublayer) -> list[tuple[str, Projection]]:
    """Last maps of a sublayer that are plain linear modules: its own (named ""), and the shared
    expert's (named " shared")."""
    found = []
    if sublayer.projection is not None and sublayer.experts is None:
        found.append(("", sublayer.projection))
    if sublayer.shared is not None:
        found.append((" shared", sublayer.shared))
    return found
