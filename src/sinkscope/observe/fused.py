"""Fused attention that also gives the log-sum-exp of each row.

torch returns the log-sum-exp only from private operators: one on the CPU, three on CUDA, of which
the one is taken that torch itself takes for such a call, so that reading costs no slower kernel.
Each is checked once against plain arithmetic on the device and dtype at hand (`operator_problem`).
Where the one that serves every call fails the check, `fused_works` says so, and callers use the
chunked reference and record it.
"""

from __future__ import annotations

from functools import cache

import torch
from torch.nn.attention import SDPBackend
from torch.nn.functional import pad

ALIGN = 8  # the CUDA kernels want head sizes in multiples of eight
ALIGN_BIAS = 16  # and rows of a bias that begin at multiples of sixteen entries


def fused_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    causal: bool,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention output [B, H, T, Dv] and log-sum-exp [B, H, T] in fp32.

    q [B, H, T, D]; k [B, G, K, D]; v [B, G, K, Dv]; mask boolean (True = visible) or None.
    Causal queries are those of the last T keys: where there are more keys, the earlier ones, which
    every query sees, are a call of their own, so that no mask is built.
    Value heads of another size than the query heads (MLA) are padded with zeros, which changes
    neither scores nor output. A row with nothing visible gives an unspecified row.
    """
    before = k.shape[2] - q.shape[2]
    if causal and mask is None and before:
        earlier = fused_attention(q, k[:, :, :before], v[:, :, :before], None, False, scale)
        own = fused_attention(q, k[:, :, before:], v[:, :, before:], None, True, scale)
        return _over_both(earlier, own)
    size = max(q.shape[-1], v.shape[-1])
    values = v.shape[-1]
    q, k, v = (x if x.shape[-1] == size else pad(x, (0, size - x.shape[-1])) for x in (q, k, v))
    operator = fused_operator(q, k, v, mask, causal, scale)
    out, lse = OPERATORS[operator](q, k, v, mask, causal, scale)
    return out[..., :values], lse


def _over_both(
    a: tuple[torch.Tensor, torch.Tensor], b: tuple[torch.Tensor, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output and log-sum-exp over two sets of keys, from those over each."""
    lse = torch.logaddexp(a[1], b[1])
    one, other = (out.float() * (part - lse).exp().unsqueeze(-1) for out, part in (a, b))
    return (one + other).to(a[0].dtype), lse


def general_operator(device: str) -> str:
    """The operator that serves every call on a kind of device."""
    return "cpu" if device == "cpu" else "efficient"


def fused_operator(q, k, v, mask, causal, scale) -> str:
    """Name of the operator for a call: torch's own choice where that gives a right log-sum-exp."""
    general = general_operator(q.device.type)
    if general == "cpu" or mask is not None:
        return general
    grouped = q.shape[1] != k.shape[1]
    size = _aligned(q.shape[-1])
    # asked of the shapes that the operator will get
    q, k, v = (pad(x, (0, size - x.shape[-1])) if x.shape[-1] != size else x for x in (q, k, v))
    choice = torch._fused_sdp_choice(q, k, v, None, 0.0, causal, scale=scale, enable_gqa=grouped)
    name = TORCH_CHOICES.get(choice, general)
    return general if operator_problem(name, q.device.type, q.dtype) else name


def _cpu(q, k, v, mask, causal, scale):
    bias = None if mask is None else _additive(mask, q.dtype)
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q, k, v, 0.0, causal and mask is None, attn_mask=bias, scale=scale
    )


def _flash(q, k, v, mask, causal, scale):
    """Half precision without a mask; groups of heads need no copies."""
    size = q.shape[-1]
    q, k, v = (_align(x) for x in (q, k, v))
    out, lse, *_ = torch.ops.aten._scaled_dot_product_flash_attention(
        q, k, v, 0.0, causal, False, scale=scale
    )
    return out[..., :size], lse[:, :, : q.shape[2]]


