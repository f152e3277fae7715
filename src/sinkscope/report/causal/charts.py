"""Charts of the causal tests: edits beside their controls, doses, blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import altair as alt

from sinkscope.report import frames
from sinkscope.report.scan.charts import Chart
from sinkscope.report.text import bounds_of, number_of, visible

if TYPE_CHECKING:
    from sinkscope.result import TestRow
    from sinkscope.schema import VerifySummary

EDIT, CONTROL = "Edit", "Its control"
ROW = 44  # height of one test
# words above bars: cut where the plot ends, so that they never squeeze it on a small screen
WORDS: dict[str, Any] = {
    "align": "left",
    "fontSize": 11,
    "clip": True,
    "limit": alt.ExprRef("width"),
}
SERIES = alt.Scale(domain=[EDIT, CONTROL])
Both = Callable[["TestRow"], tuple[Any, Any]]


def sink_changes(test: TestRow) -> tuple[Any, Any]:
    """Change of the sink by the edit and by its control."""
    return test.sink_change, test.control_change


def mediated(test: TestRow) -> tuple[Any, Any]:
    """Part of the sink that comes back when the next stage is held, and under its control."""
    held = test.model_extra or {}
    return held.get("mediated"), held.get("control_mediated")


def margin_changes(test: TestRow) -> tuple[Any, Any]:
    """Change of the margin by the edit and by its control."""
    return test.margin_change, test.control_margin_change


def paired_chart(tests: Iterable[TestRow], both: Both, title: str, percent: bool) -> Chart | None:
    """One row a test: the edit and its control as points with their intervals."""
    table = [row for test in tests for row in _pair(test, both, label=_label(test))]
    if not table:
        return None
    order = list(dict.fromkeys(row["test"] for row in table))
    axis = alt.Axis(format=".0%", tickCount=5) if percent else alt.Axis(tickCount=6)
    base = alt.Chart(frames.inline(table))
    y = alt.Y("test:N", title=None, sort=order, axis=None)
    offset = alt.YOffset(
        "series:N", scale=alt.Scale(domain=["words", EDIT, CONTROL], paddingInner=0.2)
    )
    x = alt.X("value:Q", title=title, axis=axis, scale=alt.Scale(zero=True))
    words = (
        alt.Chart(frames.inline([{"test": name, "series": "words"} for name in order]))
        .mark_text(**WORDS)
        .encode(y=y, yOffset=offset, x=alt.value(0), text="test:N")
    )
    bars = base.mark_bar().encode(x=x, y=y, yOffset=offset, color=_colour(), tooltip=_tips(percent))
    ticks = base.mark_tick(thickness=2).encode(x=x, y=y, yOffset=offset, color=_colour())
    spans = base.mark_rule(style="interval").encode(x="low:Q", x2="high:Q", y=y, yOffset=offset)
    height = ROW * len(order)
    return alt.layer(bars, ticks, spans, words).properties(width=620, height=height)


def dose_chart(
    tests: list[TestRow], both: Both, dose: str, title: str, percent: bool
) -> Chart | None:
    """Effect over dose, the edit and its control as lines with intervals."""
    first = {test.dose: test for test in reversed(tests)}  # variants of a dose come behind it
    table = [row for test in first.values() for row in _pair(test, both, dose=test.dose)]
    if len({row["dose"] for row in table}) < 2:
        return None
    base = alt.Chart(frames.inline(table))
    axis = alt.Axis(format=".0%", tickCount=5) if percent else alt.Axis(tickCount=5)
    doses = sorted({row["dose"] for row in table})
    x = alt.X("dose:Q", title=dose, axis=alt.Axis(values=doses, grid=False, format=".3~g"))
    band = base.mark_area(opacity=0.2).encode(
        x=x, y=alt.Y("low:Q", title=title, axis=axis), y2="high:Q", color=_colour()
    )
    line = base.mark_line(point=True).encode(
        x=x,
        y=alt.Y("value:Q", title=title, axis=axis),
        color=_colour(),
        tooltip=[alt.Tooltip("dose:Q", title="Dose"), *_tips(percent)],
    )
    zero = alt.Chart(frames.inline([{"zero": 0}])).mark_rule().encode(y="zero:Q")
    return alt.layer(zero, band, line).properties(width=420, height=190)


def blocks_chart(tests: Iterable[TestRow]) -> Chart | None:
    """Change of the sink when P0's attention or MLP write of each block is taken away."""
    kinds = {"N1": "Attention write", "N3": "MLP write"}
    table: list[frames.Row] = []
    seen: set[tuple[str, int]] = set()
    for test in tests:
        if test.id not in kinds or test.block is None or (test.id, test.block) in seen:
            continue
        seen.add((test.id, test.block))
        for measured, suffix in ((test.sink_change, ""), (test.control_change, ", control")):
            table += _row(measured, block=test.block, series=kinds[test.id] + suffix)
    if len({row["block"] for row in table}) < 2:
        return None
    order = [name + suffix for name in kinds.values() for suffix in ("", ", control")]
    shown = [name for name in order if any(row["series"] == name for row in table)]
    base = alt.Chart(frames.inline(table))
    x = alt.X("block:O", title="Block", axis=alt.Axis(labelAngle=0, ticks=False))
    offset = alt.XOffset("series:N", scale=alt.Scale(domain=shown))
    colour = alt.Color(
        "series:N", title=None, scale=alt.Scale(domain=shown), legend=alt.Legend(columns=2)
    )
    y = alt.Y("value:Q", title="Change of the sink", axis=alt.Axis(format=".0%", tickCount=5))
    bars = base.mark_bar().encode(
        x=x,
        xOffset=offset,
        y=y,
        color=colour,
        tooltip=[
            alt.Tooltip("block:O", title="Block"),
            alt.Tooltip("series:N", title=" "),
            alt.Tooltip("value:Q", title="Change", format=".1%"),
        ],
    )
    spans = base.mark_rule(style="interval").encode(x=x, xOffset=offset, y="low:Q", y2="high:Q")
    return alt.layer(bars, spans).properties(width=620, height=210)


