"""Charts of stage 3, and of routing: why the heads' logit on position zero is large."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import altair as alt
import numpy as np

from sinkscope.report import frames
from sinkscope.report.scan.charts import Chart
from sinkscope.report.text import number_of

if TYPE_CHECKING:
    from xarray import Dataset

    from sinkscope.result import TraceSummary

MOST_PARTS = 14
BARE: dict[str, Any] = {
    "ticks": False,
    "domain": False,
    "labelAngle": 0,
    "labelOverlap": True,
}


def margin_chart(trace: TraceSummary, data: Dataset) -> Chart | None:
    """Sink margin of every head in nats."""
    if not frames.has(data, "margin"):
        return None
    values = np.asarray(data["margin"].values, dtype=np.float64)
    count, heads = values.shape
    table = frames.rows(
        block=np.repeat(np.arange(count), heads),
        head=np.tile(np.arange(heads), count),
        value=values.ravel(),
    )
    most = float(np.nanmax(np.abs(values)))
    return (
        alt.Chart(frames.inline(table))
        .mark_rect(aria=False)
        .encode(
            x=alt.X("block:O", title="Block", axis=alt.Axis(**BARE)),
            y=alt.Y("head:O", title="Head", axis=alt.Axis(**BARE)),
            color=alt.Color(
                "value:Q",
                title="Sink margin (nats)",
                scale=alt.Scale(domain=[-most, most], range="diverging"),
            ),
            tooltip=[
                alt.Tooltip("block:O", title="Block"),
                alt.Tooltip("head:O", title="Head"),
                alt.Tooltip("value:Q", title="Margin (nats)", format=".2~f"),
            ],
        )
        .properties(width=620, height=int(np.clip(heads * 14, 90, 420)))
    )


def alone_chart(trace: TraceSummary, data: Dataset) -> Chart | None:
    """Margin of the reading heads, as it is and with P0's key from the sink direction alone."""
    names = {"As it is": "margin", "Key from the sink direction alone": "margin_from_direction"}
    if not trace.reading_heads or not frames.has(data, *names.values()):
        return None
    at = tuple(np.array(trace.reading_heads).T)
    table: list[frames.Row] = []
    for label, name in names.items():
        values = data[name].values[at]
        table += frames.rows(block=at[0], head=at[1], value=values, series=[label] * len(values))
    scale = alt.Scale(domain=list(names))
    points = (
        alt.Chart(frames.inline(table))
        .mark_point(size=36)
        .encode(
            x=alt.X("block:O", title="Block", axis=alt.Axis(**BARE)),
            xOffset=alt.XOffset("series:N", scale=scale),
            y=alt.Y("value:Q", title="Sink margin (nats)", axis=alt.Axis(tickCount=5)),
            color=alt.Color("series:N", title=None, scale=scale),
            shape=alt.Shape("series:N", title=None, scale=scale),
            tooltip=[
                alt.Tooltip("block:O", title="Block"),
                alt.Tooltip("head:O", title="Head"),
                alt.Tooltip("series:N", title=" "),
                alt.Tooltip("value:Q", title="Nats", format=".2~f"),
            ],
        )
    )
    zero = alt.Chart(frames.inline([{"zero": 0}])).mark_rule().encode(y="zero:Q")
    return alt.layer(zero, points).properties(width=420, height=190)


def attribution_chart(trace: TraceSummary, data: Dataset) -> Chart | None:
    """The mean logit of the reading heads on P0, split over what was added to its stream."""
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
    return (
        alt.Chart(frames.inline(table))
        .mark_bar()
        .encode(
            y=alt.Y(
                "part:N",
                title=None,
                sort=[_named(name) for name in shown],
                axis=alt.Axis(ticks=False, domain=False, labelLimit=160),
            ),
            x=alt.X("value:Q", title="Part of the logit on P0 (nats)", axis=alt.Axis(tickCount=6)),
            tooltip=[
                alt.Tooltip("part:N", title="Written by"),
                alt.Tooltip("value:Q", title="Nats", format=".3~f"),
            ],
        )
        .properties(width=420, height=20 * len(table) + 10)
    )


def _named(name: str) -> str:
    if "." not in name:
        return name
    block, kind = name.split(".", 1)
    return f"block {block} {'MLP' if kind == 'mlp' else kind}"


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
    scale = alt.Scale(domain=["Position zero", "Other positions"])
    order = list(dict.fromkeys(row["expert"] for row in table))
    return (
        alt.Chart(frames.inline(table))
        .mark_bar()
        .encode(
            x=alt.X("expert:N", title="Block · expert", sort=order, axis=alt.Axis(**BARE)),
            xOffset=alt.XOffset("series:N", scale=scale),
            y=alt.Y(
                "value:Q",
                title="Share that is sent there",
                axis=alt.Axis(format=".0%", tickCount=5),
                scale=alt.Scale(domain=[0, 1]),
            ),
            color=alt.Color("series:N", title=None, scale=scale),
            tooltip=[
                alt.Tooltip("expert:N", title="Block · expert"),
                alt.Tooltip("series:N", title=" "),
                alt.Tooltip("value:Q", title="Share", format=".1%"),
            ],
        )
        .properties(width=620, height=190)
    )
