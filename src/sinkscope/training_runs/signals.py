"""Numbers of one checkpoint, and of one beside the one before it."""

from __future__ import annotations

import numpy as np
import torch

from sinkscope.circuit.amplification import crossing
from sinkscope.detect.attention import SINK, WEAK
from sinkscope.stats import nan_mean
from sinkscope.training_runs.checkpoint_metrics import CheckpointMetrics


def sink_share(found: CheckpointMetrics) -> np.ndarray:
    """Mean late share over the heads within the horizon: [prompt]."""
    return nan_mean(found.late.reshape(len(found.late), -1), axis=1)


def random_target_p99(found: CheckpointMetrics) -> float:
    """99th percentile over random keys of what `sink_share` is for P0."""
    heads = found.target_late.reshape(-1, found.target_late.shape[-1])
    return float(np.percentile(nan_mean(heads), 99))


def margin(found: CheckpointMetrics) -> float:
    """How far the sink lies above the rule of `detect.decision`, in standard errors over prompts.

    On the log scale, of the head that decides: the strongest over SINK, or the second over WEAK.
    Its sign is that of the rule itself, which asks for more than these two.
    """
    late = found.late.reshape(len(found.late), -1)
    late = late[:, np.isfinite(late).all(0)]
    order = np.argsort(-late.mean(0))
    if not len(order):
        return -np.inf
    rivals = [(np.log(max(late[:, order[0]].mean(), 1e-9) / SINK), order[0])]
    if len(order) > 1:
        rivals.append((np.log(max(late[:, order[1]].mean(), 1e-9) / WEAK), order[1]))
    above, head = max(rivals)
    shares = late[:, head]
    error = shares.std(ddof=1) / np.sqrt(len(shares)) / max(shares.mean(), 1e-9)
    z = abs(above) / max(error if len(shares) > 1 else 0.0, 1e-3)
    sinks = bool(found.sinks.any())
    agrees = sinks == (above > 0)
    return (z if agrees else 0.1) * (1 if sinks else -1)


def sink_rate(found: CheckpointMetrics) -> float:
    """Share of heads with a late share above 0.3: thresholded for each prompt, then averaged."""
    seen = np.isfinite(found.late)
    return float((found.late[seen] > SINK).mean()) if seen.any() else float("nan")


def emergence_block(found: CheckpointMetrics, point: int) -> int:
    """l*: block after whose write ⟨x̂_0, u⟩ stays above half of its value at the read point.

    Minus the others' mean; −1 is the embedding.
    """
    curve = found.p0_along.mean(0) - found.others_along[0]
    return crossing(curve, point)


def distance(found: CheckpointMetrics, point: int) -> float:
    """Distance of P0 from the others along u at a read point, in their standard deviations."""
    mean, spread = found.others_along[:, point]
    return float((found.p0_along[:, point].mean() - mean) / max(float(spread), 1e-4))


def turn(now: CheckpointMetrics, before: CheckpointMetrics) -> float:
    """1 − cos between the sink directions of two checkpoints."""
    return float(1.0 - torch.from_numpy(now.direction) @ torch.from_numpy(before.direction))


def jaccard(a: set, b: set) -> float:
    """|a ∩ b| / |a ∪ b|; NaN for two empty sets, which have nothing to agree on."""
    return len(a & b) / len(a | b) if a or b else float("nan")


def rows(array: np.ndarray) -> set[tuple[int, ...]]:
    """Rows of integers [n, k] as a set of tuples; entries of a vector [n] as one-tuples."""
    return {tuple(int(x) for x in np.atleast_1d(row)) for row in array}
