"""Fused attention that also gives the log-sum-exp of each row.

torch returns the log-sum-exp only from private operators, one for each kind of device. Each is
checked once against plain arithmetic on the device and dtype at hand (`fused_works`); where the
check fails, callers use the chunked reference and record it.
"""

from __future__ import annotations

from functools import cache

import torch
from torch.nn.functional import pad

ALIGN = 8  # the CUDA kernels want head sizes in multiples of eight


def fused_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    causal: bool,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention output [B, H, T, Dv] and log-sum-exp [B, H, T] in fp32.

    q [B, H, T, D]; k [B, G, T, D]; v [B, G, T, Dv]; mask boolean (True = visible) or None.
    Value heads of another size than the query heads (MLA) are padded with zeros, which changes
    neither scores nor output. A row with nothing visible gives an unspecified row.
    """
    size = max(q.shape[-1], v.shape[-1])
    values = v.shape[-1]
    q, k, v = (x if x.shape[-1] == size else pad(x, (0, size - x.shape[-1])) for x in (q, k, v))
    if q.device.type == "cpu":
        out, lse = _cpu(q, k, v, mask, causal, scale)
    else:
        out, lse = _cuda(q, k, v, mask, causal, scale)
    return out[..., :values], lse


def _cpu(q, k, v, mask, causal, scale):
    bias = None if mask is None else _additive(mask, q.dtype)
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q, k, v, 0.0, causal and mask is None, attn_mask=bias, scale=scale
    )


def _cuda(q, k, v, mask, causal, scale):
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    size = q.shape[-1]
    if size % ALIGN:
        q, k, v = (pad(x, (0, ALIGN - size % ALIGN)) for x in (q, k, v))
    bias = None
    if mask is not None:
        bias = _additive(mask, q.dtype).expand(q.shape[0], q.shape[1], -1, -1)
    out, lse, *_ = torch.ops.aten._scaled_dot_product_efficient_attention(
        q, k, v, bias, True, 0.0, causal and mask is None, scale=scale
    )
    return out[..., :size], lse[:, :, : q.shape[2]]  # lse comes padded to the kernel's block


def _additive(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    bias = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
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


@cache
def fused_works(device: str, dtype: torch.dtype) -> str | None:
    """None where the fused operator is right here; else one sentence saying what went wrong.

    Checks output and log-sum-exp against plain fp32 arithmetic, with grouped heads and a mask.
    """
    if device not in ("cpu", "cuda"):
        return f"no fused attention with log-sum-exp on {device}"
    generator = torch.Generator().manual_seed(0)

    def draw(heads: int) -> torch.Tensor:
        return torch.randn(2, heads, 40, 16, generator=generator).to(device, dtype)

    q, k, v = draw(4), draw(2), draw(2)
    full = torch.ones(40, 40, dtype=torch.bool, device=device).tril()
    window = (full & full.triu(-9))[None, None]
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    for mask in (None, window):
        try:
            out, lse = fused_attention(q, k, v, mask, mask is None, 0.25)
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
