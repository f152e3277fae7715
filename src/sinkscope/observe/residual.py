"""The residual stream: read it at every block, and prove what each block adds to it.

Point l is the input of block l (resid_pre); the last point is the output of the last block (before
the final norm). What a sublayer adds is never assumed from a module's output, since many families
normalise or scale that output first: it is fitted on real data (`observe.block_form`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sinkscope.observe.attention import run_model
from sinkscope.observe.block_form import BlockForm, Recording, resolve
from sinkscope.observe.registry import evaluation, hooks
from sinkscope.observe.stream import first_hidden, hidden_of
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts


@dataclass(frozen=True)
class ResidualProof:
    """The residual identity of every block; `verified` only if it holds in all of them."""

    blocks: tuple[BlockForm | None, ...]

    @property
    def verified(self) -> bool:
        """Whether every block adds up within rounding."""
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
    """A hook factory for `observe`: consume(point, hidden [B, T, d]) at every block input."""
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


def keep_streams(subject: Subject) -> tuple[dict[int, torch.Tensor], Callable[[], list[Any]]]:
    """A hook factory for `observe` that keeps whole streams, and where: point -> [B, T, d] fp32."""
    points: dict[int, torch.Tensor] = {}

    def keep(point: int, hidden: torch.Tensor) -> None:
        points[point] = hidden.detach().to("cpu", torch.float32, copy=True)

    return points, residual_hooks(subject, keep)


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
    with (
        torch.no_grad(),
        evaluation(subject.model),
        hooks(perturb_dead_linears(blocks)),
        hooks(handles),
    ):
        run_model(subject, prompts, logits=False)
    return ResidualProof(tuple(forms))


def perturb_dead_linears(blocks: list[nn.Module]) -> list[Any]:
    """Hooks that replace all-zero outputs of linear maps by noise, so that the fit is determined.

    A map with zero weights adds nothing to the residual stream, and nothing shows where it would
    add it. How a block adds up does not depend on what is added, so noise in its place shows it.
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
    recording = Recording()

    def enter(module, args, kwargs):
        recording.x_in = first_hidden(args, kwargs).detach().clone()

    def leave(module, args, output):
        recording.x_out = hidden_of(output).detach().clone()
        # what is not finite has no form; the end of the pass says where that begins
        forms[index] = resolve(recording) if torch.isfinite(recording.x_out).all() else None
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
        if is_norm(child):
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
            if any(is_norm(grandchild) for _, grandchild in inner):
                parts += [(f"{name}.{inner_name}", item) for inner_name, item in inner]
    return parts


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a norm, by its name; not one of several parts."""
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
