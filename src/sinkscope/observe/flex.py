"""Windows and soft-capped scores of long texts on CUDA, by PyTorch's flex attention.

    out_i = Σ_j A_ij v_j,   lse_i = log Σ_j exp s_ij,   received_j = Σ_i exp(s_ij − lse_i)

over the visible pairs of query i and key j. It is compiled for the scores and the mask at hand,
holds no map, and skips blocks of the map in which nothing is visible. What keys receive comes from
the same call with queries and keys swapped and lse_i taken off the scores. Not compiled it would
hold the map; where it is not, or is wrong (`flex_problem`), fused or chunked attention serves.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch.nn.functional import pad

from sinkscope.observe.scores import Scores, capped

LONG = 4096  # queries from which on a compilation pays
NARROWEST = 16  # of a head; its kernels want powers of two

Pairs = Callable[..., torch.Tensor]  # batch, head, query, key -> whether it is visible


def by_flex(s: Scores) -> bool:
    """Whether flex attention serves: a window or a cap, in a long text, on CUDA."""
    special = s.mask is not None or s.softcap is not None
    if not special or s.q.shape[2] < LONG or s.q.requires_grad:
        return False
    return flex_problem(s.q.device.type, s.q.dtype) is None


def flex_attend(s: Scores, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention output [B, H, T, Dv] and log-sum-exp [B, H, T] in fp32; values [B, G, K, Dv]."""
    cap = s.softcap

    def score(product, b, h, query, key):
        return capped(product, cap)

    return _call(s.q, s.k, values, _visible(s), s.scale, score)


def flex_received(s: Scores, lse: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Attention each key receives from the valid queries [B, T]: [B, H, K], fp32; lse [B, H, T]."""
    seen, cap = _visible(s), s.softcap

    def less_lse(product, b, h, key, query):
        return capped(product, cap) - lse[b, h, query]

    def pairs(b, h, key, query):
        return seen(b, h, query, key) & valid[b, query]

    _, log_sums = _call(s.expand(s.k), s.q, s.q, pairs, s.scale, less_lse)
    return log_sums.exp()


def _visible(s: Scores) -> Pairs:
    mask, before = s.mask, s.before
    if mask is not None:
        if mask.shape[0] == 1:
            return lambda b, h, i, j: mask[0, 0, i, j]
        return lambda b, h, i, j: mask[b, 0, i, j]
    if s.causal:
        return lambda b, h, i, j: j <= i + before
    return lambda b, h, i, j: j >= 0


def _call(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, pairs: Pairs, scale: float, score: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    from torch.nn.attention import flex_attention as flex

    size = q.shape[0], None, q.shape[2], k.shape[2]
    blocks = flex.create_block_mask(pairs, *size, device=str(q.device))
    grouped, width = q.shape[1] != k.shape[1], v.shape[-1]
    q, k, v = (_widened(x) for x in (q, k, v))
    newer = hasattr(flex, "AuxRequest")  # before torch 2.9 the log-sum-exp was asked for by name
    asked = {"return_aux": flex.AuxRequest(lse=True)} if newer else {"return_lse": True}
    out, aux = _compiled(q.device.type)(
        q, k, v, score_mod=score, block_mask=blocks, scale=scale, enable_gqa=grouped, **asked
    )
    return out[..., :width], (aux.lse if newer else aux).float()


def _widened(x: torch.Tensor) -> torch.Tensor:
    """Heads of the next power of two: zeros change no product."""
    size = max(NARROWEST, 1 << (x.shape[-1] - 1).bit_length())
    return x if x.shape[-1] == size else pad(x, (0, size - x.shape[-1]))


@cache
def _compiled(device: str) -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True) if device == "cuda" else flex_attention


@cache
def flex_problem(device: str, dtype: torch.dtype) -> str | None:
    """None where flex attention is compiled and right; else one sentence saying why not.

    Checked against plain fp32 arithmetic with a window, a cap, grouped heads, and a length and a
    head size that its blocks do not divide.
    """
    if device != "cuda":
        return f"flex attention is not compiled on {device}"
    try:
        worst = _error(device, dtype)
    except Exception as error:  # noqa: BLE001 - compilers raise what they like
        return f"flex attention failed ({str(error).splitlines()[0]})"
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    return None if worst < tolerance else f"flex attention is off by {worst:.1e}"


def _error(device: str, dtype: torch.dtype) -> float:
    """Largest error of output, log-sum-exp and received attention."""
    generator = torch.Generator().manual_seed(0)
    length, scale = 300, 0.25

    def draw(heads: int) -> torch.Tensor:
        return torch.randn(2, heads, length, 24, generator=generator).to(device, dtype)

    q, k, v = draw(4), draw(2), draw(2)
    window = torch.ones(length, length, dtype=torch.bool, device=device).tril().triu(-140)
    valid = torch.ones(2, length, dtype=torch.bool, device=device)
    valid[1, -3:] = False
    s = Scores(q, k, window[None, None], False, scale, softcap=2.0)
    keys, values = s.expand(k).float(), s.expand(v).float()
    scores = capped(scale * q.float() @ keys.transpose(-1, -2), s.softcap)
    scores = scores.masked_fill(~window, -torch.inf)
    shares, right_lse = scores.softmax(-1), scores.logsumexp(-1)
    out, lse = flex_attend(s, v)
    right_sums = (shares * valid[:, None, :, None]).sum(2)
    unit = right_sums.clamp_min(1)
    pairs = (
        (out.float(), shares @ values),
        (lse, right_lse),
        (flex_received(s, right_lse, valid) / unit, right_sums / unit),
    )
    return max((one - other).abs().max().item() for one, other in pairs)
