"""Sun et al. 2024 (arXiv 2402.17762): massive activations set to zero, or to their mean.

Massive: |a| > 100 and at least 1,000 times the median of the hidden state. They are edited once, at
the first block whose output holds one: entries in their channels that are over 100, wherever they
stand. Set to zero the model breaks; set to their mean nothing changes: they act as fixed biases.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from sinkscope.errors import Unsupported
from sinkscope.intervene.edits.base import Edit
from sinkscope.observe.attention import observe
from sinkscope.observe.reads import Want
from sinkscope.observe.residual import keep_streams
from sinkscope.replications.base import RowResult, read_replication
from sinkscope.replications.bench import Bench, spread
from sinkscope.replications.edits import SetEntries
from sinkscope.result import Measured

ABSOLUTE, RELATIVE = 100.0, 1000.0
MOST = 4  # channels: more are never massive in one hidden state
SINK = "late share of P0, all heads"
TEXT = "perplexity"
BLOCK, FIRST, SECOND, SIZE = "block", "channel 1", "channel 2", "largest"


@dataclass
class Massive:
    """Where massive activations first stand.

    point     read point behind the first block that has them
    channels  largest first; `here` their mean at P0, `there` elsewhere where they are massive
    plain     as many channels of middling size at P0, for the control
    largest   magnitude of the largest
    """

    point: int
    channels: tuple[int, ...]
    here: tuple[float, ...]
    there: tuple[float, ...]
    plain: tuple[int, ...]
    largest: float


def massive(bench: Bench) -> Massive:
    """Find the massive activations of the intact model. Raises Unsupported where it has none."""
    best = 0.0
    for point, hidden in sorted(_streams(bench).items()):
        size = hidden.abs()
        median = size.flatten(1).median(1).values
        ratio = size.amax((1, 2)) / median.clamp_min(1e-12)
        if point and bool(((size.amax((1, 2)) > ABSOLUTE) & (ratio >= RELATIVE)).any()):
            return _massive_at(point, hidden, median)
        best = max(best, float(ratio.max()))
    raise Unsupported(
        f"no activation is massive by the rule of the paper (over {ABSOLUTE:g} and "
        f"{RELATIVE:g} times the median; the largest is {best:.3g} times it)."
    )


def _massive_at(point: int, hidden: torch.Tensor, median: torch.Tensor) -> Massive:
    over = (hidden.abs() > ABSOLUTE) & (hidden.abs() >= RELATIVE * median[:, None, None])
    size = (hidden.abs() * over).amax((0, 1))
    channels = [c for c in size.argsort(descending=True).tolist() if size[c] > 0][:MOST]

    def mean(rows: torch.Tensor, chosen: torch.Tensor) -> list[float]:
        total = (rows * chosen).sum((0, 1)) / chosen.sum((0, 1)).clamp_min(1)
        return [float(total[c]) for c in channels]

    order = hidden[:, 0].abs().mean(0).argsort().tolist()
    middle = len(order) // 2
    plain = [c for c in order[middle - MOST : middle + MOST] if c not in channels]
    return Massive(
        point,
        tuple(channels),
        tuple(mean(hidden[:, :1], over[:, :1])),
        tuple(mean(hidden[:, 1:], over[:, 1:])),
        tuple(plain[: len(channels)]),
        float(size.max()),
    )


def _streams(bench: Bench) -> dict[int, torch.Tensor]:
    """The streams [n, T, d] of the first prompts at every read point."""
    points, taps = keep_streams(bench.subject)
    few = next(iter(bench.prompts.batches()))
    observe(bench.subject, few, Want(received=False), extra_hooks=taps)
    return points


def _zero(bench: Bench, found: Massive) -> list[Edit]:
    none = (0.0,) * len(found.channels)
    return [SetEntries(found.point, found.channels, none, None, ABSOLUTE)]


def _mean(bench: Bench, found: Massive) -> list[Edit]:
    """The mean of each place: P0's at P0, that of the others elsewhere."""
    edits: list[Edit] = []
    if any(found.there):
        edits.append(SetEntries(found.point, found.channels, found.there, None, ABSOLUTE))
    return [*edits, SetEntries(found.point, found.channels, found.here, 0, ABSOLUTE)]


def _plain(bench: Bench, found: Massive) -> list[Edit]:
    return [SetEntries(found.point, found.plain, (0.0,) * len(found.plain), 0)]


def _perplexity(
    edits: Callable[[Bench, Massive], list[Edit]] | None,
) -> Callable[[Bench], RowResult]:
    def measure(bench: Bench) -> RowResult:
        own = [] if edits is None else edits(bench, massive(bench))
        read = bench.run(own)
        assert read.ce is not None
        value = spread(read.ce, bench.seed)
        ends = (value.value, value.low, value.high)
        ppl = [None if end is None else float(np.exp(min(end, 700.0))) for end in ends]
        sink = spread(np.nanmean(read.share[:, 0], axis=(1, 2)), bench.seed)
        return RowResult({TEXT: Measured(value=ppl[0], low=ppl[1], high=ppl[2]), SINK: sink}, own)

    return measure


def _place(bench: Bench) -> RowResult:
    found = massive(bench)
    values = {BLOCK: Measured(value=float(found.point - 1)), SIZE: Measured(value=found.largest)}
    for name, channel in zip((FIRST, SECOND), found.channels):
        values[name] = Measured(value=float(channel))
    return RowResult(values)


REPLICATION = read_replication(
    "sun-2024",
    {
        "place": _place,
        "intact": _perplexity(None),
        "zero": _perplexity(_zero),
        "mean": _perplexity(_mean),
        "plain": _perplexity(_plain),
    },
)
