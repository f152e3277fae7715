"""Which heads read position zero: the rule of `detect`, and where reading begins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sinkscope.detect.attention import SINK, AttentionStats, read_attention
from sinkscope.detect.decision import has_p0_sink, sinking_heads
from sinkscope.detect.nulls import random_target_p99
from sinkscope.result import Result
from sinkscope.stats import nan_mean
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts


@dataclass(frozen=True)
class SinkHeads:
    """Heads that sink at P0.

    sinking       boolean [blocks, heads] over all blocks of the model
    late          [blocks, heads] mean late share, NaN without softmax attention
    uniform_late  [blocks]
    block         first block whose sink rate is at least half of its mean from there on
    p0_sink       whether the model sinks at all (one head in a hundred)
    """

    sinking: np.ndarray
    late: np.ndarray
    uniform_late: np.ndarray
    block: int | None
    p0_sink: bool

    @property
    def heads(self) -> list[tuple[int, int]]:
        """[(block, head)] in order."""
        return [(int(b), int(h)) for b, h in zip(*np.nonzero(self.sinking))]


def reading_of(stats: AttentionStats, blocks: int, seed: int) -> SinkHeads:
    """From the statistics of a pass."""
    _, uniform_late = stats.uniform
    p99 = random_target_p99(stats.curve, seed)
    return _reading(stats.blocks, stats.alpha0, stats.late, uniform_late, p99, blocks)


def sinks_on(subject: Subject, prompts: Prompts, seed: int = 0) -> SinkHeads:
    """From a pass of its own over some prompts."""
    stats = read_attention(subject, prompts)
    return reading_of(stats, len(subject.anatomy.blocks), seed)


def reading_from_scan(result: Result, bos: str, blocks: int) -> SinkHeads:
    """From the arrays of a scan of the same prompts."""
    data = result.data[f"scan/{bos}"].to_dataset()
    names = ("p0_received", "p0_late", "uniform_late", "random_target_p99")
    alpha, late, uniform, p99 = (data[name].to_numpy() for name in names)
    return _reading(data["block"].to_numpy().tolist(), alpha, late, uniform, p99, blocks)


def _reading(at: list[int], alpha, late, uniform_late, p99, blocks: int) -> SinkHeads:
    """Spread the softmax layers over the blocks; a block with several keeps its strongest."""
    mean_late, mean_alpha = nan_mean(late), nan_mean(alpha)
    layers = sinking_heads(mean_late, mean_alpha, uniform_late, p99)
    heads = layers.shape[1]
    sinking = np.zeros((blocks, heads), dtype=bool)
    spread = np.full((blocks, heads), np.nan)
    uniform = np.full(blocks, np.nan)
    rate = np.zeros(blocks)
    # thresholded for each prompt, then averaged; only heads that pass the rule count
    rates = (nan_mean((alpha > SINK).astype(float)) * layers).mean(1)
    for layer, block in enumerate(at):
        sinking[block] |= layers[layer]
        spread[block] = np.fmax(spread[block], mean_late[layer])
        uniform[block] = uniform_late[layer]
        rate[block] = max(rate[block], rates[layer])
    return SinkHeads(
        sinking, spread, uniform, _first(rate, sinking), has_p0_sink(layers, np.isfinite(mean_late))
    )


def _first(rate: np.ndarray, sinking: np.ndarray) -> int | None:
    for block in range(len(rate)):
        later = rate[block:][sinking[block:].any(1)]
        if sinking[block].any() and rate[block] >= later.mean() / 2:
            return block
    return None
