"""What the figures would be if there were no sink: the nulls every number is shown against."""

from __future__ import annotations

import copy

import numpy as np
import torch

from sinkscope.detect.attention import read_attention
from sinkscope.errors import Missing
from sinkscope.stats import nan_mean
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts

UNTRAINED_SEEDS = 3
UNTRAINED_LIMIT = 1_500_000_000  # parameters; above it a second copy costs more than it tells
RANDOM_TARGETS = 500


def random_target_p99(curve: np.ndarray, seed: int = 0) -> np.ndarray:
    """99th percentile of alpha over 500 random target positions of each head: [layer, head].

    Targets are drawn from the first half without P0, where every mean rests on many queries.
    curve [layer, head, position].
    """
    last = max(curve.shape[2] // 2, 2)
    generator = np.random.default_rng(seed)
    targets = generator.integers(1, last, size=RANDOM_TARGETS)
    return np.percentile(curve[:, :, targets], 99, axis=2)


def untrained(subject: Subject, prompts: Prompts, reader: str) -> dict[str, np.ndarray] | Missing:
    """The same architecture with fresh random weights, three seeds, on the same prompts.

    Returns received and late, each [seed, layer, head], or why it was not run.
    """
    received, late = [], []
    for seed in range(UNTRAINED_SEEDS):
        fresh = untrained_copy(subject, seed)
        if isinstance(fresh, Missing):
            return fresh
        stats = read_attention(fresh, prompts, reader)
        received.append(nan_mean(stats.alpha0))
        late.append(nan_mean(stats.late))
    return {"received": np.stack(received), "late": np.stack(late)}


def untrained_copy(subject: Subject, seed: int) -> Subject | Missing:
    """The same architecture with fresh random weights, or why there is none."""
    if subject.identity["parameters"] > UNTRAINED_LIMIT:
        return Missing("the untrained null was not run: the model is too large for a second copy")
    config = copy.deepcopy(subject.model.config)
    try:
        with torch.random.fork_rng(), torch.device(subject.device):
            torch.manual_seed(seed)
            model = type(subject.model)(config).to(subject.device, subject.dtype)
    except (RuntimeError, MemoryError, TypeError, ValueError, AttributeError) as error:
        return Missing(f"the untrained null was not run: {str(error).splitlines()[0]}")
    model.eval()
    return Subject(model, subject.tokenizer, subject.anatomy, subject.identity)
