"""Is there a sink at position zero: the one rule, its thresholds and their reasons."""

from __future__ import annotations

import numpy as np

from sinkscope.detect.attention import SINK, AttentionStats
from sinkscope.detect.nulls import random_target_p99
from sinkscope.stats import nan_mean

# A head sinks if its late queries put more than SINK on P0: the threshold of Gu et al.
# Three times uniform keeps very short prompts, where uniform attention is itself large, from
# passing: at T = 8 uniform late queries already give P0 0.16.
OVER_UNIFORM = 3.0
# One head in a hundred: fewer can be a head that looks at the start of a text for its own ends.
LEAST_SHARE = 0.01


def sinking_heads(
    late: np.ndarray, alpha: np.ndarray, uniform_late: np.ndarray, random_p99: np.ndarray
) -> np.ndarray:
    """Heads with a P0 sink: boolean [layer, head].

    late, alpha, random_p99 [layer, head] are means over prompts; uniform_late [layer]. A head must
    pass the threshold, three times the uniform null, and the 99th percentile of random targets.
    """
    with np.errstate(invalid="ignore"):
        return (late > SINK) & (late > OVER_UNIFORM * uniform_late[:, None]) & (alpha > random_p99)


def sinking_of(stats: AttentionStats, seed: int = 0) -> np.ndarray:
    """`sinking_heads` from the statistics of some prompts: boolean [layer, head]."""
    targets = random_target_p99(stats.curve, seed)
    return sinking_heads(nan_mean(stats.late), nan_mean(stats.alpha0), stats.uniform[1], targets)


def has_p0_sink(heads: np.ndarray, visible: np.ndarray) -> bool:
    """Whether the model sinks at P0: a head, and one in a hundred of those that see P0."""
    count = int(heads.sum())
    return count >= 1 and count >= LEAST_SHARE * int(visible.sum())
