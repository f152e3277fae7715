"""Charts of the causal tests: edits beside their controls, doses, blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import altair as alt

from sinkscope.report import frames
from sinkscope.report.causal.names import name_of, short_edit
from sinkscope.report.charts import (
    WIDE,
    WORDS,
    Chart,
    band,
    by_series,
    every,
    layer,
    lines,
    measured_rows,
    part,
    percents,
    rule,
    spans,
    tips,
    value_y,
    worded_bars,
)
from sinkscope.report.text import bounds_of, number_of, visible
from sinkscope.result import TestRow
from sinkscope.schema import VerifySummary

EDIT, CONTROL = "Edit", "Its control"
ALONE = "The circuit alone"
ROW = 44  # height of one test
NARROW = "width < 460 ? datum.code : datum.test"  # without the name of the code
LEGEND = alt.Legend(symbolOpacity=1, symbolType="square")
Both = Callable[["TestRow"], tuple[Any, Any]]


def sink_changes(test: TestRow) -> tuple[Any, Any]:
    """Change of the sink by the edit, through P0's key where that is known, and by its control."""
    if test.kind != "necessity" or test.key_change is None:
        return test.sink_change, test.control_change
    return test.key_change, test.control_key_change or test.control_change


def mediated(test: TestRow) -> tuple[Any, Any]:
    """Part of the sink that comes back when the next stage is held, and under its control."""
    return test.mediated, test.control_mediated


def margin_changes(test: TestRow) -> tuple[Any, Any]:
    """Change of the margin by the edit and by its control."""
    return test.margin_change, test.control_margin_change


def paired_chart(tests: Iterable[TestRow], both: Both, title: str, percent: bool) -> Chart | None:
    """One row a test: the edit and its control as points with their intervals."""
    table = [row for test in tests for row in _pair(test, both, label=_label(test))]
    if not table:
        return None
    order = list(dict.fromkeys(row["test"] for row in table))
    axis = percents() if percent else alt.Axis(tickCount=6)
    y = alt.Y("test:N", title=None, sort=order, axis=None)
    offset = alt.YOffset(
        "series:N", scale=alt.Scale(domain=["words", EDIT, CONTROL], paddingInner=0.2)
    )
    x = alt.X("value:Q", title=title, axis=axis, scale=alt.Scale(zero=True))
    said = [{"test": name, "series": "words", "code": _bare(name)} for name in order]
    words = part(said).transform_calculate(said=NARROW).mark_text(**WORDS)
    base, colour = part(table), by_series([EDIT, CONTROL], legend=LEGEND)
    bars = base.mark_bar().encode(x=x, y=y, yOffset=offset, tooltip=_tips(percent), **colour)
    return layer(
        bars,
        base.mark_tick(thickness=2).encode(x=x, y=y, yOffset=offset, **colour),
        spans(base, y=y, yOffset=offset),
        words.encode(y=y, yOffset=offset, x=alt.value(0), text="said:N"),
        width=WIDE,
        height=ROW * len(order),
    )


def dose_chart(
    tests: list[TestRow], both: Both, dose: str, title: str, percent: bool
) -> Chart | None:
    """Effect over dose, the edit and its control as lines with intervals."""
    first = {test.dose: test for test in reversed(tests)}  # variants of a dose come behind it
    table = [row for test in first.values() for row in _pair(test, both, dose=test.dose)]
    if len({row["dose"] for row in table}) < 2:
        return None
    doses = sorted({row["dose"] for row in table})
    x = alt.X("dose:Q", title=dose, axis=alt.Axis(values=doses, grid=False, format=".3~g"))
    y = _effect(title, table) if percent else value_y(title)
    colour = by_series([EDIT, CONTROL], legend=LEGEND)
    said = [alt.Tooltip("dose:Q", title="Dose"), *_tips(percent)]
    line = part(table).mark_line(point=True).encode(x=x, y=y, tooltip=said, **colour)
    return layer(rule(0), band(table, x, y, **colour), line)


def _effect(title: str, table: list[frames.Row]) -> alt.Y:
    """An axis of changes on which less than a percent looks like next to nothing."""
    largest = max(abs(row[end]) for row in table for end in ("low", "high"))
    scale = {"domain": [-0.01, 0.01]} if largest < 0.01 else {}
    return value_y(title, percents(), **scale)


