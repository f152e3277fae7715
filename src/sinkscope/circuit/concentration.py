"""Where along the blocks the sink direction is written, added to later, and taken away again."""

from __future__ import annotations

import numpy as np

from sinkscope.schema.trace import LaterWrite, StepDown

FIRST = (1, 2, 3, 4)  # k of C_k
LATER = 0.1  # a later block amplifies again if it writes at least this share of the total
NO_RISE = 1e-6  # of the log norm ratio


def concentration(block_writes: np.ndarray) -> np.ndarray:
    """C_k = Σ_{l<k} max(0, w_l) / Σ_l max(0, w_l), k = 1..4: [L] → [4].

    block_writes: w_l = ⟨Δ^l_0, u⟩ of the blocks that were looked at. NaN where none writes along u.
    """
    positive = np.clip(np.asarray(block_writes, float), 0.0, None)
    total = positive.sum()
    return np.array([positive[:k].sum() / total if total > 0 else np.nan for k in FIRST])


def log_norm_share(log_ratio: np.ndarray) -> np.ndarray:
    """(log r_k − log r_0) / (max_l log r_l − log r_0), k = 1..4, of log r at x0..xL: [L+1] → [4].

    NaN where the norm never rises, and for points that were not looked at.
    """
    rise = log_ratio.max() - log_ratio[0]
    points = len(log_ratio)
    return np.array(
        [
            (log_ratio[k] - log_ratio[0]) / rise if rise > NO_RISE and k < points else np.nan
            for k in FIRST
        ]
    )


def by_number(shares: np.ndarray) -> dict[str, float]:
    """Shares [4] under the number k of their first blocks; without those that are NaN."""
    return {str(k): float(share) for k, share in zip(FIRST, shares) if np.isfinite(share)}


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
