"""Charts of `mix` with intervals: doses, mediation, sweeps over length, depth and models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import altair as alt

from sinkscope.report import frames
from sinkscope.report.mixing.charts import LEGEND, name_of
from sinkscope.report.scan.charts import Chart
from sinkscope.report.text import bounds_of, number_of

if TYPE_CHECKING:
    from sinkscope.schema import MixSummary

WIDTH, HEIGHT = 420, 190
CHANGE = "Change of the spread"


def dose_chart(summary: MixSummary, measure: str, title: str) -> Chart | None:
    """Loss or KL over how much of the sink was taken away; crosses at the end are the controls."""
    table: list[frames.Row] = []
    for condition, steps in summary.dose.items():
        series = name_of(condition)
        table += _row(0.0, 0.0, 0.0, dose=0.0, series=series, kind="dose")
        whole = max(one["dose"] for one in steps)
        for step in steps:
            table += _measured(step[measure], dose=step["dose"] / whole, series=series, kind="dose")
    if not table or not summary.sink_heads:
        return None
    names = {row.name: row for row in summary.conditions}
    for condition in summary.dose:
        row = names.get(names[condition].control or "")
        if row is not None:
            measured = row.ce_change if measure == "ce_change" else row.kl
            table += _measured(measured, dose=1.0, series=name_of(condition), kind="control")
    x = alt.X(
        "dose:Q",
        title="Part taken away",
        scale=alt.Scale(domain=[0, 1]),
        axis=alt.Axis(format=".0%", grid=False, values=[0, 0.25, 0.5, 0.75, 1]),
    )
    chart = _bands([row for row in table if row["kind"] == "dose"], x, title)
    control = (
        alt.Chart(frames.inline([row for row in table if row["kind"] == "control"]))
        .mark_point(shape="cross", size=70, filled=True)
        .encode(
            x=x,
            y=alt.Y("value:Q", title=title),
            color=alt.Color("series:N", title=None, legend=LEGEND),
            tooltip=[
                alt.Tooltip("series:N", title="Control of"),
                alt.Tooltip("value:Q", title=title, format="+.3~g"),
            ],
        )
    )
    return alt.layer(*chart, control).properties(width=WIDTH, height=HEIGHT)


def mediation_chart(summary: MixSummary) -> Chart | None:
    """What cutting the circuit does to the spread, and the parts of it."""
    base = number_of(summary.spread.get("intact"))
    if not base or not summary.mediation.get("defined"):
        return None
    table: list[frames.Row] = []
    parts = (
        ("total", "Whole effect of the cut"),
        ("through", "Only P0’s attention changes"),
        ("direct", "All but P0’s attention changes"),
    )
    for key, label in parts:
        measured = summary.mediation[key]
        value, bounds = number_of(measured), bounds_of(measured)
        if value is not None and bounds is not None:
            table += _row(value / base, bounds[0] / base, bounds[1] / base, part=label)
    chart = alt.Chart(frames.inline(table))
    y = alt.Y(
        "part:N",
        title=None,
        sort=[label for _, label in parts],
        axis=alt.Axis(ticks=False, domain=False, labelLimit=260),
    )
    x = alt.X("value:Q", title=CHANGE, axis=alt.Axis(format=".1~%", tickCount=5))
    bars = chart.mark_bar(height=18).encode(
        x=x, y=y, tooltip=[alt.Tooltip("value:Q", title=CHANGE, format="+.2%")]
    )
    spans = chart.mark_rule(style="interval").encode(x=alt.X("low:Q"), x2="high:Q", y=y)
    return alt.layer(bars, spans).properties(width=260, height=110)


def length_chart(summary: MixSummary) -> Chart | None:
    """Spread over context length, with the sink and without it."""
    return _with_and_without(summary, "spread", "Relative change at the last read point")


def repeat_chart(summary: MixSummary) -> Chart | None:
    """How far the last state moves when the last token is repeated, over context length."""
    return _with_and_without(summary, "repeat", "Largest change in a channel")


def _with_and_without(summary: MixSummary, key: str, title: str) -> Chart | None:
    table: list[frames.Row] = []
    for name, series in ((key, "intact"), (f"{key}_without", "redistributed")):
        for step in summary.length:
            table += _measured(step.get(name), length=step["length"], series=name_of(series))
    return _over_length(table, title) if table else None


def change_chart(summary: MixSummary) -> Chart | None:
    """Paired change of the spread once the sink is gone, over context length."""
    return _one_over_length(summary, "spread_change", "Sink’s attention shared out", CHANGE, "%")


def share_chart(summary: MixSummary) -> Chart | None:
    """Late share of P0 in the sinking heads over context length."""
    title = "Late share of P0"
    return _one_over_length(summary, "sink_heads_late_share", title, title, "%")


def _one_over_length(
    summary: MixSummary, key: str, series: str, title: str, format: str
) -> Chart | None:
    table: list[frames.Row] = []
    for step in summary.length:
        table += _measured(step[key], length=step["length"], series=series)
    return _over_length(table, title, format) if table else None


def _over_length(table: list[frames.Row], title: str, format: str = "") -> Chart:
    lengths = sorted({row["length"] for row in table})
    x = alt.X(
        "length:Q",
        title="Prompt length (tokens, log)",
        scale=alt.Scale(type="log", base=2),
        axis=alt.Axis(values=lengths, format="d", grid=False),
    )
    return alt.layer(*_bands(table, x, title, format)).properties(width=WIDTH, height=HEIGHT)


def depth_chart(summary: MixSummary) -> Chart | None:
    """Change of the spread with the sink gone from one block at a time."""
    table: list[frames.Row] = []
    for step in summary.depth:
        table += _measured(step["spread_change"], block=step["block"])
    if len(table) < 2:
        return None
    return _bars(table, alt.X("block:O", title="Block", axis=alt.Axis(labelAngle=0, ticks=False)))


def models_chart(rows: Sequence[tuple[str, int, MixSummary]]) -> Chart | None:
    """Change of the spread without the sink over the number of blocks; rows: name, blocks, mix."""
    table: list[frames.Row] = []
    for name, blocks, summary in rows:
        taken = next((row for row in summary.conditions if row.name == "redistributed"), None)
        if taken is not None and summary.sink_heads:
            table += _measured(taken.spread_change, blocks=blocks, series=name)
    if len({row["blocks"] for row in table}) < 2:
        return None
    base = alt.Chart(frames.inline(table))
    x = alt.X(
        "blocks:Q",
        title="Blocks of the model",
        scale=alt.Scale(zero=False, nice=True),
        axis=alt.Axis(format="d", tickMinStep=1, grid=False),
    )
    y = alt.Y("value:Q", title=CHANGE, axis=alt.Axis(format=".1~%", tickCount=5))
    points = base.mark_point(filled=True, size=60).encode(
        x=x,
        y=y,
        tooltip=[
            alt.Tooltip("series:N", title="Model"),
            alt.Tooltip("blocks:Q", title="Blocks"),
            alt.Tooltip("value:Q", title=CHANGE, format="+.1%"),
        ],
    )
    spans = base.mark_rule(style="interval").encode(
        x=x, y=alt.Y("low:Q", title=CHANGE), y2="high:Q"
    )
    names = base.mark_text(align="left", dx=7, dy=-7).encode(x=x, y=y, text="series:N")
    return alt.layer(spans, points, names).properties(width=WIDTH, height=HEIGHT)


def _bars(table: list[frames.Row], x: alt.X) -> Chart:
    base = alt.Chart(frames.inline(table))
    bars = base.mark_bar(width={"band": 0.6}).encode(
        x=x,
        y=alt.Y("value:Q", title=CHANGE, axis=alt.Axis(format=".1~%", tickCount=5)),
        tooltip=[alt.Tooltip("value:Q", title=CHANGE, format="+.2%")],
    )
    spans = base.mark_rule(style="interval").encode(
        x=x, y=alt.Y("low:Q", title=CHANGE), y2="high:Q"
    )
    return alt.layer(bars, spans).properties(width=WIDTH, height=HEIGHT)


def _bands(table: list[frames.Row], x: alt.X, title: str, format: str = "") -> list[alt.Chart]:
    """Lines with their intervals, a colour a series in the order of the table."""
    base = alt.Chart(frames.inline(table))
    order = list(dict.fromkeys(row["series"] for row in table))
    legend = LEGEND if len(order) > 1 else None
    colour = alt.Color("series:N", title=None, scale=alt.Scale(domain=order), legend=legend)
    axis = alt.Axis(format=".1~%", tickCount=5) if format == "%" else alt.Axis(tickCount=5)
    band = base.mark_area(opacity=0.15).encode(
        x=x, y=alt.Y("low:Q", title=title, axis=axis), y2="high:Q", color=colour
    )
    line = base.mark_line(point=True).encode(
        x=x,
        y=alt.Y("value:Q", title=title, scale=alt.Scale(zero=True), axis=axis),
        color=colour,
        tooltip=[
            alt.Tooltip("series:N", title=" "),
            alt.Tooltip(f"{x.shorthand}", title="At"),
            alt.Tooltip("value:Q", title=title, format="+.2~%" if format == "%" else ".3~g"),
        ],
    )
    return [band, line]


def _measured(measured: Any, **columns: Any) -> list[frames.Row]:
    """One row of a measured value with its interval (its own value where there is none)."""
    value = number_of(measured)
    if value is None:
        return []
    low, high = bounds_of(measured) or (value, value)
    return _row(value, low, high, **columns)


def _row(value: float, low: float, high: float, **columns: Any) -> list[frames.Row]:
    return frames.rows(
        value=[value], low=[low], high=[high], **{key: [each] for key, each in columns.items()}
    )
