"""What all charts share: sizes, axes, a colour and a symbol a series, lines, bands and tiles.

A chart holds no colours: they come from the config that the page or the exporter adds (`theme.py`).
A function that draws returns None where the result lacks what it would draw.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import altair as alt
import numpy as np

from sinkscope.report import frames
from sinkscope.report.text import bounds_of, number_of

Chart = alt.Chart | alt.LayerChart | alt.FacetChart
PLAIN = ",~r"  # numbers without exponents or prefixes
WIDTH, HEIGHT, WIDE = 420, 190, 620
INPUT = "Block input"
INPUTS = "Block input (last: output of the stack)"
POSITIONS = "Position (log scale; 0 is the first token)"
BARE: dict[str, Any] = {"ticks": False, "domain": False, "labelAngle": 0}
CHANNELS = {"color": alt.Color, "shape": alt.Shape, "strokeDash": alt.StrokeDash}
COUNTS = {"step", "count"}  # columns of whole numbers that can be large
NUMBERS = {"value", "low", "high", "start"}
LABELS = 16  # on an axis
FEW = 5  # whole numbers on an axis, between which a scale would put halves
# words above bars: cut where the plot ends, so that they never squeeze it on a small screen
WORDS: dict[str, Any] = {
    "align": "left",
    "fontSize": 11,
    "clip": True,
    "limit": alt.ExprRef("width"),
}
TICKS = (0, *(int(f"{digit}{'0' * zeros}") for zeros in range(5) for digit in (1, 2, 5)))


def chart(table: list[frames.Row], width: int = WIDTH, height: int = HEIGHT) -> alt.Chart:
    """A chart of these rows, without a mark yet."""
    return alt.Chart(frames.inline(table), width=width, height=height)


def layer(*charts: Any, width: int = WIDTH, height: int = HEIGHT) -> Chart:
    """Charts in one picture of this size."""
    return alt.layer(*charts).properties(width=width, height=height)


def part(table: list[frames.Row]) -> alt.Chart:
    """One layer of a picture."""
    return alt.Chart(frames.inline(table))


def rule(value: float, **scale: Any) -> alt.Chart:
    """A line across the picture at a value; a scale with a domain must be that of the curves."""
    return part([{"rule": value}]).mark_rule().encode(y=alt.Y("rule:Q", scale=alt.Scale(**scale)))


def tips(form: str = ".3~g", **titles: str) -> list[alt.Tooltip]:
    """What a mark says when pointed at: a title for each column, its numbers in `form`."""

    def tip(name: str, title: str) -> alt.Tooltip:
        if name in NUMBERS or name in COUNTS:
            shown = ",d" if name in COUNTS else form
            return alt.Tooltip(f"{name}:Q", title=title, format=shown)
        return alt.Tooltip(f"{name}:N", title=title)

    return [tip(name, title) for name, title in titles.items()]


def percents(form: str = ".2~%", **options: Any) -> alt.Axis:
    """An axis of shares, with as many decimals as its steps have."""
    return alt.Axis(format=form, tickCount=5, **options)


def value_y(title: str, axis: alt.Axis | None = None, **scale: Any) -> alt.Y:
    """The axis of the column `value`."""
    given = alt.Scale(**scale) if scale else alt.Undefined
    return alt.Y("value:Q", title=title, axis=axis or alt.Axis(tickCount=5), scale=given)


def log_y(title: str, values: Iterable[float]) -> alt.Y:
    """The axis of the column `value`, logarithmic, with ticks for these values."""
    return value_y(title, log_axis(values), type="log")


def log_axis(values: Iterable[float], format: str = PLAIN) -> alt.Axis:
    """Axis of a log scale with few lines: decades, or 1-2-5 steps over a short range."""
    known = [value for value in values if value > 0]
    if not known:
        return alt.Axis(format=format)
    low, high = np.floor(np.log10(min(known))), np.ceil(np.log10(max(known)))
    steps = (1,) if high - low > 2 else (1, 2, 5)
    decades = np.arange(low, high + 1)
    # 10.0 ** decade is not exact below one: the text of the number is
    ticks = [float(f"{step}e{int(decade)}") for decade in decades for step in steps]
    return alt.Axis(values=ticks, format=format)


def whole_x(name: str, title: str, numbers: Iterable[Any], **scale: Any) -> alt.X:
    """An axis of whole numbers from the first of these to the last: blocks, block inputs."""
    known = [int(number) for number in numbers]
    domain = alt.Scale(domain=[known[0], known[-1]], nice=False, **scale)
    axis = alt.Axis(format="d", tickMinStep=1, grid=False)
    if (count := known[-1] - known[0] + 1) <= FEW:
        axis.values = [known[0] + at for at in range(count)]
    return alt.X(f"{name}:Q", title=title, scale=domain, axis=axis)


def inputs_x(numbers: Iterable[Any]) -> alt.X:
    """The axis of block inputs, column `point`."""
    return whole_x("point", INPUTS, numbers)


def positions_x(last: int, **scale: Any) -> alt.X:
    """The axis of positions 0 to `last`, logarithmic but for position zero."""
    axis = alt.Axis(values=[tick for tick in TICKS if tick <= last], grid=False, format="d")
    shown = alt.Scale(type="symlog", constant=1, nice=False, **scale)
    return alt.X("position:Q", title=POSITIONS, scale=shown, axis=axis)


def names_of(table: list[frames.Row], column: str = "series") -> list[str]:
    """The series of a table in their order; none where it has no such column."""
    return list(dict.fromkeys(row[column] for row in table if column in row))


def by_series(
    names: Iterable[str],
    *channels: str,
    legend: Any = alt.Undefined,
    dashes: Any = alt.Undefined,
    column: str = "series",
) -> dict[str, Any]:
    """Encodings that give each of these names its colour, or its own in the given channels."""
    names = list(names)
    return {
        channel: CHANNELS[channel](
            f"{column}:N",
            title=None,
            scale=alt.Scale(domain=names, **({"range": dashes} if channel == "strokeDash" else {})),
            legend=legend,
        )
        for channel in channels or ("color",)
    }


def lines(
    table: list[frames.Row],
    x: alt.X,
    y: alt.Y,
    at: str = "At",
    form: str = ".3~g",
    columns: int = 2,
) -> alt.Chart:
    """A line with points for each `series`, with a colour and a symbol where there are any."""
    names = names_of(table)
    name = str(x.shorthand).partition(":")[0]
    said = {**({"series": " "} if names else {}), name: at, "value": "Value"}
    drawn = part(table).mark_line(point=True).encode(x=x, y=y, tooltip=tips(form, **said))
    legend = alt.Legend(columns=columns)
    return drawn.encode(**by_series(names, "color", "shape", legend=legend)) if names else drawn


def band(table: list[frames.Row], x: alt.X, y: alt.Y, **encodings: Any) -> alt.Chart:
    """The area between the columns `low` and `high`, on the axis of `value`."""
    low = y.copy()
    low.shorthand = "low:Q"
    return part(table).mark_area(opacity=0.2).encode(x=x, y=low, y2="high:Q", **encodings)


def spans(base: alt.Chart, **encodings: Any) -> alt.Chart:
    """Intervals over bars and points: rules from the column `low` to `high`."""
    along = "x" if "x" not in encodings else "y"
    ends = {along: "low:Q", f"{along}2": "high:Q"}
    return base.mark_rule(style="interval").encode(**ends, **encodings)


def worded_bars(
    table: list[frames.Row], words: str, x: alt.X, tooltip: Any, **encodings: Any
) -> Chart:
    """A bar and its interval for each row, below what its column `words` says."""
    base = part(table)
    y = alt.Y(f"{words}:N", title=None, sort=names_of(table, words), axis=None)
    offset = alt.YOffset("layer:N", scale=alt.Scale(domain=["words", "bar"], paddingInner=0.2))
    said = base.transform_calculate(layer="'words'").mark_text(**WORDS)
    bars = base.transform_calculate(layer="'bar'")
    return layer(
        bars.mark_bar().encode(x=x, y=y, yOffset=offset, tooltip=tooltip, **encodings),
        spans(bars, y=y, yOffset=offset),
        said.encode(y=y, yOffset=offset, x=alt.value(0), text=f"{words}:N"),
        width=WIDE,
        height=36 * len(table),
    )


def measured_rows(measured: Any, **columns: Any) -> list[frames.Row]:
    """One row of a measured value with its interval (the value itself without one); or none."""
    value = number_of(measured)
    if value is None:
        return []
    low, high = bounds_of(measured) or (value, value)
    return frames.rows(
        value=[value], low=[low], high=[high], **{name: [one] for name, one in columns.items()}
    )


def tiles(
    table: list[frames.Row], x: alt.X, y: alt.Y, colour: alt.Color, tooltip: Any, **size: int
) -> alt.Chart:
    """A heat map."""
    drawn = chart(table, **size).mark_rect(aria=False)
    return drawn.encode(x=x, y=y, color=colour, tooltip=tooltip)


def log_colour(title: str, **scale: Any) -> alt.Color:
    """The column `value` as a colour on a log scale."""
    legend = alt.Legend(format=PLAIN, tickCount=4)
    return alt.Color("value:Q", title=title, scale=alt.Scale(type="log", **scale), legend=legend)


def tile_scale(domain: Iterable[Any]) -> alt.Scale:
    """Scale of all tiles of a heat map, also the empty ones, with a hair between them."""
    return alt.Scale(domain=[int(number) for number in domain], padding=0.05)


def tiles_high(rows: int) -> int:
    """Height of a heat map with so many rows."""
    return int(np.clip(rows * 14, 90, 420))


def every(count: int) -> list[int]:
    """So many of 0 to `count` - 1 that at most LABELS labels stand on an axis."""
    step = next(step for step in (1, 2, 4, 8, 16, 32, 64) if count / step <= LABELS or step == 64)
    return list(range(0, count, step))