def blocks_chart(tests: Iterable[TestRow]) -> Chart | None:
    """Change of the sink when P0's attention or MLP output of each block is ablated."""
    kinds = {"N1": "Attention output", "N3": "MLP output"}
    table: list[frames.Row] = []
    seen: set[tuple[str, int]] = set()
    for test in tests:
        if test.id not in kinds or test.block is None or (test.id, test.block) in seen:
            continue
        seen.add((test.id, test.block))
        for measured, suffix in zip(sink_changes(test), ("", ", control")):
            table += measured_rows(measured, block=test.block, series=kinds[test.id] + suffix)
    if len({row["block"] for row in table}) < 2:
        return None
    order = [name + suffix for name in kinds.values() for suffix in ("", ", control")]
    shown = [name for name in order if any(row["series"] == name for row in table)]
    base = part(table)
    blocks = sorted({row["block"] for row in table})
    told = [blocks[at] for at in every(len(blocks))]
    x = alt.X("block:O", title="Block", axis=alt.Axis(labelAngle=0, ticks=False, values=told))
    offset = alt.XOffset("series:N", scale=alt.Scale(domain=shown))
    bars = base.mark_bar().encode(
        x=x,
        xOffset=offset,
        y=_effect("Change of the sink", table),
        tooltip=tips(".1%", block="Block", series=" ", value="Change"),
        **by_series(shown, legend=alt.Legend(columns=2)),
    )
    return layer(bars, spans(base, x=x, xOffset=offset), width=WIDE, height=210)


def kept_chart(tests: Iterable[TestRow]) -> Chart | None:
    """S4: what is left of the sink with the circuit alone, random sets, and all but the circuit."""
    rows = [test for test in tests if test.id == "S4"]
    table: list[frames.Row] = []
    for test in rows:
        for kept, edit in ((test.sink_change, test.edit), (test.control_change, test.control)):
            table += measured_rows(_kept(kept), part=visible(edit).split(",")[0])
    if not table:
        return None
    x = alt.X("value:Q", title="Sink kept, relative to intact", axis=percents())
    return worded_bars(table, "part", x, tips(".1%", part=" ", value="Kept"))


def growth_chart(verified: VerifySummary) -> Chart | None:
    """The curve: what the circuit alone keeps of the sink, and all but it, by its size."""
    table: list[frames.Row] = []
    for size in verified.circuit_growth:
        kept = {ALONE: size["faithfulness"], "All else alone": size["completeness"]}
        for name, measured in kept.items():
            if size["components"]:  # a log scale has no zero
                table += measured_rows(measured, units=size["components"], series=name)
    if len({row["units"] for row in table}) < 2:
        return None
    scale = alt.Scale(type="log", nice=False)
    x = alt.X("units:Q", title="Heads and neurons in the circuit", scale=scale)
    drawn = lines(table, x, value_y("Sink kept", percents()), "Units", ".1%")
    parts = [rule(1), drawn, spans(part(table), x=x)]
    if areas := _areas(verified):
        parts.append(
            part([{"said": "CPR {:.3f}, CMD {:.3f}".format(*areas)}])
            .mark_text(**WORDS, baseline="bottom")
            .encode(text="said:N", x=alt.value(6), y=alt.value(-4))
        )
    return layer(*parts, width=WIDE, height=200)


def areas_of(verified: VerifySummary) -> str:
    """The two areas of the curve in words; empty where they were not measured."""
    words = "CPR (area under the curve) {:.3f}, CMD (area between the curve and 1) {:.3f}"
    areas = _areas(verified)
    return words.format(*areas) if areas else ""


def _areas(verified: VerifySummary) -> list[float]:
    """CPR and CMD, or nothing."""
    areas = [number_of(verified.circuit_curve.get(name)) for name in ("cpr", "cmd")]
    return [] if None in areas else areas  # type: ignore[return-value]


def _kept(measured: Any) -> dict[str, Any]:
    """A relative change as what is left."""
    value, bounds = number_of(measured), bounds_of(measured)
    low, high = (1 + end for end in bounds) if bounds else (None, None)
    return {"value": None if value is None else 1 + value, "low": low, "high": high}


def _pair(test: TestRow, both: Both, label: str = "", **more: Any) -> list[frames.Row]:
    """Rows of an edit and of its control."""
    more = {"test": label, "edit": short_edit(test.edit, 90), **more}
    edit, control = both(test)
    return [
        *measured_rows(edit, series=EDIT, **more),
        *measured_rows(control, series=CONTROL, **more),
    ]


def _label(test: TestRow) -> str:
    return f"{name_of(test.id)}: {short_edit(test.edit)}"


def _bare(label: str) -> str:
    """A label without the name of its code: N1 and the edit."""
    named, _, edit = label.partition(": ")
    return f"{named.split(' ')[0]} {edit}"


def _tips(percent: bool) -> list[alt.Tooltip]:
    form = ".1%" if percent else ".2~f"
    return tips(form, edit="Edit", series=" ", value="Change", low="95 % from", high="to")
