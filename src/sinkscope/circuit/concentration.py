"""Where along the blocks the sink direction is written, added to later, and taken away again."""

from __future__ import annotations

import numpy as np

from sinkscope.schema.trace import LaterWrite, StepDown

FIRST = 4  # C_1 .. C_4
LATER = 0.1  # a later block amplifies again if it writes at least this share of the total


def concentration(block_writes: np.ndarray) -> dict[str, float]:
    """C_k = Σ_{l<k} max(0, w_l) / Σ_l max(0, w_l), k = 1..4; empty where nothing is written.

    block_writes [L]: w_l = ⟨Δ^l_0, u⟩ of block l.
    """
    positive = np.clip(block_writes, 0.0, None)
    total = positive.sum()
    if total <= 0:
        return {}
    return {str(k): float(positive[:k].sum() / total) for k in range(1, FIRST + 1)}


def log_norm_share(log_ratio: np.ndarray) -> dict[str, float]:
    """(log r_k − log r_0) / (max_l log r_l − log r_0), k = 1..4, of log r [L+1] at x0..xL.

    Empty where nothing rises.
    """
    rise = log_ratio.max() - log_ratio[0]
    if rise <= 1e-6:
        return {}
    last = len(log_ratio) - 1
    return {
        str(k): float((log_ratio[min(k, last)] - log_ratio[0]) / rise) for k in range(1, FIRST + 1)
    }


def later_amplification(block_writes: np.ndarray, emergence: int) -> list[LaterWrite]:
    """Blocks after l* that write at least a tenth of the positive write: [{block, share}]."""
    positive = np.clip(block_writes, 0.0, None)
    total = positive.sum()
    return [
        {"block": int(block), "share": float(positive[block] / total)}
        for block in range(emergence + 1, len(positive))
        if total > 0 and positive[block] >= LATER * total
    ]


def step_down(
    log_ratio: np.ndarray, block_writes: np.ndarray, plateau: tuple[int, int]
) -> StepDown | None:
    """Where the norm is taken away again: the block behind the plateau that writes most against u.

    log_ratio [L+1] log r at x0..xL; block_writes [L] of each block along u; plateau: its first and
    last point. None where it lasts to the end.
    """
    last = plateau[1]
    if last >= len(log_ratio) - 1:
        return None
    block = last + int(np.argmin(block_writes[last:]))
    return {
        "block": block,
        "write": float(block_writes[block]),
        "norm_ratio_before": float(np.exp(log_ratio[block])),
        "norm_ratio_after": float(np.exp(log_ratio[block + 1])),
    }
