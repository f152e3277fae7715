"""The small tables, as headings and rows of strings: the terminal and the page both show these."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from xarray import Dataset

from sinkscope.report import frames
from sinkscope.report.parts import Table, table_of
from sinkscope.report.scan.words import heads_above_random, sinking_layers, strongest_heads
from sinkscope.report.text import (
    NO_VALUE,
    number_of,
    percent,
    percent_with_interval,
    short,
    token_text,
    visible,
)
from sinkscope.result import ScanSummary
from sinkscope.stats import nan_mean

MASSIVE_RULE = "max |x| > 100 and ≥ 1000 × median"


def rates_table(scan: ScanSummary) -> Table:
    """Sink rates over eps with intervals: all blocks, from block 2 on, by layer type."""
    table = Table("Sink rate", ["Share of heads above ε", *_eps(scan)])
    table.numeric = set(range(1, len(table.columns)))
    groups = {"All blocks": scan.sink_rate, "Blocks from 2 on": scan.sink_rate_after_2}
    if len(scan.sink_rate_by_type) > 1:
        groups |= {f"{_kind(k)} attention": v for k, v in scan.sink_rate_by_type.items()}
    for label, rates in groups.items():
        table.rows.append([label, *(_rate(rates.get(eps)) for eps in scan.sink_rate)])
    return table


def _eps(scan: ScanSummary) -> list[str]:
    return [f"ε = {visible(eps)}" for eps in scan.sink_rate]


def _kind(kind: str) -> str:
    return visible(kind).capitalize()


def _rate(measured: Any) -> str:
    return percent_with_interval(measured).replace(" ", "\u00a0")


def nulls_table(scan: ScanSummary, data: Dataset) -> Table:
    """Both measures of P0 beside each null; kinds of attention have rows of their own."""
    table = Table(
        "P0 and its nulls, mean head", ["", "Late share", "Received (α₀)"], numeric={1, 2}
    )
    kinds = frames.by_type(data)
    if len(kinds) == 1:
        table.rows.append(["This model", _rate(scan.late_share), _alpha(data, slice(None))])
    for kind, layers in kinds.items() if len(kinds) > 1 else ():
        share = _rate(scan.late_share_by_type.get(kind))
        table.rows.append([f"This model, {visible(kind)}", share, _alpha(data, layers)])
    for kind, layers in kinds.items():
        label = f"Uniform attention, {visible(kind)}" if len(kinds) > 1 else "Uniform attention"
        null = (data[name].values[layers] for name in ("uniform_late", "uniform_received"))
        table.rows.append([label, *(percent(float(nan_mean(one, None))) for one in null)])
    if frames.has(data, "untrained_late"):
        late, received = (_highest_seed(data, f"untrained_{name}") for name in ("late", "received"))
        seeds = data["untrained_late"].shape[0]
        table.rows.append([f"Untrained, highest of {seeds} seeds", late, received])
    if frames.has(data, "random_target_p99"):
        bound = percent(float(nan_mean(data["random_target_p99"].values, None)))
        table.rows.append(["Random keys, 99th percentile", bound, NO_VALUE])
        above = percent(heads_above_random(data))
        table.rows.append(["Share of heads above their own", above, NO_VALUE])
    return table


def _alpha(data: Dataset, layers: Any) -> str:
    return percent(float(nan_mean(frames.alpha0(data)[layers], None)))


def _highest_seed(data: Dataset, name: str) -> str:
    if not frames.has(data, name):
        return NO_VALUE
    return percent(float(np.nanmax(nan_mean(data[name].values, axis=(1, 2)))))


def blocks_table(data: Dataset) -> Table:
    """One row a block: late share, sink heads, nulls, learned mass, P0's stream.

    Type and reader stand there where they are not the same in every block.
    """
    share = frames.late_share(data)
    words = {"Type": frames.layer_types(data), "Reader": frames.readers(data)}
    columns = {
        "Block": [str(int(block)) for block in frames.blocks(data)],
        **{name: [*map(visible, held)] for name, held in words.items() if len(set(held)) > 1},
        "Late share": [percent(value) for value in nan_mean(share, axis=1)],
        "Highest": [percent(frames.nanmax(heads)) for heads in share],
        "Uniform": [percent(float(value)) for value in data["uniform_late"].values],
    }
    sinking = sinking_layers(data)
    if sinking is not None:
        columns["Sink heads"] = [str(int(row.sum())) for row in sinking]
    if frames.has(data, "learned_mass"):
        mass = nan_mean(data["learned_mass"].values, axis=1)
        columns["Learned"] = [percent(value) for value in mass]
    if frames.has(data, "norm_ratio"):
        columns["P0 norm ×"] = [short(value) for value in _at_input(data, frames.norm_ratio(data))]
    if frames.has(data, "p0_cosine"):
        cosine = np.asarray(data["p0_cosine"].values, dtype=np.float64)
        columns["P0 cosine"] = [f"{value:.2f}" for value in _at_input(data, cosine)]
    table = Table("By block", list(columns), [list(row) for row in zip(*columns.values())])
    table.numeric = {i for i, name in enumerate(columns) if name not in words}
    return table


def _at_input(data: Dataset, by_point: np.ndarray) -> np.ndarray:
    """Values at the input of each attention block."""
    points = {int(point): i for i, point in enumerate(data["point"].values)}
    return np.array([by_point[points[int(block)]] for block in frames.blocks(data)])


def heads_table(data: Dataset, most: int = 10) -> Table:
    """The heads that give P0 most, with their class where it is known."""
    columns: dict[str, Callable[[int, int, float], str]] = {
        "Block": lambda block, head, share: str(block),
        "Head": lambda block, head, share: str(head),
        "Late share": lambda block, head, share: percent(share),
    }
    if frames.has(data, "head_class"):
        layer = {int(block): layer for layer, block in enumerate(frames.blocks(data))}
        classes = data["head_class"].values
        columns["Class"] = lambda block, head, share: frames.HEAD_CLASSES[
            int(classes[layer[block], head])
        ]
    return table_of("Strongest heads", strongest_heads(data)[:most], columns, {0, 1, 2})


def elsewhere_tables(scan: ScanSummary) -> list[Table]:
    """Where else attention sinks."""
    return [_delimiters(scan), _secondary(scan)]


def _delimiters(scan: ScanSummary) -> Table:
    """Tokens that act as sinks away from P0."""
    columns = {
        "Token": lambda item: token_text(item.get("token", ""), 40),
        "Times": lambda item: _count(number_of(item.get("hits"))),
        "Received": lambda item: percent(number_of(item.get("received"))),
    }
    return table_of("Tokens away from P0 that draw most", scan.delimiters, columns, {1, 2})


def _count(hits: float | None) -> str:
    return NO_VALUE if hits is None else f"{hits:.0f}"


def _secondary(scan: ScanSummary) -> Table:
    """How long later tokens stay along the sink direction, most frequent runs first."""
    columns = {
        "From block input": lambda run: visible(run.get("start", NO_VALUE)),
        "Lasting": lambda run: visible(run.get("lifetime", NO_VALUE)),
        "Tokens": lambda run: visible(run.get("tokens", NO_VALUE)),
    }
    runs = scan.secondary.get("runs") or []
    return table_of("Runs along the sink direction", runs, columns, {0, 1, 2})


def massive_table(scan: ScanSummary) -> Table | None:
    """The rule for massive activations as one row, and what it was judged on."""
    found = scan.massive
    if "rule_met" not in found:
        return None
    channels = ", ".join(_channel(channel) for channel in found.get("channels") or [])
    table = Table("Massive activations", ["", "Value"], numeric={1})
    table.rows = [
        [f"Rule met ({MASSIVE_RULE})", "yes" if found.get("rule_met") else "no"],
        ["Farthest above the median one", f"{short(found.get('ratio'))} ×"],
        ["That activation", short(found.get("max_abs"))],
        ["At block input", visible(found.get("point", NO_VALUE))],
        ["P0 over the median one, mean prompt", f"{short(found.get('p0_ratio'))} ×"],
        ["Channels of P0 (mean size)", channels or NO_VALUE],
    ]
    return table


def _channel(channel: Any) -> str:
    """A channel, or a [channel, mean magnitude] pair."""
    if isinstance(channel, (list, tuple)):
        return f"{visible(channel[0])} ({short(channel[1])})"
    return visible(channel)