def kept_chart(tests: Iterable[TestRow]) -> Chart | None:
    """S4: what is left of the sink with the circuit alone, random sets, and all but the circuit."""
    rows = [test for test in tests if test.id == "S4"]
    table: list[frames.Row] = []
    for test in rows:
        table += _row(_kept(test.sink_change), part=visible(test.edit, 90))
        if test.control_change is not None:
            table += _row(_kept(test.control_change), part=visible(test.control, 90))
    if not table:
        return None
    order = [row["part"] for row in table]
    base = alt.Chart(frames.inline(table))
    y = alt.Y("part:N", title=None, sort=order, axis=None)
    offset = alt.YOffset("layer:N", scale=alt.Scale(domain=["words", "bar"], paddingInner=0.2))
    axis = alt.Axis(format=".0%", tickCount=5)
    words = (
        base.transform_calculate(layer="'words'")
        .mark_text(**WORDS)
        .encode(y=y, yOffset=offset, x=alt.value(0), text="part:N")
    )
    placed = base.transform_calculate(layer="'bar'")
    bars = placed.mark_bar().encode(
        x=alt.X("value:Q", title="Sink kept, relative to intact", axis=axis),
        y=y,
        yOffset=offset,
        tooltip=[
            alt.Tooltip("part:N", title=" "),
            alt.Tooltip("value:Q", title="Kept", format=".1%"),
        ],
    )
    spans = placed.mark_rule(style="interval").encode(x="low:Q", x2="high:Q", y=y, yOffset=offset)
    return alt.layer(bars, spans, words).properties(width=620, height=36 * len(order))


def growth_chart(verified: VerifySummary) -> Chart | None:
    """What the circuit alone keeps of the sink, and what all but it does, by its size."""
    table: list[frames.Row] = []
    for size in verified.circuit_growth:
        kept = {"The circuit alone": size["faithfulness"], "All else alone": size["completeness"]}
        for name, part in kept.items():
            table += _row(part, units=size["components"], series=name)
    if len(verified.circuit_growth) < 2:
        return None
    base = alt.Chart(frames.inline(table), width=620, height=200)
    scale = alt.Scale(type="log", nice=False)
    x = alt.X("units:Q", title="Heads and neurons in the circuit", scale=scale)
    colour = alt.Color(
        "series:N",
        title=None,
        scale=alt.Scale(domain=["The circuit alone", "All else alone"]),
        legend=alt.Legend(columns=2, symbolType="stroke"),
    )
    lines = base.mark_line(point=True).encode(
        x=x,
        y=alt.Y("value:Q", title="Sink kept", axis=alt.Axis(format=".0%", tickCount=5)),
        color=colour,
        tooltip=[
            alt.Tooltip("units:Q", title="Units"),
            alt.Tooltip("series:N", title=" "),
            alt.Tooltip("value:Q", title="Kept", format=".1%"),
        ],
    )
    spans = base.mark_rule(style="interval").encode(x=x, y="low:Q", y2="high:Q")
    return alt.layer(lines, spans)


def _kept(measured: Any) -> dict[str, Any]:
    """A relative change as what is left."""
    value, bounds = number_of(measured), bounds_of(measured)
    low, high = (1 + end for end in bounds) if bounds else (None, None)
    return {"value": None if value is None else 1 + value, "low": low, "high": high}


def _pair(test: TestRow, both: Both, label: str = "", **more: Any) -> list[frames.Row]:
    """Rows of an edit and of its control."""
    more = {"test": label, "edit": visible(test.edit, 90), **more}
    edit, control = both(test)
    return [*_row(edit, series=EDIT, **more), *_row(control, series=CONTROL, **more)]


def _row(measured: Any, **more: Any) -> list[frames.Row]:
    value, bounds = number_of(measured), bounds_of(measured)
    if value is None:
        return []
    low, high = bounds or (value, value)
    numbers = {"value": value, "low": low, "high": high}
    return [{**{k: frames.rounded(v) for k, v in numbers.items()}, **more}]


def _label(test: TestRow) -> str:
    return f"{visible(test.id)}  {short_edit(test.edit)}"


def short_edit(edit: str, limit: int = 100) -> str:
    """An edit as one line: of several parts the first, and how many more there are."""
    first, *more = edit.split("; ")
    return visible(first, limit) + (f" (and {len(more)} more)" if more else "")


def _colour() -> alt.Color:
    legend = alt.Legend(symbolOpacity=1, symbolType="square")
    return alt.Color("series:N", title=None, scale=SERIES, legend=legend)


def _tips(percent: bool) -> list[alt.Tooltip]:
    form = ".1%" if percent else ".2~f"
    return [
        alt.Tooltip("edit:N", title="Edit"),
        alt.Tooltip("series:N", title=" "),
        alt.Tooltip("value:Q", title="Change", format=form),
        alt.Tooltip("low:Q", title="95 % from", format=form),
        alt.Tooltip("high:Q", title="to", format=form),
    ]
