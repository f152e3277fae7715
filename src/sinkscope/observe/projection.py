"""The last linear map of a sublayer: its input rows are what heads and neurons write.

A map is taken for the last one only if its output, on real data, is what the sublayer gives; routed
experts only if their output is linear in the parameter that is taken for their last map.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from sinkscope.observe.block_form import BlockForm
from sinkscope.observe.expert_map import close, last_map
from sinkscope.observe.stream import first_hidden, hidden_of
from sinkscope.subject.at_hand import plain_weight

IN_OUT = ("Conv1D",)  # transformers' linear layers that keep their weight as (in, out)


@dataclass(frozen=True)
class Projection:
    """The last linear map of a sublayer.

    module     path within the block of the module that owns the parameter ("" = the block)
    parameter  name of the parameter in it
    layout     out_in (Linear), in_out (Conv1D), expert_out_in or expert_in_out (3-d, fused experts)
    """

    module: str
    parameter: str
    layout: str

    def columns(self, block: nn.Module) -> torch.Tensor:
        """What one unit of each input writes: [inputs, d], or [experts, inputs, d]; detached."""
        weight = plain_weight(self.owner(block), self.parameter).detach()
        return weight if self.layout.endswith("in_out") else weight.mT

    def weight(self, block: nn.Module) -> nn.Parameter:
        """The parameter itself."""
        return getattr(self.owner(block), self.parameter)

    def owner(self, block: nn.Module) -> nn.Module:
        """The module that owns it: the Linear, or the fused experts."""
        return block.get_submodule(self.module) if self.module else block


@dataclass
class HeadSlices:
    """One softmax attention call: where it was made, and its heads' outputs [B, T, H, Dv]."""

    path: str | None
    output: torch.Tensor | None
    count: int | None = None


@dataclass(frozen=True)
class Opened:
    """What was found inside a sublayer; see `sites.Sublayer`."""

    projection: Projection | None = None
    heads: int | None = None
    experts: str | None = None
    shared: Projection | None = None
    reason: str = ""


@dataclass
class _Parts:
    """Inputs and outputs, within one block, of every module that could be a last map."""

    stream: torch.Tensor | None = None
    inputs: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, torch.Tensor] = field(default_factory=dict)
    read: list[torch.Tensor] = field(default_factory=list)
    sequential: bool = False
    running: bool = False  # the block itself; not our own calls of its parts afterwards


def record_parts(
    block: nn.Module, form: BlockForm, finish: Callable[[nn.Module, BlockForm, _Parts], None]
) -> list[Any]:
    """Hooks that record the parts of a block and call finish(block, form, parts) when it ends."""
    parts = _Parts()
    sources = set(form.sources) | {name for name, _ in form.writes}

    def enter(module, args, kwargs):
        parts.stream = first_hidden(args, kwargs).detach().clone()
        parts.running = True

    def step(name: str) -> Callable:
        def hook(module, args, kwargs, output):
            out = hidden_of(output)
            if not parts.running or not isinstance(out, torch.Tensor) or not out.dim():
                return
            if out.shape[-1] == _width(parts):
                parts.inputs[name] = (args, kwargs)
                parts.outputs[name] = out.detach().clone()

        return hook

    def read(module, args, kwargs):
        values = (*args, *kwargs.values())
        x = next((a for a in values if isinstance(a, torch.Tensor)), None)
        if x is not None and parts.running and _like(x, parts.stream):
            parts.read.append(x.detach().flatten(0, -2).clone())

    def leave(module, args, output):
        parts.running = False
        parts.sequential = _is_sequential(form, parts)
        finish(block, form, parts)
        parts.stream = None
        parts.inputs.clear()
        parts.outputs.clear()
        parts.read.clear()

    handles = [block.register_forward_pre_hook(enter, with_kwargs=True)]
    for name, child in block.named_modules():
        if name and (name in sources or _is_linear(child) or _three_dimensional(child)):
            handles.append(child.register_forward_hook(step(name), with_kwargs=True))
    for child in block.children():  # where a block reads its stream again
        handles.append(child.register_forward_pre_hook(read, with_kwargs=True))
    handles.append(block.register_forward_hook(leave))
    return handles


def _like(x: torch.Tensor, stream: torch.Tensor | None) -> bool:
    return stream is not None and x.numel() == stream.numel() and x.shape[-1] == stream.shape[-1]


def _width(parts: _Parts) -> int:
    return -1 if parts.stream is None else parts.stream.shape[-1]