def _cudnn(q, k, v, mask, causal, scale):
    """As `_flash`, by cuDNN."""
    size = q.shape[-1]
    q, k, v = (_align(x) for x in (q, k, v))
    out, lse, *_ = torch.ops.aten._scaled_dot_product_cudnn_attention(
        q, k, v, None, True, 0.0, causal, False, scale=scale
    )
    return out[..., :size], lse.reshape(q.shape[:3])  # lse may come as a column


def _efficient(q, k, v, mask, causal, scale):
    """Any precision, any mask; groups of heads are copied out."""
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    size = q.shape[-1]
    q, k, v = (_align(x) for x in (q, k, v))
    bias = None
    if mask is not None:
        bias = _additive(mask, q.dtype).expand(q.shape[0], q.shape[1], -1, -1)
    out, lse, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(
        q, k, v, bias, True, 0.0, causal and mask is None, scale=scale
    )
    return out[..., :size], lse[:, :, : q.shape[2]]  # lse comes padded to the kernel's block


OPERATORS = {"cpu": _cpu, "flash": _flash, "cudnn": _cudnn, "efficient": _efficient}
TORCH_CHOICES = {
    SDPBackend.FLASH_ATTENTION.value: "flash",
    SDPBackend.CUDNN_ATTENTION.value: "cudnn",
}
FASTER = tuple(TORCH_CHOICES.values())  # where they are right and serve the call


def _aligned(size: int) -> int:
    return -(-size // ALIGN) * ALIGN


def _align(x: torch.Tensor) -> torch.Tensor:
    missing = _aligned(x.shape[-1]) - x.shape[-1]
    return pad(x, (0, missing)) if missing else x


def _additive(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    keys = mask.shape[-1]
    row = -(-keys // ALIGN_BIAS) * ALIGN_BIAS
    bias = torch.zeros(*mask.shape[:-1], row, dtype=dtype, device=mask.device)[..., :keys]
    return bias.masked_fill_(~mask, torch.finfo(dtype).min)


def split_summands(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Split fp32 numbers into summands of `dtype` that add up to them: [...] -> [..., n].

    One column in fp32; three in half precision (8 or 11 bits each, against 24).
    """
    if dtype == torch.float32:
        return x.unsqueeze(-1)
    parts, rest = [], x.float()
    for _ in range(3):
        part = rest.to(dtype)
        parts.append(part)
        rest = rest - part.float()
    return torch.stack(parts, -1)


def fused_works(device: str, dtype: torch.dtype) -> str | None:
    """None where fused attention is right here; else one sentence saying what went wrong."""
    if device not in ("cpu", "cuda"):
        return f"no fused attention with log-sum-exp on {device}"
    return operator_problem(general_operator(device), device, dtype)


@cache
def operator_problem(name: str, device: str, dtype: torch.dtype) -> str | None:
    """None where one of OPERATORS is right; else one sentence saying what went wrong.

    Checks output and log-sum-exp against plain fp32 arithmetic, with grouped heads and, where the
    operator takes one, a mask. The length is no multiple of what kernels like.
    """
    length = 43
    generator = torch.Generator().manual_seed(0)

    def draw(heads: int) -> torch.Tensor:
        return torch.randn(2, heads, length, 16, generator=generator).to(device, dtype)

    q, k, v = draw(4), draw(2), draw(2)
    full = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    window = (full & full.triu(-9))[None, None]
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    for mask in (None, window) if name == general_operator(device) else (None,):
        try:
            out, lse = OPERATORS[name](q, k, v, mask, mask is None, 0.25)
        except (RuntimeError, AttributeError, TypeError) as error:
            return f"the fused operator failed ({str(error).splitlines()[0]})"
        visible = full if mask is None else mask[0, 0]
        scores = 0.25 * q.float() @ k.float().repeat_interleave(2, 1).transpose(-1, -2)
        scores = scores.masked_fill(~visible, -torch.inf)
        right = scores.softmax(-1) @ v.float().repeat_interleave(2, 1)
        worst = max(
            (out.float() - right).abs().max().item(),
            (lse - scores.logsumexp(-1)).abs().max().item(),
        )
        if not worst < tolerance:
            return f"the fused operator is off by {worst:.1e}"
    return None
