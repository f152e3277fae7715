"""Pictures of an experiment: sink and loss over training, and sink rates beside published ones."""

from __future__ import annotations

from itertools import product
from typing import Any

import altair as alt

from sinkscope.report import frames
from sinkscope.report.charts import Chart
from sinkscope.report.studies.tables import BOS
from sinkscope.report.text import bounds_of, number_of, visible

WIDTH, HEIGHT = 560, 210
# Four colours are told apart by everyone; more cells than four are told apart by their dashes.
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
    legend = alt.Legend(columns=3, symbolType="stroke")
    dashes = [dash for dash, _ in product(DASHES, range(4))][: len(shown)]
    scale = alt.Scale(domain=[0, 1]) if form.endswith("%") else alt.Scale(zero=False)
    return (
        alt.Chart(frames.inline(table), width=WIDTH, height=HEIGHT)
        .mark_line(strokeWidth=1.6)
        .encode(
            x=alt.X("step:Q", title="Step", scale=alt.Scale(nice=False)),
            y=alt.Y("value:Q", title=title, axis=alt.Axis(format=form), scale=scale),
            color=alt.Color("cell:N", title=None, scale=alt.Scale(domain=shown), legend=legend),
            strokeDash=alt.StrokeDash(
                "cell:N", title=None, scale=alt.Scale(domain=shown, range=dashes), legend=legend
            ),
            detail="seed:N",
            tooltip=[
                alt.Tooltip("cell:N", title="Cell"),
                alt.Tooltip("seed:N", title="Seed"),
                alt.Tooltip("step:Q", title="Step", format=",d"),
                alt.Tooltip("value:Q", title=title, format=".3~g"),
            ],
        )
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
    order = list(dict.fromkeys(dot["row"] for dot in dots))
    y = alt.Y("row:N", title=None, sort=order, axis=alt.Axis(labelLimit=260))
    x: dict[str, Any] = {"title": "Sink rate, ε = 0.3", "scale": alt.Scale(domain=[0, 1])}
    kinds = alt.Scale(domain=["measured here", "published"])
    points = (
        alt.Chart(frames.inline(dots))
        .mark_point(size=60)
        .encode(
            x=alt.X("value:Q", axis=alt.Axis(format=".0%"), **x),
            y=y,
            color=alt.Color("kind:N", title=None, scale=kinds),
            shape=alt.Shape("kind:N", title=None, scale=kinds),
            tooltip=[
                alt.Tooltip("row:N", title="Cell"),
                alt.Tooltip("kind:N", title="Number"),
                alt.Tooltip("value:Q", title="Sink rate", format=".1%"),
            ],
        )
    )
    bars = (
        alt.Chart(frames.inline(intervals))
        .mark_rule(style="interval")
        .encode(x=alt.X("low:Q", **x), x2="high:Q", y=y)
    )
    return alt.layer(*([bars] if intervals else []), points).properties(
        width=WIDTH, height=max(60, 22 * len(order))
    )
