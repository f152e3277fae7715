"""Ran-Milo, Ofek, Mendel 2026 (arXiv 2604.14722): the sink of GPT-2 by edits of its parts.

Its ten rows. The effective position embedding is EPE_j = p_j + MLP⁰(p_j); the massive channels are
those of |EPE_0| more than three standard deviations over the mean (138, 378, 447 in GPT-2 small).
Rows d and e swap the component of positions 0 and 1 in what MLP 0 writes, as the replication does.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sinkscope.causal.families.identity import attention_biases
from sinkscope.errors import Unsupported
from sinkscope.intervene.edits import QueryBias
from sinkscope.intervene.edits.base import Edit
from sinkscope.intervene.readout import Readout
from sinkscope.replications.base import (
    GPT2,
    GPT2_LARGE,
    GPT2_MEDIUM,
    NEO_1_3B,
    NEO_2_7B,
    NEO_125M,
    OPT_1_3B,
    OPT_2_7B,
    OPT_6_7B,
    OPT_13B,
    OPT_125M,
    QWEN25_0_5B,
    QWEN25_1_5B,
    QWEN25_3B,
    QWEN25_7B,
    QWEN25_14B,
    Published,
    Replication,
    ReplicationRow,
    RowResult,
    published,
)
from sinkscope.replications.bench import Bench, part_of, spread
from sinkscope.replications.edits import (
    KeyColumns,
    PositionRows,
    PositionVectors,
    SwapAlong,
    WithoutSublayers,
    ZeroEmbedding,
    position_table,
    position_vectors,
)
from sinkscope.stats import paired_change

BAND, REST, ALL, COST = "BOS attention", "% of baseline", "all blocks", "cross-entropy change"
SIZES = (GPT2, GPT2_MEDIUM, GPT2_LARGE)
QWEN = (QWEN25_0_5B, QWEN25_1_5B, QWEN25_3B, QWEN25_7B, QWEN25_14B)
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


def _columns(bench: Bench) -> list[list[Edit]]:
    return [[KeyColumns(_massive(bench))]]


def _random_columns(bench: Bench) -> list[list[Edit]]:
    count = len(_massive(bench))
    return [[KeyColumns(count=count, seed=bench.seed + draw)] for draw in range(DRAWS)]


def _table(value: float, rest: float, all_blocks: float, cost: float | None = None):
    """Table 1 of the paper, and the cost from the replication."""
    numbers = [
        Published(value, BAND, GPT2, "[2nd]"),
        Published(rest, REST, GPT2, "[2nd]"),
        Published(all_blocks, ALL, GPT2, "[2nd]"),
    ]
    return (*numbers, *([Published(cost, COST, GPT2, "[COMM]")] if cost is not None else []))


def _sizes(medium: float, large: float) -> tuple[Published, ...]:
    return published(REST, "[COMM]", {GPT2_MEDIUM: medium, GPT2_LARGE: large})


def _neo(*rest: float) -> tuple[Published, ...]:
    return published(REST, "[COMM]", dict(zip((NEO_125M, NEO_1_3B, NEO_2_7B), rest)))


def _qwen(*rest: float) -> tuple[Published, ...]:
    return published(REST, "[COMM]", dict(zip(QWEN, rest)))


BASELINES = {
    GPT2_MEDIUM: 0.5753, GPT2_LARGE: 0.5015,
    NEO_125M: 0.2714, NEO_1_3B: 0.3336, NEO_2_7B: 0.4121,
    OPT_125M: 0.6766, OPT_1_3B: 0.6268, OPT_2_7B: 0.6247, OPT_6_7B: 0.6300, OPT_13B: 0.3475,
    QWEN25_0_5B: 0.5200, QWEN25_1_5B: 0.5226, QWEN25_3B: 0.4990, QWEN25_7B: 0.5453,
    QWEN25_14B: 0.6396,
}  # fmt: skip

ROWS = (
    ReplicationRow(
        "a",
        "baseline",
        _row(lambda bench: []),
        (*_table(0.563, 100.0, 0.44), *published(BAND, "[COMM]", BASELINES)),
    ),
    ReplicationRow(
        "b",
        "null the query biases",
        _row(_query_bias),
        (
            *_table(0.251, 44.7, 0.20, 1.605),
            *_sizes(70.4, 74.0),
            *_neo(100, 100, 100),
            *_qwen(6.1, 6.7, 14.5, 6.7, 45.4),
        ),
    ),
    ReplicationRow(
        "c",
        "replace PE_0 by PE_1",
        _row(_rows_of_table(PositionRows("replace", 0, 1))),
        (*_table(0.017, 3.0, 0.02, 3.757), *_sizes(1.7, 3.9), *_neo(5.9, 2.4, 2.2)),
    ),
    ReplicationRow(
        "d",
        "swap EPE_0 and EPE_1",
        _row(lambda bench: [[SwapAlong("effective", _vectors(bench))]]),
        (*_table(0.035, 6.2, 0.04, 0.938), *_sizes(8.3, 3.4)),
    ),
    ReplicationRow(
        "e",
        "swap raw PE_0 and PE_1",
        _row(lambda bench: [[SwapAlong("raw", _vectors(bench))]]),
        _table(0.557, 99.0, 0.44),
        control=True,
    ),
    ReplicationRow(
        "f",
        "zero the token embedding at P0",
        _row(lambda bench: [[ZeroEmbedding(0)]]),
        (*_table(0.561, 99.7, 0.44), *_qwen(97.4, 0.5, 64.6, 0.5, 1.8)),
        control=True,
    ),
    ReplicationRow(
        "g",
        "remove all MLPs",
        _row(lambda bench: [[WithoutSublayers("mlp")]]),
        (
            *_table(0.283, 50.3, 0.24, 9.497),
            *_sizes(13.8, 20.6),
            *_qwen(2.9, 3.1, 2.6, 5.1, 4.2),
        ),
    ),
    ReplicationRow(
        "h",
        "remove all position embeddings",
        _row(_rows_of_table(PositionRows("zero"))),
        _table(0.099, 17.5, 0.08, 5.536),
    ),
    ReplicationRow(
        "i",
        "zero the massive columns of W_k",
        _row(_columns),
        (*_table(0.367, 65.2, 0.29, 0.257), *_sizes(28.2, 42.1)),
    ),
    ReplicationRow(
        "j",
        "zero as many random columns of W_k",
        _row(_random_columns),
        _table(0.563, 100.0, 0.44),
        control=True,
    ),
)

REPLICATION = Replication(
    name="ran-milo-2026",
    paper="Ran-Milo, Ofek, Mendel 2026, arXiv 2604.14722",
    title="The sink of GPT-2: query bias, MLP of the position embedding, key columns",
    prompts={"n": 300, "length": 40, "bos": "without", "kind": "text"},
    metric="Mean attention to position 0 of queries t ≥ 20 of 40, all heads of blocks 3 to L−2 "
    "counted from 0 (of all blocks in a model of four or fewer).",
    rows=ROWS,
    differs="Published on 100 texts each of SST-2, GSM8K and HumanEval: with other texts expect "
    "±0.03 of the baseline [INF].",
)
