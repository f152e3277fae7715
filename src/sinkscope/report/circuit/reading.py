"""Charts of stage 3, and of routing: why the heads' logit on position zero is large."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
from xarray import Dataset

from sinkscope.report import frames
from sinkscope.report.charts import (
    BARE,
    WIDE,
    Chart,
    by_series,
    chart,
    layer,
    names_of,
    part,
    percents,
    rule,
    tiles,
    tiles_high,
    tips,
    value_y,
)
from sinkscope.report.text import number_of, sublayer
from sinkscope.result import TraceSummary

MOST_PARTS = 14
LABELS: dict[str, Any] = {**BARE, "labelOverlap": True}
MARGIN = "Sink margin (nats)"


def margin_chart(trace: TraceSummary, data: Dataset) -> Chart | None:
    """Sink margin of every head in nats."""
    if not frames.has(data, "margin"):
        return None
    values = np.asarray(data["margin"].values, dtype=np.float64)
    count, heads = values.shape
    table = frames.grid(values, block=range(count), head=range(heads))
    most = float(np.nanmax(np.abs(values)))
    scale = alt.Scale(domain=[-most, most], range="diverging")
    return tiles(
        table,
        alt.X("block:O", title="Block", axis=alt.Axis(**LABELS)),
        alt.Y("head:O", title="Head", axis=alt.Axis(**LABELS)),
        alt.Color("value:Q", title=MARGIN, scale=scale),
        tips(".2~f", block="Block", head="Head", value=MARGIN),
        width=WIDE,
        height=tiles_high(heads),
    )


def alone_chart(trace: TraceSummary, data: Dataset) -> Chart | None:
    """Margin of the sink heads, as it is and with P0's key from the sink direction alone."""
    names = {"As it is": "margin", "Key from the sink direction alone": "margin_from_direction"}
    if not trace.reading_heads or not frames.has(data, *names.values()):
        return None
    at = tuple(np.array(trace.reading_heads).T)
    table: list[frames.Row] = []
    for label, name in names.items():
        values = data[name].values[at]
        table += frames.rows(block=at[0], head=at[1], value=values, series=[label] * len(values))
    points = part(table).mark_point(size=36)
    points = points.encode(
        x=alt.X("block:O", title="Block", axis=alt.Axis(**LABELS)),
        xOffset=alt.XOffset("series:N", scale=alt.Scale(domain=list(names))),
        y=value_y(MARGIN),
        tooltip=tips(".2~f", block="Block", head="Head", series=" ", value="Nats"),
        **by_series(names, "color", "shape"),
    )
    return layer(rule(0), points)


def attribution_chart(trace: TraceSummary, data: Dataset) -> Chart | None:
    """The mean logit of the sink heads on P0, split over what was added to its stream."""
    parts = {
        name: value
        for name, part in (trace.attribution.get("parts") or {}).items()
        if (value := number_of(part)) is not None
    }
    bias = number_of(trace.attribution.get("bias"))
    if bias:
        parts["biases"] = bias
    if not parts:
        return None
    largest = sorted(parts, key=lambda name: -abs(parts[name]))[:MOST_PARTS]
    shown = [name for name in parts if name in largest]
    table = frames.rows(part=[_named(name) for name in shown], value=[parts[n] for n in shown])
    axis = alt.Axis(ticks=False, domain=False, labelLimit=160)
    drawn = chart(table, height=20 * len(table) + 10).mark_bar()
    return drawn.encode(
        y=alt.Y("part:N", title=None, sort=names_of(table, "part"), axis=axis),
        x=alt.X("value:Q", title="Part of the logit on P0 (nats)", axis=alt.Axis(tickCount=6)),
        tooltip=tips(".3~f", part="Written by", value="Nats"),
    )


def _named(name: str) -> str:
    if "." not in name:
        return name
    block, kind = name.split(".", 1)
    return f"block {block} {sublayer(kind)}"


def routing_chart(trace: TraceSummary, data: Dataset) -> Chart | None:
    """How often P0 and the other positions are sent to each expert."""
    table: list[frames.Row] = []
    for block, found in trace.routing.items():
        for series, side in (("Position zero", found["p0"]), ("Other positions", found["others"])):
            share = side["share"]
            table += frames.rows(
                expert=[f"{block}·{expert}" for expert in range(len(share))],
                value=share,
                series=[series] * len(share),
            )
    if not table:
        return None
    sides = ["Position zero", "Other positions"]
    x = alt.X(
        "expert:N",
        title="Block · expert",
        sort=names_of(table, "expert"),
        axis=alt.Axis(**LABELS),
    )
    drawn = chart(table, WIDE).mark_bar()
    return drawn.encode(
        x=x,
        xOffset=alt.XOffset("series:N", scale=alt.Scale(domain=sides)),
        y=value_y("Share that is sent there", percents(), domain=[0, 1]),
        tooltip=tips(".1%", expert="Block · expert", series=" ", value="Share"),
        **by_series(sides),
    )
