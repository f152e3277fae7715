"""Gu et al. 2025 (arXiv 2410.10781): sink rates by kind of input, and positions exchanged.

Sink_k^ε: share of heads and prompts in which key k receives more than ε = 0.3, on average over the
queries t ≥ k of 64 tokens, its own row included. Positions of Table 7 are counted from 1.
"""

from __future__ import annotations

from collections.abc import Callable

from sinkscope.replications.base import (
    GPT2_XL,
    LLAMA2_7B,
    LLAMA3_8B,
    MISTRAL_7B_01,
    Published,
    Replication,
    ReplicationRow,
    RowResult,
    published,
)
from sinkscope.replications.bench import Bench, rate, spread
from sinkscope.replications.edits import PositionRows, position_table

EPS = 0.3
FIRST, MOVED = "Sink_1, %", "Sink_t, %"
KINDS = {
    "natural": ("text", {GPT2_XL: 77.00, MISTRAL_7B_01: 97.49, LLAMA2_7B: 92.47, LLAMA3_8B: 99.02}),
    "random tokens": (
        "random",
        {GPT2_XL: 70.29, MISTRAL_7B_01: 75.21, LLAMA2_7B: 90.13, LLAMA3_8B: 91.23},
    ),
    "one token repeated": (
        "repeat",
        {GPT2_XL: 62.28, MISTRAL_7B_01: 0.0, LLAMA2_7B: 0.0, LLAMA3_8B: 0.0},
    ),
}
POSITIONS = (5, 10, 15, 20, 25)
REPLACED = (0.20, 2.36, 7.73, 10.63, 10.97)
SWAPPED = (1.44, 3.73, 6.78, 8.95, 9.42)
SWAPPED_T = (57.63, 54.48, 52.81, 51.70, 51.13)


def _rates(bench: Bench, edits=(), keys=(0,)) -> list:
    look = bench.look(edits, keys)
    return [
        spread(rate(look.alpha[..., i], EPS), bench.seed, percent=True) for i in range(len(keys))
    ]


def _kind(kind: str) -> Callable[[Bench], RowResult]:
    def measure(bench: Bench) -> RowResult:
        own = bench if kind == bench.options["kind"] else bench.other(kind=kind)
        return RowResult({FIRST: _rates(own)[0]})

    return measure


def _position(how: str, t: int) -> Callable[[Bench], RowResult]:
    def measure(bench: Bench) -> RowResult:
        position_table(bench.subject)  # refuses a model without
        edit = PositionRows(how, 0, t - 1)
        own = bench.other(kind="repeat")
        keys = (0,) if how == "replace" else (0, t - 1)
        return RowResult(dict(zip((FIRST, MOVED), _rates(own, [edit], keys))), [edit])

    return measure


def _rows() -> tuple[ReplicationRow, ...]:
    rows = [
        ReplicationRow(name, f"{name} input", _kind(kind), published(FIRST, "[2nd]", numbers))
        for name, (kind, numbers) in KINDS.items()
    ]
    for t, replaced in zip(POSITIONS, REPLACED):
        rows.append(
            ReplicationRow(
                f"replace {t}",
                f"repeated token, p_1 replaced by p_{t}",
                _position("replace", t),
                (Published(replaced, FIRST, GPT2_XL, "[2nd]"),),
            )
        )
    for t, first, moved in zip(POSITIONS, SWAPPED, SWAPPED_T):
        rows.append(
            ReplicationRow(
                f"swap {t}",
                f"repeated token, p_1 and p_{t} swapped",
                _position("swap", t),
                (
                    Published(first, FIRST, GPT2_XL, "[2nd]"),
                    Published(moved, MOVED, GPT2_XL, "[2nd]"),
                ),
            )
        )
    return tuple(rows)


REPLICATION = Replication(
    name="gu-2025",
    paper="Gu et al. 2025, arXiv 2410.10781, Tables 1 and 7",
    title="When attention sink emerges: kinds of input, and position embeddings exchanged",
    prompts={"n": 100, "length": 64, "bos": "as-is", "kind": "text"},
    metric=f"Share of heads and prompts whose key receives more than {EPS} of the attention, mean "
    "over the queries from the key on, its own row included, in percent.",
    rows=_rows(),
    differs="The 100 texts are not public: expect ±2 to 4 points [INF]. Random and repeated tokens "
    "follow the BOS policy of the tokenizer here.",
)
