"""A bound on the Jacobian by a sum over paths, which truly bounds it where attention is frozen.

With attention maps held constant, a block is, position by position, a function of that position's
own stream x_j and of what its heads read there, o_j^h = Σ_i A^h_ji v_i^g(x_i):

    z_j = Φ_j(x_j, o_j^1, .., o_j^H)

(residual, norms before and after, output projection, gates, MLP or experts are all inside Φ). By
the chain rule, and since o_j depends on x_i through v_i alone,

    ∂z_j/∂x_i = δ_ij ∂Φ_j/∂x + Σ_h A^h_ji (∂Φ_j/∂o^h)(∂v_i^g/∂x)

and, norms being sub-multiplicative, ‖∂z_j/∂x_i‖₂ ≤ ā_ji with

    ā_ji = δ_ij ‖∂Φ_j/∂x‖₂ + Σ_h ‖∂Φ_j/∂o^h‖₂ A^h_ji ‖∂v_i^g/∂x‖₂

All factors are local: the exact spectral norms of Jacobians [d, d], [d, Dv] and [Dv, d] at this
input, found by vjp with no assumption on the family but that Φ and v act on each position by
itself (checked). The Jacobian of L blocks is the sum over all paths i = k_0, k_1, .., k_L = j of
products of such blocks; ‖AB‖_F ≤ ‖A‖₂‖B‖_F gives, with ā^0 taken in Frobenius norms,

    ‖∂x^L_j/∂x^0_i‖_F ≤ (ā^{L−1} ··· ā^1 ā^0_F)_ji

Barbero et al. (arXiv 2504.02732, theorem 3.2) have the same sum with one constant for everything
but attention, ā = Σ_h A^h + I/H.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from sinkscope.errors import Unsupported
from sinkscope.intervene.attend import Call
from sinkscope.mixing.conditions import check_subject
from sinkscope.observe.attention import follow_blocks, run_model
from sinkscope.observe.parity import token_prompts
from sinkscope.observe.registry import attention_functions, evaluation, hooks
from sinkscope.observe.stream import first_hidden, hidden_of, put_hidden
from sinkscope.observe.tap import OUTSIDE, own_eager, share_with_learned
from sinkscope.subject.load import Subject

CLOSE = 1e-4  # relative: output of attention against its map times its values


@dataclass
class BlockFactors:
    """The local factors of one block.

    carry, carry_f   [T] ‖∂Φ_j/∂x‖, spectral and Frobenius
    read             [H, T] ‖∂Φ_j/∂o^h‖, spectral
    value, value_f   [H, T] ‖∂v_i/∂x‖ of the head's values, spectral and Frobenius
    map              [H, T, T] attention (query, key); empty in a block without attention
    """

    carry: torch.Tensor
    carry_f: torch.Tensor
    read: torch.Tensor
    value: torch.Tensor
    value_f: torch.Tensor
    map: torch.Tensor

    def bound(self, frobenius: bool = False) -> torch.Tensor:
        """[T, T] ā of this block."""
        carry, value = (self.carry_f, self.value_f) if frobenius else (self.carry, self.value)
        through = torch.einsum("hj,hji,hi->ji", self.read, self.map, value)
        return torch.diag(carry) + through


@dataclass
class PathBound:
    """Bounds on ‖∂x^L_j/∂x^0_i‖_F with frozen attention: bound [T, T] (j, i), factors by block."""

    bound: np.ndarray
    factors: list[BlockFactors]


@dataclass
class _Open:
    """The block that is running: its leaf, its attention call, its values and their graph."""

    block: int = OUTSIDE
    x: torch.Tensor | None = None
    value: torch.Tensor | None = None
    o: torch.Tensor | None = None
    map: torch.Tensor | None = None
    found: list[BlockFactors] = field(default_factory=list)

    def attention(self, module, query, key, value, attention_mask, **kwargs):
        """The registered function: reads the map, and cuts the graph at the heads' output."""
        if self.block == OUTSIDE or query.shape[2] != key.shape[2]:
            return own_eager(module, query, key, value, attention_mask, kwargs)[0], None
        if self.value is not None:
            raise Unsupported(f"block {self.block} calls attention more than once.")
        call = Call(module, query, key, value, attention_mask, kwargs)
        with torch.no_grad():
            out, weights = call.own()
            if kwargs.get("s_aux") is not None:
                weights, _ = share_with_learned(weights, call.scores(), value, kwargs["s_aux"])
            weights = weights.to(value.dtype)
            again = (weights @ call.heads(value)).transpose(1, 2)
            if (out - again).abs().max() > CLOSE * (out.abs().max() + 1e-30):
                raise Unsupported(
                    f"the output of attention in block {self.block} is not its map times its "
                    "values, so no path can be bounded there."
                )
        self.value, self.map = value, weights[0]
        self.o = out.detach().requires_grad_()
        return self.o, None


