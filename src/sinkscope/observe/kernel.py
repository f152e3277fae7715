"""A Triton kernel for the attention that each key receives, in half precision on CUDA.

    received_j = Σ_i exp(scale · q_i·k_j − lse_i)      over the queries i ≥ j

One product per pair of query and key, where a reversed pass of fused attention
(`columns.reversed_key_sums`) takes two and wider heads. Keys stay in place, queries stream by;
sums, and the log-sum-exp that is taken off the scores, are fp32. Groups of heads share their keys.
"""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl

BLOCK = 128  # keys held, and queries taken at a time
LOG2E = 1.4426950408889634


@triton.jit
def _received(
    q_at, k_at, lse_at, out_at,
    q_batch, q_head, q_row, k_batch, k_head, k_row,
    length, padded, scale,
    heads, groups,
    SIZE: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(0) * BLOCK
    batch, head = tl.program_id(1) // heads, tl.program_id(1) % heads
    # offsets of long sequences outgrow 32 bits
    q_at += batch.to(tl.int64) * q_batch + head.to(tl.int64) * q_head
    k_at += batch.to(tl.int64) * k_batch + (head // groups).to(tl.int64) * k_head
    lse_at += tl.program_id(1).to(tl.int64) * padded
    keys = first + tl.arange(0, BLOCK)
    channels = tl.arange(0, WIDE)
    inside = channels < SIZE
    k = tl.load(
        k_at + keys[:, None].to(tl.int64) * k_row + channels[None, :],
        mask=(keys[:, None] < length) & inside[None, :],
        other=0.0,
    )
    total = tl.zeros([BLOCK], tl.float32)
    # the block on the diagonal, where some queries come before some keys
    weights = _weights(
        q_at, lse_at, k, first, channels, inside, q_row, length, scale, BLOCK
    )  # fmt: skip
    queries = first + tl.arange(0, BLOCK)
    total += tl.sum(tl.where(queries[None, :] >= keys[:, None], weights, 0.0), 1)
    for start in range(first + BLOCK, length, BLOCK):
        weights = _weights(
            q_at, lse_at, k, start, channels, inside, q_row, length, scale, BLOCK
        )  # fmt: skip
        total += tl.sum(weights, 1)
    tl.store(out_at + tl.program_id(1).to(tl.int64) * length + keys, total, mask=keys < length)


@triton.jit
def _weights(q_at, lse_at, k, start, channels, inside, q_row, length, scale, BLOCK: tl.constexpr):
    """Attention of BLOCK queries from `start` on to the keys at hand: [keys, queries]."""
    queries = start + tl.arange(0, BLOCK)
    q = tl.load(
        q_at + queries[None, :].to(tl.int64) * q_row + channels[:, None],
        mask=(queries[None, :] < length) & inside[:, None],
        other=0.0,
    )
    lse = tl.load(lse_at + queries)  # padded with infinity, so that no query counts twice
    return tl.exp2(tl.dot(k, q) * scale - lse[None, :])


def received(
    q: torch.Tensor, k: torch.Tensor, lse: torch.Tensor, valid: torch.Tensor, scale: float
) -> torch.Tensor:
    """Attention each key receives under plain causality: [B, H, T], fp32.

    q [B, H, T, D] and k [B, G, T, D] in half precision; lse [B, H, T]; valid [B, T] queries that
    count.
    """
    batch, heads, length, size = q.shape
    q, k = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k))
    padded = -(-length // BLOCK) * BLOCK
    logs = lse.new_full((batch, heads, padded), torch.inf)
    logs[:, :, :length] = torch.where(valid.unsqueeze(1), lse * LOG2E, torch.inf)
    out = lse.new_empty(batch, heads, length)
    wide = max(16, triton.next_power_of_2(size))
    with torch.cuda.device_of(q):  # Triton launches on the current device
        _received[(padded // BLOCK, batch * heads)](
            q, k, logs, out,
            *q.stride()[:3], *k.stride()[:3],
            length, padded, scale * LOG2E,
            heads, heads // k.shape[1],
            SIZE=size, WIDE=wide, BLOCK=BLOCK,
            num_warps=8, num_stages=3 if wide <= 128 else 2,
        )  # fmt: skip
    return out


@cache
def kernel_problem(device: str, dtype: torch.dtype) -> str | None:
    """None where the kernel is right here; else one sentence saying what went wrong."""
    generator = torch.Generator().manual_seed(0)
    length, scale = 150, 0.25

    def draw(heads: int) -> torch.Tensor:
        return torch.randn(2, heads, length, 24, generator=generator).to(device, dtype)

    q, k = draw(4), draw(2)
    valid = torch.ones(2, length, dtype=torch.bool, device=device)
    valid[1, -3:] = False
    scores = scale * q.float() @ k.float().repeat_interleave(2, 1).transpose(-1, -2)
    hidden = ~torch.ones(length, length, dtype=torch.bool, device=device).tril()
    scores = scores.masked_fill(hidden, -torch.inf)
    right = (scores.softmax(-1) * valid[:, None, :, None]).sum(2)
    try:
        found = received(q, k, scores.logsumexp(-1), valid, scale)
    except Exception as error:  # noqa: BLE001 - compilers raise what they like
        return f"the kernel failed ({str(error).splitlines()[0]})"
    worst = ((found - right).abs() / right.clamp_min(1.0)).max().item()
    return None if worst < 1e-3 else f"the kernel is off by {worst:.1e}"
