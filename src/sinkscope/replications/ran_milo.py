"""Ran-Milo, Ofek, Mendel 2026 (arXiv 2604.14722): the sink of GPT-2 by edits of its parts.

Its ten rows. The effective position embedding is EPE_j = p_j + MLP⁰(p_j); the massive channels are
those of |EPE_0| more than three standard deviations over the mean (138, 378, 447 in GPT-2 small).
Rows d and e swap the component of positions 0 and 1 in what MLP 0 writes, as the replication does.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sinkscope.causal.families.position_ids import attention_biases
from sinkscope.errors import Unsupported
from sinkscope.intervene.edits import QueryBias
from sinkscope.intervene.edits.base import Edit
from sinkscope.intervene.readout import Readout
from sinkscope.replications.base import RowResult, read_replication
from sinkscope.replications.bench import Bench, part_of, spread
from sinkscope.replications.edits import KeyColumns, WithoutSublayers
from sinkscope.replications.positions import (
    PositionRows,
    PositionVectors,
    SwapAlong,
    ZeroEmbedding,
    position_table,
    position_vectors,
)
from sinkscope.stats import paired_change

BAND, REST, ALL, COST = "attention to P0", "% of baseline", "all blocks", "cross-entropy change"
DRAWS = 5  # random columns are drawn anew for each


def band(depth: int) -> range:
    """Blocks 4 to L−1 of the paper, counted from 1 and the last left out; all of a short model."""
    return range(3, depth - 1) if depth > 4 else range(depth)


def bos_attention(read: Readout, blocks: range | None = None) -> np.ndarray:
    """Mean attention of queries t ≥ T/2 to position 0 over the heads of some blocks: [n]."""
    share = read.share[:, 0] if blocks is None else read.share[:, 0, list(blocks)]
    return np.nanmean(share, axis=(1, 2))


def _row(edits: Callable[[Bench], list[list[Edit]]]) -> Callable[[Bench], RowResult]:
    """A row from its edits; several lists are draws, of which the mean is taken."""

    def measure(bench: Bench) -> RowResult:
        draws = edits(bench)
        intact, blocks = bench.run(), band(bench.depth)
        reads = [bench.run(draw) for draw in draws] or [intact]
        base = bos_attention(intact, blocks)
        own = np.mean([bos_attention(read, blocks) for read in reads], 0)
        values = {
            BAND: spread(own, bench.seed),
            REST: part_of(own, base, bench.seed),
            ALL: spread(np.mean([bos_attention(read) for read in reads], 0), bench.seed),
        }
        if draws:
            assert intact.ce is not None
            cost = np.mean([read.ce for read in reads if read.ce is not None], 0)
            values[COST] = paired_change(cost, intact.ce, seed=bench.seed)
        return RowResult(values, draws[0] if draws else [])

    return measure


def _query_bias(bench: Bench) -> list[list[Edit]]:
    if not attention_biases(bench.subject):
        kind = bench.subject.anatomy.model_type
        raise Unsupported(f"{kind} has no query bias, so there is none to null.")
    return [[QueryBias(0.0)]]


def _vectors(bench: Bench) -> PositionVectors:
    return position_vectors(bench.subject, bench.sites)


def _rows_of_table(edit: PositionRows) -> Callable[[Bench], list[list[Edit]]]:
    def edits(bench: Bench) -> list[list[Edit]]:
        position_table(bench.subject)  # refuses a model without
        return [[edit]]

    return edits


def _massive(bench: Bench) -> tuple[int, ...]:
    channels = _vectors(bench).massive
    if not channels:
        raise Unsupported("no channel of EPE_0 stands out by three standard deviations.")
    return channels


def _random_columns(bench: Bench) -> list[list[Edit]]:
    count = len(_massive(bench))
    return [[KeyColumns(count=count, seed=bench.seed + draw)] for draw in range(DRAWS)]


REPLICATION = read_replication(
    "ran-milo-2026",
    {
        "a": _row(lambda bench: []),
        "b": _row(_query_bias),
        "c": _row(_rows_of_table(PositionRows("replace", 0, 1))),
        "d": _row(lambda bench: [[SwapAlong("effective", _vectors(bench))]]),
        "e": _row(lambda bench: [[SwapAlong("raw", _vectors(bench))]]),
        "f": _row(lambda bench: [[ZeroEmbedding(0)]]),
        "g": _row(lambda bench: [[WithoutSublayers("mlp")]]),
        "h": _row(_rows_of_table(PositionRows("zero"))),
        "i": _row(lambda bench: [[KeyColumns(_massive(bench))]]),
        "j": _row(_random_columns),
    },
)
