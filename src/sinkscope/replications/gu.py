"""Gu et al. 2025 (arXiv 2410.10781): sink rates by kind of input, and positions exchanged.

Sink_k^ε: share of heads and prompts in which key k receives more than ε = 0.3, on average over the
queries t ≥ k of 64 tokens, its own row included. Positions of Table 7 are counted from 1.
"""

from __future__ import annotations

from collections.abc import Callable

from sinkscope.replications.base import RowResult, read_replication
from sinkscope.replications.bench import Bench, rate, spread
from sinkscope.replications.positions import PositionRows, position_table

EPS = 0.3
FIRST, MOVED = "Sink_1, %", "Sink_t, %"
POSITIONS = (5, 10, 15, 20, 25)


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


REPLICATION = read_replication(
    "gu-2025",
    {
        "natural": _kind("text"),
        "random tokens": _kind("random"),
        "one token repeated": _kind("repeat"),
        **{f"{how} {t}": _position(how, t) for how in ("replace", "swap") for t in POSITIONS},
    },
)
