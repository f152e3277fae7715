"""The residual stream: read it at every block, and prove what each block adds to it.

Read point l is the input of block l; the last read point is the output of the last block (before
the final norm). What a sublayer adds is never assumed from a module's output, since many families
normalise or scale that output first: candidates are fitted, and `x_in + Σ contributions = x_out`
is asserted on real data.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from sinkscope.observe.attention import run_model
from sinkscope.observe.registry import evaluation, hooks
from sinkscope.observe.stream import first_hidden, hidden_of
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts

TOLERANCE = 1e-4  # relative to the largest entry of the residual stream, fp32
MAX_TOKENS = 64  # tokens used for the fit: far more equations than unknowns, at small cost


@dataclass(frozen=True)
class BlockForm:
    """How one block writes to its residual stream.

    kind    sum (x_out = x_in + Σ scale·output), inside (sublayers add the residual themselves)
    writes  (module path within the block, scale), one for each sublayer, in order
    error   largest |x_in + Σ contributions − x_out|, relative to the largest |x_out|
    sources module path of each sublayer itself, where a norm behind it is what is added
    inside  whether the output of each already contains the stream it was added to
    """

    kind: str
    writes: tuple[tuple[str, float], ...]
    error: float
    sources: tuple[str, ...]
    inside: tuple[bool, ...]


@dataclass(frozen=True)
class ResidualProof:
    """The residual identity of every block; `verified` only if it holds in all of them."""

    blocks: tuple[BlockForm | None, ...]

    @property
    def verified(self) -> bool:
        """Whether every block adds up within TOLERANCE."""
        return all(block is not None for block in self.blocks)

    @property
    def largest_error(self) -> float | None:
        """Largest relative error over the blocks that were resolved."""
        errors = [block.error for block in self.blocks if block is not None]
        return max(errors) if errors else None

    def reason(self) -> str:
        """One sentence for a failed proof."""
        failed = [i for i, block in enumerate(self.blocks) if block is None]
        return f"the contributions of block {failed[0]} do not add up to what it does"


def residual_hooks(
    subject: Subject, consume: Callable[[int, torch.Tensor], None]
) -> Callable[[], list[Any]]:
    """A hook factory for `observe`: consume(point, hidden [B, T, d]) at every read point."""
    blocks = subject.anatomy.modules(subject.model)

    def make() -> list[Any]:
        def before(index: int) -> Callable:
            def hook(module, args, kwargs):
                consume(index, first_hidden(args, kwargs))

            return hook

        def after(module, args, output):
            consume(len(blocks), hidden_of(output))

        handles = [
            block.register_forward_pre_hook(before(i), with_kwargs=True)
            for i, block in enumerate(blocks)
        ]
        handles.append(blocks[-1].register_forward_hook(after))
        return handles

    return make


@dataclass
class _Recording:
    """Inputs and outputs of a block and of the modules in it, in order of completion."""

    x_in: torch.Tensor | None = None
    x_out: torch.Tensor | None = None
    steps: list[tuple[str, torch.Tensor | None, torch.Tensor]] = field(default_factory=list)
    norms: set[str] = field(default_factory=set)


def prove_residual(subject: Subject, prompts: Prompts) -> ResidualProof:
    """Find how every block writes to the residual stream, and check it on these prompts.

    One pass; each block is resolved as it ends, so that only its own tensors are held.
    """
    blocks = subject.anatomy.modules(subject.model)
    forms: list[BlockForm | None] = [None] * len(blocks)
    if subject.anatomy.several_streams:
        return ResidualProof(tuple(forms))
    handles = [
        handle for index, block in enumerate(blocks) for handle in _record(index, block, forms)
    ]
    with torch.no_grad(), evaluation(subject.model), hooks(stir(blocks)), hooks(handles):
        run_model(subject, prompts, logits=False)
    return ResidualProof(tuple(forms))


def stir(blocks: list[nn.Module]) -> list[Any]:
    """Hooks that put noise where a linear map of a block gives nothing but zeros.

    A map that is switched off writes nothing, and nothing shows where it would write. How a block
    adds up does not depend on what is added, so it can be seen with noise in its place.
    """
    generator = torch.Generator().manual_seed(0)

    def hook(module, args, output):
        if not isinstance(output, torch.Tensor) or bool(output.any()):
            return None
        return torch.randn(output.shape, generator=generator).to(output)

    return [
        child.register_forward_hook(hook)
        for block in blocks
        for child in block.modules()
        if not list(child.children()) and any(p.dim() >= 2 for p in child.parameters())
    ]


def _record(index: int, block: nn.Module, forms: list[BlockForm | None]) -> list[Any]:
    recording = _Recording()

    def enter(module, args, kwargs):
        recording.x_in = first_hidden(args, kwargs).detach().clone()

    def leave(module, args, output):
        recording.x_out = hidden_of(output).detach().clone()
        forms[index] = _resolve(recording)
        recording.x_in, recording.x_out = None, None
        recording.steps.clear()

    def step(name: str) -> Callable:
        def hook(module, args, kwargs, output):
            shape = recording.x_in.shape if recording.x_in is not None else None
            out = _shaped(output, shape)
            if out is not None:
                given = next(
                    (v for v in (*args, *kwargs.values()) if _shaped(v, shape) is not None), None
                )
                recording.steps.append((name, _shaped(given, shape), out))

        return hook

    handles = []
    for name, child in _parts(block):
        if _is_norm(child):
            recording.norms.add(name)
        handles.append(child.register_forward_hook(step(name), with_kwargs=True))
    return [
        block.register_forward_pre_hook(enter, with_kwargs=True),
        block.register_forward_hook(leave),
        *handles,
    ]


def _parts(block: nn.Module) -> list[tuple[str, nn.Module]]:
    """Children of a block, and of children that are containers of several sublayers."""
    parts = []
    for name, child in block.named_children():
        if isinstance(child, nn.ModuleList):
            parts += [(f"{name}.{i}", item) for i, item in enumerate(child)]
        else:
            parts.append((name, child))
            inner = list(child.named_children())
            if any(_is_norm(grandchild) for _, grandchild in inner):
                parts += [(f"{name}.{inner_name}", item) for inner_name, item in inner]
    return parts


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower() and not list(module.children())


def _shaped(value: Any, shape: torch.Size | None) -> torch.Tensor | None:
    """The first tensor in a value that is a whole residual stream, in its shape."""
    if isinstance(value, (tuple, list)):
        value = value[0] if value else None
    if not isinstance(value, torch.Tensor) or shape is None or not value.is_floating_point():
        return None
    if value.numel() != shape.numel() or value.shape[-1] != shape[-1]:
        return None
    return value.detach().reshape(shape).clone()


def _resolve(recording: _Recording) -> BlockForm | None:
    x_in, x_out = recording.x_in, recording.x_out
    if x_in is None or x_out is None or x_in.shape != x_out.shape:
        return None
    chains = _chains(recording)
    return _as_sum(x_in, x_out, chains) or _as_inside(recording)


def _chains(recording: _Recording) -> list[list[tuple[str, torch.Tensor]]]:
    """For each sublayer its output, then what norms made of that output."""
    chains = []
    for at, (name, _, out) in enumerate(recording.steps):
        if name in recording.norms:
            continue
        chain, current = [(name, out)], out
        for later, given, result in recording.steps[at + 1 :]:
            if later in recording.norms and given is not None and torch.equal(given, current):
                chain.append((later, result))
                current = result
        chains.append(chain)
    return chains


def _as_sum(
    x_in: torch.Tensor, x_out: torch.Tensor, chains: list[list[tuple[str, torch.Tensor]]]
) -> BlockForm | None:
    """x_out = x_in + Σ scale·c, with one member c of each chain; extra chains may be left out."""
    target = _rows(x_out) - _rows(x_in)
    top = x_out.double().abs().max().item() or 1.0
    for count in range(1, min(len(chains), 4) + 1):
        for chosen in itertools.combinations(chains, count):
            for members in itertools.product(*chosen):
                design = torch.stack([_rows(c).flatten() for _, c in members], 1)
                scales = torch.linalg.lstsq(design, target.flatten()[:, None]).solution[:, 0]
                if not torch.isfinite(scales).all() or bool((scales.abs() < 1e-3).any()):
                    continue
                scales = _snap(scales)
                added = sum(s * _full(c) for s, (_, c) in zip(scales.tolist(), members))
                miss = (_full(x_in) + added - _full(x_out)).abs()
                if _explained(miss, x_in, x_out):
                    error = miss.max().item() / top
                    names = tuple((n, s) for (n, _), s in zip(members, scales.tolist()))
                    sources = tuple(chain[0][0] for chain in chosen)
                    return BlockForm("sum", names, error, sources, (False,) * count)
    return None


def _as_inside(recording: _Recording) -> BlockForm | None:
    """Sublayers that return the residual stream itself: the last one returns x_out, and a norm
    reads the stream between the two."""
    x_in, x_out = recording.x_in, recording.x_out
    assert x_in is not None
    assert x_out is not None
    sublayers = [(n, out) for n, _, out in recording.steps if n not in recording.norms]
    if len(sublayers) < 2 or not torch.equal(sublayers[-1][1], x_out):
        return None
    top = x_out.double().abs().max().item() or 1.0
    reads = [given for n, given, _ in recording.steps if n in recording.norms and given is not None]
    for name, out in sublayers[:-1]:
        for middle, holds_stream in ((out, True), (x_in + out, False)):
            if any(_close(read, middle) for read in reads):
                error = _full(middle) + (_full(x_out) - _full(middle)) - _full(x_out)
                names = (name, sublayers[-1][0])
                return BlockForm(
                    "inside",
                    tuple((n, 1.0) for n in names),
                    error.abs().max().item() / top,
                    names,
                    (holds_stream, True),
                )
    return None


def _close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return (a - b).abs().max().item() <= 1e-6 * (b.abs().max().item() or 1.0)


def _snap(scales: torch.Tensor) -> torch.Tensor:
    """A fitted scale within rounding of 1 is 1."""
    return torch.where((scales - 1).abs() < 1e-4, torch.ones_like(scales), scales)


def _explained(miss: torch.Tensor, x_in: torch.Tensor, x_out: torch.Tensor) -> bool:
    """Whether what is left over is rounding, token by token.

    Against each token's own stream and what was added to it: one huge token must not hide that a
    small write is missing elsewhere.
    """
    rounding, share = (1e-5, TOLERANCE) if x_out.dtype == torch.float32 else (1e-2, 2e-2)
    added = (_full(x_out) - _full(x_in)).abs().amax(-1)
    bound = rounding * _full(x_out).abs().amax(-1) + share * added
    return bool((miss.amax(-1) <= bound + 1e-30).all())


def _full(x: torch.Tensor) -> torch.Tensor:
    return x.double()


def _rows(x: torch.Tensor) -> torch.Tensor:
    return x.reshape(-1, x.shape[-1])[:MAX_TOKENS].double()
