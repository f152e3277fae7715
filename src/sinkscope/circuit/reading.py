"""Which heads read position zero: the rule of `detect`, and where reading begins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sinkscope.detect.attention import AttentionStats, read_attention
from sinkscope.detect.decision import PART, sinks_of
from sinkscope.result import Result
from sinkscope.stats import nan_mean
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts


@dataclass(frozen=True)
class SinkHeads:
    """Heads that sink at P0.

    sinking       boolean [blocks, heads] over all blocks of the model
    late          [blocks, heads] mean late share, NaN without softmax attention; where P0 sinks in
                  part of the prompts, over that part
    uniform_late  [blocks]
    block         first block whose sinking heads put on P0 at least half of what those of the
                  blocks from there on do, on the mean
    prompts       [n] whether P0 sinks in the prompt
    positions     that hold the sink together, P0 among them (`Sinks.positions`)
    """

    sinking: np.ndarray
    late: np.ndarray
    uniform_late: np.ndarray
    block: int | None
    prompts: np.ndarray
    positions: tuple[int, ...] = (0,)

    @property
    def p0_sink(self) -> bool:
        """Whether the model sinks at P0."""
        return bool(self.sinking.any())

    @property
    def answer(self) -> bool | None:
        """The same; None where no late query sees P0, as of `Sinks.answer`."""
        return self.p0_sink if np.isfinite(self.late).any() else None

    @property
    def heads(self) -> tuple[tuple[int, int], ...]:
        """(block, head) in order."""
        return tuple((int(b), int(h)) for b, h in zip(*np.nonzero(self.sinking)))

    @property
    def part(self) -> np.ndarray | None:
        """The prompts in which P0 sinks, where that is not all: the circuit is theirs."""
        return held_part(self.prompts) if self.p0_sink else None


def held_part(prompts: np.ndarray) -> np.ndarray | None:
    """Indices of the prompts that are true, where they are some, but fewer than PART of all [n]."""
    return np.flatnonzero(prompts) if 0 < prompts.mean() < PART else None


def in_part(held: int, of: int) -> str:
    """What must be said where the circuit is that of part of the prompts."""
    return f"Position zero sinks in {held} of {of} prompts; all is said of those."


def reading_of(stats: AttentionStats, blocks: int) -> SinkHeads:
    """From the statistics of a pass."""
    sinks = sinks_of(stats)
    found = (sinks.heads, sinks.prompts, sinks.positions)
    return _reading(stats.blocks, stats.late, stats.uniform[1], *found, blocks)


def sinks_on(subject: Subject, prompts: Prompts) -> SinkHeads:
    """From a pass of its own over some prompts."""
    return reading_of(read_attention(subject, prompts), len(subject.anatomy.blocks))


def reading_from_scan(result: Result, bos: str, blocks: int) -> SinkHeads:
    """From the arrays of a scan of the same prompts."""
    data = result.data[f"scan/{bos}"].to_dataset()
    late, uniform = data["p0_late"].to_numpy(), data["uniform_late"].to_numpy()
    sinking, prompts = (data[name].to_numpy() > 0 for name in ("sinking", "sinking_prompts"))
    found = (sinking, prompts, tuple(result.summary.scan[bos].sink["positions"]))
    return _reading(data["block"].to_numpy().tolist(), late, uniform, *found, blocks)


def _reading(
    at: list[int], late, uniform_late, layers, prompts, positions: tuple[int, ...], blocks: int
) -> SinkHeads:
    """Spread the softmax layers over the blocks; a block with several keeps its strongest."""
    part = held_part(prompts) if layers.any() else None
    mean_late = nan_mean(late if part is None else late[part])
    heads = layers.shape[1]
    sinking = np.zeros((blocks, heads), dtype=bool)
    spread = np.full((blocks, heads), np.nan)
    uniform = np.full(blocks, np.nan)
    rate = np.zeros(blocks)
    rates = np.where(layers, np.nan_to_num(mean_late), 0.0).mean(1)
    for layer, block in enumerate(at):
        sinking[block] |= layers[layer]
        spread[block] = np.fmax(spread[block], mean_late[layer])
        uniform[block] = uniform_late[layer]
        rate[block] = max(rate[block], rates[layer])
    return SinkHeads(sinking, spread, uniform, _first(rate, sinking), prompts, positions)


def _first(rate: np.ndarray, sinking: np.ndarray) -> int | None:
    for block in range(len(rate)):
        later = rate[block:][sinking[block:].any(1)]
        if sinking[block].any() and rate[block] >= later.mean() / 2:
            return block
    return None
