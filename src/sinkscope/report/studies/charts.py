"""Pictures of an experiment: sink and loss over training, and sink rates beside published ones."""

from __future__ import annotations

from itertools import product
from typing import Any

import altair as alt

from sinkscope.report import frames
from sinkscope.report.charts import (
    Chart,
    by_series,
    chart,
    layer,
    names_of,
    part,
    spans,
    tips,
    value_y,
)
from sinkscope.report.studies.tables import BOS
from sinkscope.report.text import bounds_of, number_of, visible

WIDTH, HEIGHT = 560, 210
# Everyone can distinguish four colours; more cells than four differ by their dashes.
DASHES = ([1, 0], [6, 3], [2, 2], [8, 2, 2, 2])
CURVES = {
    "sink_rate_0.3": ("Sink rate, ε = 0.3", ".0%"),
    "loss": ("Held-out loss (nats)", ",~r"),
}


def curve_chart(curves: list[dict[str, Any]], cells: list[str], figure: str) -> Chart | None:
    """One figure over the steps of every run; a colour and dash a cell, a line a seed."""
    title, form = CURVES[figure]
    table: list[frames.Row] = []
    for curve in curves:
        count = len(curve["step"])
        table += frames.rows(
            step=curve["step"],
            value=curve[figure],
            cell=[visible(curve["cell"])] * count,
            seed=[str(curve["seed"])] * count,
        )
    if not table:
        return None
    shown = [visible(cell) for cell in cells]
    dashes = [dash for dash, _ in product(DASHES, range(4))][: len(shown)]
    legend = alt.Legend(columns=3, symbolType="stroke")
    scale: dict[str, Any] = {"domain": [0, 1]} if form.endswith("%") else {"zero": False}
    drawn = chart(table, WIDTH, HEIGHT).mark_line(strokeWidth=1.6)
    return drawn.encode(
        x=alt.X("step:Q", title="Step", scale=alt.Scale(nice=False)),
        y=value_y(title, alt.Axis(format=form), **scale),
        detail="seed:N",
        tooltip=tips(cell="Cell", seed="Seed", step="Step", value=title),
        **by_series(shown, "color", "strokeDash", legend=legend, dashes=dashes, column="cell"),
    )


def rates_chart(summary: dict[str, Any]) -> Chart | None:
    """Sink rate of every cell and BOS policy with its interval, and the published rate."""
    dots: list[frames.Row] = []
    intervals: list[frames.Row] = []
    for row in summary["rows"]:
        name = f"{visible(row['cell'])}, {BOS[row['bos']]}"
        measured = row["figures"]["sink_rate_0.3"]
        value, ends = number_of(measured), bounds_of(measured)
        if value is not None:
            dots.append({"row": name, "value": value, "kind": "measured here"})
        if ends is not None:
            intervals.append({"row": name, "low": ends[0], "high": ends[1]})
        dots += [
            {"row": name, "value": one["sink_rate"] / 100, "kind": "published"}
            for one in row["published"]
            if one["sink_rate"] is not None
        ]
    if not any(dot["kind"] == "measured here" for dot in dots):
        return None
    axis = alt.Axis(labelLimit=260)
    y = alt.Y("row:N", title=None, sort=names_of(dots, "row"), axis=axis)
    scale = alt.Scale(domain=[0, 1])
    points = part(dots).mark_point(size=60)
    points = points.encode(
        x=alt.X("value:Q", title="Sink rate, ε = 0.3", scale=scale, axis=alt.Axis(format=".0%")),
        y=y,
        tooltip=tips(".1%", row="Cell", kind="Number", value="Sink rate"),
        **by_series(["measured here", "published"], "color", "shape", column="kind"),
    )
    bars = [spans(part(intervals), y=y)] if intervals else []
    return layer(*bars, points, width=WIDTH, height=max(60, 22 * len(names_of(dots, "row"))))
