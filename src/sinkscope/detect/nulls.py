"""What the figures would be if there were no sink: the nulls every number is shown against."""

from __future__ import annotations

import copy

import numpy as np
import torch

from sinkscope.detect.attention import OVER_UNIFORM, WEAK, AttentionStats, read_attention
from sinkscope.errors import Missing
from sinkscope.stats import nan_mean
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts

UNTRAINED_SEEDS = 3
UNTRAINED_LIMIT = 1_500_000_000  # parameters; above it a second copy costs more than it tells
NOTHING = 0.1  # of uniform attention; all that is less counts as this much
LEAST_RISE = 0.05  # relative; an untrained network favours the unmixed P0 by up to 4 %


def random_target_p99(stats: AttentionStats) -> np.ndarray:
    """99th percentile of the late share of a random key of the first half: [layer, head].

    All keys of the first half are seen by the same queries among as many keys. With few of them a
    percentile can only be told from their spread: with mean m and deviation s of the log share over
    k keys, it is exp(m + t s √(1 + 1/k)), where t is the 99th percentile of Student's t with k − 1
    degrees of freedom (a prediction interval), and at least a twentieth above exp(m). P0 is left
    out, and so are keys that hold much themselves (a tenth of the attention, and three times what
    uniform attention gives them): a second sink is no random key. Shares below a tenth of uniform
    attention count as that much, so that keys which get next to nothing do not make the spread
    boundless. NaN for fewer than two keys.
    """
    from scipy.stats import t

    with np.errstate(invalid="ignore", divide="ignore"):
        curve, uniform = stats.late_curve[..., 1:], stats.uniform[1][:, None, None]
        curve = np.where(curve > np.maximum(WEAK, OVER_UNIFORM * uniform), np.nan, curve)
        logs = np.log(np.maximum(curve, NOTHING * uniform))
        keys = np.isfinite(logs).sum(-1)
        mean = nan_mean(logs, -1)
        spread = np.sqrt(nan_mean((logs - mean[..., None]) ** 2, -1) * keys / (keys - 1))
        rise = t.ppf(0.99, keys - 1) * spread * np.sqrt(1 + 1 / keys)
        return np.exp(mean + np.maximum(rise, np.log1p(LEAST_RISE)))


def untrained(
    subject: Subject, prompts: Prompts, reader: str, size: int | None = None
) -> dict[str, np.ndarray] | Missing:
    """The same architecture with fresh random weights, three seeds, on the same prompts.

    size  tokens of a text that go through at a time, as of `observe`
    Returns received and late, each [seed, layer, head], or why it was not run.
    """
    received, late = [], []
    for seed in range(UNTRAINED_SEEDS):
        fresh = untrained_copy(subject, seed)
        if isinstance(fresh, Missing):
            return fresh
        stats = read_attention(fresh, prompts, reader, size=size)
        del fresh  # before the next: one copy at a time in memory
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
