"""Norms with their scale frozen, so that a stream's parts stay separate behind them.

With the scale 1/σ of an RMSNorm or LayerNorm held at its value, the norm is an affine map:
`y = g·x/σ` or `y = g·(x − mean x)/σ + b`. Values stay what they are; only gradients (and `replay`)
see the affine map. Which of the two a module is, and its g and b, is found by probing it, and
checked against what it really gave.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from sinkscope.errors import Unsupported
from sinkscope.observe.registry import hooks
from sinkscope.observe.residual import is_norm

CLOSE = 1e-3  # relative; far above rounding, far below what another kind of norm would give


@dataclass
class Affine:
    """What a norm is when its scale is frozen: y = scale·gain·(x − mean x, if centred) + bias.

    gain, bias  [1, .., d], as of one row of its input; no bias is None
    """

    centred: bool
    gain: torch.Tensor
    bias: torch.Tensor | None

    def part(self, x: torch.Tensor) -> torch.Tensor:
        """The output on x [.., d] up to its scale, without the bias: [.., d]."""
        return self.gain * (x - x.mean(-1, keepdim=True) if self.centred else x)


class FrozenNorms:
    """Freezes every norm of the given modules while `active`; keeps the scales it met.

    Use `recording()` for a pass with true values; `replaying()` for a pass whose norms use the
    scales of the recorded one, call by call, whatever goes in.
    """

    def __init__(self, roots: list[nn.Module]) -> None:
        self.norms = [child for root in roots for child in root.modules() if is_norm(child)]
        self._forms: dict[tuple[nn.Module, torch.Size], Affine] = {}
        self._scales: dict[nn.Module, list[torch.Tensor]] = {}

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Norms give their true values; gradients see the affine map."""
        self._scales = {}
        with hooks([norm.register_forward_hook(self._record) for norm in self.norms]):
            yield

    @contextmanager
    def replaying(self) -> Iterator[None]:
        """Norms apply the recorded affine maps, in the recorded order of calls."""
        with hooks([norm.register_forward_hook(self._replay) for norm in self.norms]):
            yield

    def _record(self, module, args, output):
        if not _plain(args, output):
            return None
        x = args[0]
        form = self._form(module, x)
        with torch.no_grad():
            basis = form.part(x.float())
            target = output.float() if form.bias is None else output.float() - form.bias
            square = basis.square().sum(-1, keepdim=True).clamp_min(1e-30)
            scale = (target * basis).sum(-1, keepdim=True) / square
            error = (scale * basis - target).abs().max()
            tolerance = CLOSE if output.dtype == torch.float32 else 3e-2
            if not error <= tolerance * target.abs().max().clamp_min(1e-30):  # also NaN
                raise Unsupported(
                    f"{type(module).__name__} is neither an RMSNorm nor a LayerNorm, so its scale "
                    "cannot be frozen."
                )
        self._scales.setdefault(module, []).append(scale)
        linear = (scale * form.part(x.float())).to(output.dtype)
        if form.bias is not None and isinstance(getattr(module, "bias", None), nn.Parameter):
            linear = linear + module.bias  # so that its share shows in its gradient
        return linear + (output - linear).detach()

    def _replay(self, module, args, output):
        if not _plain(args, output):
            return None
        form = self._form(module, args[0])
        scale = self._scales[module].pop(0)
        linear = scale * form.part(args[0].float())
        return (linear if form.bias is None else linear + form.bias).to(output.dtype)

    def _form(self, module: nn.Module, x: torch.Tensor) -> Affine:
        key = (module, x.shape[1:])  # one qk-norm may serve queries and fewer keys
        if key not in self._forms:
            self._forms[key] = affine_form(module, x[:1].detach())
        return self._forms[key]


def _plain(args: tuple, output) -> bool:
    """One tensor in, one of the same shape out: not a gated norm."""
    return (
        len(args) == 1
        and isinstance(args[0], torch.Tensor)
        and isinstance(output, torch.Tensor)
        and args[0].shape == output.shape
    )


def affine_form(module: nn.Module, like: torch.Tensor) -> Affine:
    """The affine form, by the norm of zeros, ones and alternating ones like `like` [1, .., d]."""
    with torch.no_grad():
        ones = torch.ones_like(like)
        alternating = ones.clone()
        alternating[..., 1::2] = -1.0
        signs = alternating.float()
        if like.shape[-1] % 2:  # an odd width: keep the mean at zero
            alternating[..., -1] = 0.0
        bias = module.forward(torch.zeros_like(like)).float()
        if not bias.isfinite().all():  # without an epsilon; but for its bias a norm is odd
            both = module.forward(alternating).float(), module.forward(-alternating).float()
            bias = (both[0] + both[1]) / 2
        flat = module.forward(ones).float() - bias
        # RMS keeps ones; a LayerNorm centres them away, to nothing that it could divide
        centred = not bool(flat.abs().max() >= 1e-2)
        gain = (module.forward(alternating).float() - bias) * signs if centred else flat
        if centred and like.shape[-1] % 2:
            rolled = alternating.roll(1, -1)
            other = module.forward(rolled).float() - bias
            gain[..., -1] = (other / rolled.float().masked_fill(rolled == 0, 1.0))[..., -1]
    return Affine(centred, gain, bias if bool(bias.any()) else None)
