"""Charts of `mix` with intervals: doses, mediation, sweeps over length, depth and models."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from sinkscope.report import frames
from sinkscope.report.charts import (
    Chart,
    band,
    by_series,
    layer,
    measured_rows,
    names_of,
    part,
    percents,
    spans,
    tips,
    value_y,
)
from sinkscope.report.mixing.charts import LEGEND, name_of
from sinkscope.report.text import bounds_of, number_of
from sinkscope.schema import MixSummary

CHANGE = "Change of the spread"


def dose_chart(summary: MixSummary, measure: str, title: str) -> Chart | None:
    """Loss or KL over how much of the sink was taken away; crosses at the end are the controls."""
    table: list[frames.Row] = []
    for condition, steps in summary.dose.items():
        series = name_of(condition)
        table += measured_rows(0.0, dose=0.0, series=series)
        whole = max(one["dose"] for one in steps)
        for step in steps:
            value = dict(step)[measure]
            table += measured_rows(value, dose=step["dose"] / whole, series=series)
    if not table or not summary.sink_heads:
        return None
    rows = {row.name: row for row in summary.conditions}
    controls: list[frames.Row] = []
    for condition in summary.dose:
        row = rows.get(rows[condition].control or "")
        if row is not None:
            measured = row.ce_change if measure == "ce_change" else row.kl
            controls += measured_rows(measured, dose=1.0, series=name_of(condition))
    axis = alt.Axis(format=".0%", grid=False, values=[0, 0.25, 0.5, 0.75, 1])
    x = alt.X("dose:Q", title="Part taken away", scale=alt.Scale(domain=[0, 1]), axis=axis)
    crosses = part(controls).mark_point(shape="cross", size=70, filled=True)
    control = crosses.encode(
        x=x,
        y=alt.Y("value:Q", title=title),
        color=alt.Color("series:N", title=None, legend=LEGEND),
        tooltip=tips("+.3~g", series="Control of", value=title),
    )
    return layer(*_bands(table, x, title), control)


def mediated_changes(summary: MixSummary) -> dict[str, dict[str, float]]:
    """`total`, `through` and `direct` over the intact spread; empty where nothing is mediated."""
    base = number_of(summary.spread.get("intact"))
    if not base or not summary.mediation.get("defined"):
        return {}
    changes = {}
    for key in ("total", "through", "direct"):
        measured = dict(summary.mediation)[key]
        ends = (number_of(measured), *(bounds_of(measured) or (None, None)))
        changes[key] = {
            end: of / base for end, of in zip(("value", "low", "high"), ends) if of is not None
        }
    return changes


def mediation_chart(summary: MixSummary) -> Chart | None:
    """What cutting the circuit does to the spread, and the parts of it."""
    changes = mediated_changes(summary)
    if not changes:
        return None
    named = {
        "total": "Whole effect of the ablation",
        "through": "Only P0's attention changes",
        "direct": "All but P0's attention changes",
    }
    table = [row for key, name in named.items() for row in measured_rows(changes[key], part=name)]
    axis = alt.Axis(ticks=False, domain=False, labelLimit=260)
    y = alt.Y("part:N", title=None, sort=list(named.values()), axis=axis)
    x = alt.X("value:Q", title=CHANGE, axis=percents(".1~%"))
    drawn = part(table)
    bars = drawn.mark_bar(height=18).encode(x=x, y=y, tooltip=tips("+.2%", value=CHANGE))
    return layer(bars, spans(drawn, y=y), width=260, height=110)


def length_chart(summary: MixSummary) -> Chart | None:
    """Spread over context length, with the sink and without it."""
    return _with_and_without(summary, "spread", "Relative change at the output of the stack")


def repeat_chart(summary: MixSummary) -> Chart | None:
    """How far the last state moves when the last token is repeated, over context length."""
    return _with_and_without(summary, "repeat", "Largest change in a channel")


def _with_and_without(summary: MixSummary, key: str, title: str) -> Chart | None:
    named = {key: name_of("intact"), f"{key}_without": name_of("redistributed")}
    return _over_length(summary, named, title)


def change_chart(summary: MixSummary) -> Chart | None:
    """Paired change of the spread once the sink is gone, over context length."""
    return _over_length(summary, {"spread_change": name_of("redistributed")}, CHANGE, "%")


def share_chart(summary: MixSummary) -> Chart | None:
    """Late share of P0 in the sinking heads over context length."""
    title = "Late share of P0"
    return _over_length(summary, {"sink_heads_late_share": title}, title, "%")


def _over_length(
    summary: MixSummary, named: dict[str, str], title: str, format: str = ""
) -> Chart | None:
    """Measures of the length sweep, key -> series, as lines with intervals."""
    table = [
        row
        for key, series in named.items()
        for step in summary.length
        for row in measured_rows(step.get(key), length=step["length"], series=series)
    ]
    if not table:
        return None
    lengths = sorted({row["length"] for row in table})
    scale = alt.Scale(type="log", base=2)
    axis = alt.Axis(values=lengths, format="d", grid=False)
    x = alt.X("length:Q", title="Prompt length (tokens, log)", scale=scale, axis=axis)
    return layer(*_bands(table, x, title, format))


def depth_chart(summary: MixSummary) -> Chart | None:
    """Change of the spread with the sink gone from one block at a time."""
    table: list[frames.Row] = []
    for step in summary.depth:
        table += measured_rows(step["spread_change"], block=step["block"])
    if len(table) < 2:
        return None
    base = part(table)
    x = alt.X("block:O", title="Block", axis=alt.Axis(labelAngle=0, ticks=False))
    bars = base.mark_bar(width={"band": 0.6}).encode(
        x=x, y=value_y(CHANGE, percents(".1~%")), tooltip=tips("+.2%", value=CHANGE)
    )
    return layer(bars, spans(base, x=x))


def models_chart(rows: Sequence[tuple[str, int, MixSummary]]) -> Chart | None:
    """Change of the spread without the sink over the number of blocks; rows: name, blocks, mix."""
    table: list[frames.Row] = []
    for name, blocks, summary in rows:
        taken = next((row for row in summary.conditions if row.name == "redistributed"), None)
        if taken is not None and summary.sink_heads:
            table += measured_rows(taken.spread_change, blocks=blocks, series=name)
    if len({row["blocks"] for row in table}) < 2:
        return None
    base = part(table)
    x = alt.X(
        "blocks:Q",
        title="Blocks of the model",
        scale=alt.Scale(zero=False, nice=True),
        axis=alt.Axis(format="d", tickMinStep=1, grid=False),
    )
    y = value_y(CHANGE, percents(".1~%"))
    said = tips("+.1%", series="Model", blocks="Blocks", value=CHANGE)
    points = base.mark_point(filled=True, size=60).encode(x=x, y=y, tooltip=said)
    names = base.mark_text(align="left", dx=7, dy=-7).encode(x=x, y=y, text="series:N")
    return layer(spans(base, x=x), points, names)


def _bands(table: list[frames.Row], x: alt.X, title: str, format: str = "") -> list[alt.Chart]:
    """Lines with their intervals, a colour a series in the order of the table."""
    names = names_of(table)
    colour = by_series(names, legend=LEGEND if len(names) > 1 else None)
    y = value_y(title, percents(".1~%") if format == "%" else None, zero=True)
    at = str(x.shorthand).partition(":")[0]
    said = tips("+.2~%" if format == "%" else ".3~g", series=" ", **{at: "At"}, value=title)
    line = part(table).mark_line(point=True).encode(x=x, y=y, tooltip=said, **colour)
    return [band(table, x, y, **colour), line]