def deltas(form: BlockForm, parts: _Parts) -> list[torch.Tensor]:
    """What each write of a block added to the stream, in order: a [B, T, d] for each."""
    assert parts.stream is not None
    stream, found = parts.stream, []
    for (write, scale), inside in zip(form.writes, form.inside):
        out = parts.outputs[write].reshape(stream.shape)
        delta = out - stream if inside else out * scale
        if any(form.inside):
            stream = stream + delta
        found.append(delta)
    return found


def _is_sequential(form: BlockForm, parts: _Parts) -> bool:
    """Whether something in the block reads the stream between its two writes."""
    if len(form.writes) != 2 or parts.stream is None:
        return False
    middle = parts.stream + deltas(form, parts)[0]
    return any(close(x, _flat(middle)) for x in parts.read)


def open_sublayer(
    block: nn.Module, form: BlockForm, index: int, parts: _Parts, calls: list[HeadSlices]
) -> Opened:
    """Find the last linear map of one write of a block."""
    source = form.sources[index]
    raw = parts.outputs[source]
    if form.inside[index]:
        raw = deltas(form, parts)[index]
    raw = raw.reshape(-1, raw.shape[-1])
    names = [n for n in parts.outputs if n == source or n.startswith(f"{source}.")]
    linear = [n for n in names if _is_linear(block.get_submodule(n))]
    for name in linear:
        if close(_flat(parts.outputs[name]), raw):
            projection = _linear_projection(block, name)
            return Opened(projection, _heads(parts.inputs[name], calls))
    for name in names:
        parameter = last_map(block.get_submodule(name), parts.inputs[name], _width(parts))
        if parameter is None:
            continue
        return _with_shared(block, name, parameter, raw, parts, linear)
    return Opened(reason="its output is not that of one linear map, nor of fused experts")


def _with_shared(block, name, projection, raw, parts, linear) -> Opened:
    """Routed experts, and beside them at most one that serves every token."""
    module, layout = projection
    routed = _flat(parts.outputs[name])
    if routed.shape != raw.shape:
        return Opened(reason="its routed experts do not give one row for each token")
    last = Projection(name, module, layout)
    if _spanned(raw, [routed]):
        return Opened(last, experts=name)
    for other in linear:
        if not other.startswith(f"{name}.") and _spanned(
            raw, [routed, _flat(parts.outputs[other])]
        ):
            return Opened(last, experts=name, shared=_linear_projection(block, other))
    return Opened(reason="its routed experts are not all that it adds")


def _spanned(raw: torch.Tensor, outputs: list[torch.Tensor]) -> bool:
    """Whether every row is a combination of the same rows of the outputs."""
    # on the CPU: the solver for deficient ranks is not there on CUDA
    raw = raw.cpu()
    design = torch.stack([o.double().cpu() for o in outputs], -1)  # [rows, d, n]
    scale = design.norm(dim=1, keepdim=True).clamp_min(1e-30)
    target = raw.double().unsqueeze(-1)
    fit = torch.linalg.lstsq(design / scale, target, driver="gelsd").solution
    return close((design / scale @ fit).squeeze(-1).to(raw.dtype), raw)


def _heads(given: tuple, calls: list[HeadSlices]) -> int | None:
    """The number of heads, if the input of the projection is their outputs one after the other.

    A factor for each channel (an output gate, a norm without its mean) leaves heads apart.
    """
    args, kwargs = given
    x = first_hidden(args, kwargs)
    for call in calls:
        if call.output is None:
            continue
        out = call.output.flatten(-2)
        if out.numel() != x.numel() or out.shape[-1] != x.shape[-1]:
            continue
        a, b = _flat(x).double(), _flat(out).double()
        large = (a.abs() > 1e-6 * a.abs().max()) & (b.abs() > 1e-6 * b.abs().max())
        if bool((a[large] * b[large] > 0).all()):
            return call.output.shape[-2]
    return None


def _linear_projection(block: nn.Module, name: str) -> Projection:
    module = block.get_submodule(name)
    layout = "in_out" if type(module).__name__ in IN_OUT else "out_in"
    return Projection(name, "weight", layout)


def _is_linear(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    named = isinstance(module, nn.Linear) or type(module).__name__ in IN_OUT
    return named or (
        isinstance(weight, torch.Tensor)
        and weight.dim() == 2
        and "linear" in type(module).__name__.lower()
    )


def _three_dimensional(module: nn.Module) -> bool:
    return any(p.dim() == 3 for p in module.parameters(recurse=False)) and "conv" not in (
        type(module).__name__.lower()
    )


def _flat(x: torch.Tensor) -> torch.Tensor:
    return x.reshape(-1, x.shape[-1])
