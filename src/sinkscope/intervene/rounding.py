"""Values as integers of a few bits hold them: symmetric, one scale for each group, by round-off."""

from __future__ import annotations

import torch

from sinkscope.errors import InputError

GROUPS = ("tensor", "channel", "token")


def rounded(x: torch.Tensor, bits: int, group: str, exact: tuple[int, ...] = ()) -> torch.Tensor:
    """x [B, .., T, d] rounded to 2^(bits−1) − 1 steps either side of zero.

    group  what shares a scale, which is its largest size over the number of steps: tensor (all
           tokens of a prompt), channel (one entry of all its tokens) or token (all entries of one)
    exact  positions that are left alone and do not set a scale

    Raises InputError for another group, and for fewer than two bits.
    """
    if group not in GROUPS:
        raise InputError(f"group {group!r} is not one of {', '.join(GROUPS)}.")
    if bits < 2:
        raise InputError("two bits are the fewest that have a sign and a size.")
    alone = torch.zeros(x.shape[-2], 1, dtype=torch.bool, device=x.device)
    alone[list(exact)] = True
    values = x.float()
    over = {"token": (-1,), "channel": (-2,), "tensor": tuple(range(1, x.dim()))}[group]
    largest = values.abs().masked_fill(alone, 0.0).amax(over, keepdim=True)
    step = (largest / (2 ** (bits - 1) - 1)).clamp_min(1e-30)
    return torch.where(alone, values, (values / step).round() * step).to(x.dtype)


def rounded_rows(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """A weight matrix [out, in] with a scale for each output, as weights are stored."""
    return rounded(weight.unsqueeze(0), bits, "token").squeeze(0)