def path_bound(subject: Subject, ids: torch.Tensor) -> PathBound:
    """Bound the frozen-attention Jacobian of one prompt ids [T]. For small models: every block
    costs d + G·Dv products.

    Raises Unsupported where a block is not a function of each position and of what it reads there.
    """
    check_subject(subject)
    blocks = subject.anatomy.modules(subject.model)
    state = _Open()

    def enter(module, args, kwargs):
        hidden = first_hidden(args, kwargs)
        state.x = leaf = hidden.detach().clone().requires_grad_()
        state.value = state.o = state.map = None
        return put_hidden(args, kwargs, leaf)

    def leave(module, args, output):
        state.found.append(_factors(state, hidden_of(output)))

    with ExitStack() as stack:
        stack.enter_context(evaluation(subject.model))
        handles: list[Any] = [
            handle
            for block in blocks
            for handle in (
                block.register_forward_pre_hook(enter, with_kwargs=True),
                block.register_forward_hook(leave),
            )
        ]
        stack.enter_context(hooks(handles))
        stack.enter_context(hooks(follow_blocks(state, blocks)))  # type: ignore[arg-type]
        stack.enter_context(attention_functions(subject.model, state.attention, "eager"))
        stack.enter_context(torch.enable_grad())
        run_model(subject, token_prompts(ids.unsqueeze(0)), logits=False)
    product = state.found[0].bound(frobenius=True)
    for factors in state.found[1:]:
        product = factors.bound() @ product
    return PathBound(product.cpu().numpy(), state.found)


def _factors(state: _Open, z: torch.Tensor) -> BlockFactors:
    """The local factors of the block that has just run."""
    x, o, value = state.x, state.o, state.value
    assert x is not None
    width = z.shape[-1]
    inputs = [x] if o is None else [x, o]
    _check_local(z, inputs, state.block)
    rows: list[list[torch.Tensor]] = [[] for _ in inputs]
    for k in range(width):
        cotangent = torch.zeros_like(z)
        cotangent[..., k] = 1.0
        for kept, found in zip(rows, _grad(z, inputs, cotangent)):
            kept.append(found[0])
    carried = torch.stack(rows[0], 1)  # [T, d, d]
    carry, carry_f = _spectral(carried), carried.flatten(1).norm(dim=1)
    if o is None or value is None or state.map is None:
        none = carry.new_zeros(0, len(carry))
        return BlockFactors(
            carry, carry_f, none, none, none, carry.new_zeros(0, len(carry), len(carry))
        )
    read = _spectral(torch.stack(rows[1], 1).permute(2, 0, 1, 3))  # [T, d, H, Dv] -> [H, T]
    values, values_f = _value_norms(x, value, state.block)
    repeat = state.map.shape[0] // values.shape[0]
    return BlockFactors(
        carry,
        carry_f,
        read,
        values.repeat_interleave(repeat, 0),
        values_f.repeat_interleave(repeat, 0),
        state.map,
    )


def _value_norms(
    x: torch.Tensor, value: torch.Tensor, block: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """[G, T] norms of ∂v_i/∂x_i, spectral and Frobenius."""
    _check_local(value.transpose(1, 2), [x], block)
    groups = []
    for g in range(value.shape[1]):
        rows = []
        for c in range(value.shape[3]):
            cotangent = torch.zeros_like(value)
            cotangent[:, g, :, c] = 1.0
            rows.append(_grad(value, [x], cotangent)[0][0])
        groups.append(torch.stack(rows, 1))  # [T, Dv, d]
    found = torch.stack(groups)
    return _spectral(found), found.flatten(2).norm(dim=2)


def _check_local(y: torch.Tensor, inputs: list[torch.Tensor], block: int) -> None:
    """Raise Unsupported where y [1, T, ...] at one position depends on inputs at another."""
    at = y.shape[1] - 1
    cotangent = torch.zeros_like(y)
    cotangent[:, at] = torch.randn(y[:, at].shape, generator=torch.Generator().manual_seed(0)).to(y)
    for found in _grad(y, inputs, cotangent):
        if bool(found[:, :at].any()):
            raise Unsupported(
                f"block {block} mixes positions outside attention, so no path can be bounded there."
            )


def _grad(y: torch.Tensor, inputs: list[torch.Tensor], cotangent: torch.Tensor):
    return torch.autograd.grad(
        y, inputs, cotangent, retain_graph=True, materialize_grads=True, allow_unused=True
    )


def _spectral(matrices: torch.Tensor) -> torch.Tensor:
    wide = matrices.float() if matrices.dtype.itemsize < 4 else matrices  # half precision has none
    return torch.linalg.matrix_norm(wide, ord=2)
