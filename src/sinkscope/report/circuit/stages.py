"""Charts of stages 1 and 2: how position zero is told apart, and how that is amplified."""

from __future__ import annotations

from typing import TYPE_CHECKING

import altair as alt
import numpy as np

from sinkscope.report import frames
from sinkscope.report.scan.charts import Chart, log_axis

if TYPE_CHECKING:
    from xarray import Dataset

    from sinkscope.result import TraceSummary

SIZE = {"width": 420, "height": 190}
POINT = "Read point (input of a block; last: output)"
MOST_BLOCKS = 4  # lines over positions in one chart
BINS = 40
MEASURES = {
    "norm": "Norm",
    "cosine": "Cosine to the others’ mean",
    "raw": "Linear probe, stream",
    "normalised": "Linear probe, normalised stream",
}


def auroc_chart(trace: TraceSummary, data: Dataset) -> Chart | None:
    """How well each measure tells position zero from the others, by read point."""
    if not frames.has(data, "separability"):
        return None
    names = [str(name) for name in data["read_point"].values]
    table: list[frames.Row] = []
    for key, curve in zip(data["measure"].values, data["separability"].values):
        if np.isfinite(curve).any():
            table += frames.rows(point=names, value=curve, series=[MEASURES[str(key)]] * len(names))
    x = alt.X(
        "point:N",
        title="Read point (x2: input of block 2; 2.attention: behind its attention)",
        sort=names,
        axis=alt.Axis(labelAngle=-45 if len(names) > 6 else 0, labelOverlap=True),
    )
    y = alt.Y("value:Q", title="AUROC", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(tickCount=5))
    tips = [
        alt.Tooltip("series:N", title=" "),
        alt.Tooltip("point:N", title="Read point"),
        alt.Tooltip("value:Q", title="AUROC", format=".3f"),
    ]
    order = list(dict.fromkeys(row["series"] for row in table))
    color = alt.Color("series:N", title=None, scale=alt.Scale(domain=order))
    line = alt.Chart(frames.inline(table)).mark_line(point=True)
    line = line.encode(x=x, y=y, color=color, tooltip=tips)
    bound = alt.Chart(frames.inline([{"bound": 0.99}])).mark_rule()
    bound = bound.encode(y=alt.Y("bound:Q", scale=alt.Scale(domain=[0, 1])))
    return alt.layer(bound, line).properties(**SIZE)


def unmixed_chart(trace: TraceSummary, data: Dataset) -> Chart | None:
    """Unmixedness of the attention output by position, in the blocks that come first."""
    return _by_position(trace, data, "unmixedness", "Σ attention² (1: attends to one key)")


def variance_chart(trace: TraceSummary, data: Dataset) -> Chart | None:
    """Variance over channels of what attention adds, by position, over the median one."""
    return _by_position(trace, data, "attention_variance", "Variance over the median (×)", True)


def _by_position(
    trace: TraceSummary, data: Dataset, name: str, title: str, relative: bool = False
) -> Chart | None:
    if not frames.has(data, name):
        return None
    values = np.asarray(data[name].values, dtype=np.float64)
    known = [block for block in range(len(values)) if np.isfinite(values[block]).any()]
    table: list[frames.Row] = []
    for block in known[:MOST_BLOCKS]:
        curve = values[block]
        if relative:
            median = np.nanmedian(curve[1:])
            curve = curve / median if median > 0 else np.full_like(curve, np.nan)
        at = np.unique(np.rint(np.geomspace(1, len(curve), 40)).astype(int) - 1)
        table += frames.rows(position=at, value=curve[at], series=[f"Block {block}"] * len(at))
    table = [row for row in table if row["value"] > 0]
    if not table:
        return None
    last = max(row["position"] for row in table)
    ticks = [n for n in (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000) if n <= last]
    order = list(dict.fromkeys(row["series"] for row in table))
    return (
        alt.Chart(frames.inline(table))
        .mark_line(point=True)
        .encode(
            x=alt.X(
                "position:Q",
                title="Position (log scale; 0 is the first token)",
                scale=alt.Scale(type="symlog", constant=1, nice=False, padding=6),
                axis=alt.Axis(values=ticks, grid=False, format="d"),
            ),
            y=alt.Y(
                "value:Q",
                title=title,
                scale=alt.Scale(type="log"),
                axis=log_axis(row["value"] for row in table),
            ),
            color=alt.Color("series:N", title=None, scale=alt.Scale(domain=order)),
            tooltip=[
                alt.Tooltip("series:N", title=" "),
                alt.Tooltip("position:Q", title="Position"),
                alt.Tooltip("value:Q", title="Value", format=".3~g"),
            ],
        )
        .properties(**SIZE)
    )


def norm_chart(trace: TraceSummary, data: Dataset) -> Chart | None:
    """Norm of P0 over the median of the others, by block input."""
    if not frames.has(data, "norm_ratio"):
        return None
    values = np.asarray(data["norm_ratio"].values, dtype=np.float64)
    table = frames.rows(point=np.arange(len(values)), value=values)
    base = alt.Chart(frames.inline(table))
    scale, axis = alt.Scale(type="log"), log_axis([1.0, *values[values > 0]])
    line = base.mark_line(point=True).encode(
        x=_points(len(values)),
        y=alt.Y("value:Q", title="‖P0‖ / median ‖others‖ (×, log)", scale=scale, axis=axis),
        tooltip=[
            alt.Tooltip("point:Q", title="Input of block"),
            alt.Tooltip("value:Q", title="Ratio", format=".3~g"),
        ],
    )
    block = (trace.emergence.get("norm") or {}).get("block")
    return alt.layer(_rule(1), *_emergence(block), line).properties(**SIZE)


def direction_chart(trace: TraceSummary, data: Dataset) -> Chart | None:
    """How far P0 stands along u, and how alike it is over first tokens, by block input."""
    names = {"Distance from the others along u": "distance", "Cosine over first tokens": "cosine"}
    table: list[frames.Row] = []
    for label, name in names.items():
        if frames.has(data, name):
            values = data[name].values
            table += frames.rows(
                point=np.arange(len(values)), value=values, series=[label] * len(values)
            )
    if not table:
        return None
    order = [name for name in names if any(row["series"] == name for row in table)]
    domain, legend = alt.Scale(domain=order), alt.Legend(columns=2)
    lines = (
        alt.Chart(frames.inline(table))
        .mark_line(point=True)
        .encode(
            x=_points(1 + max(row["point"] for row in table)),
            y=alt.Y("value:Q", title="Unit vectors", axis=alt.Axis(tickCount=5)),
            color=alt.Color("series:N", title=None, scale=domain, legend=legend),
            shape=alt.Shape("series:N", title=None, scale=domain, legend=legend),
            tooltip=[
                alt.Tooltip("series:N", title=" "),
                alt.Tooltip("point:Q", title="Input of block"),
                alt.Tooltip("value:Q", title="Value", format=".3~f"),
            ],
        )
    )
    block = (trace.emergence.get("direction") or {}).get("block")
    return alt.layer(_rule(0), *_emergence(block), lines).properties(**SIZE)


def _points(count: int) -> alt.X:
    return alt.X(
        "point:Q",
        title=POINT,
        scale=alt.Scale(domain=[0, count - 1], nice=False),
        axis=alt.Axis(format="d", tickMinStep=1, grid=False),
    )


def _rule(value: float) -> alt.Chart:
    return alt.Chart(frames.inline([{"rule": value}])).mark_rule().encode(y="rule:Q")


def _emergence(block: int | None) -> list[alt.Chart]:
    """A band over the block whose write does it."""
    if block is None or block < 0:
        return []
    band = alt.Chart(frames.inline([{"start": block, "stop": block + 1}]))
    return [band.mark_rect(style="band").encode(x="start:Q", x2="stop:Q")]


def vocabulary_chart(trace: TraceSummary, data: Dataset) -> Chart | None:
    """Every vocabulary item at position zero: how far along the sink direction it ends."""
    if not frames.has(data, "vocabulary_along"):
        return None
    along = np.asarray(data["vocabulary_along"].values, dtype=np.float64)
    sinks = np.asarray(data["vocabulary_sinks"].values, dtype=bool)
    low, high = min(float(along.min()), 0.0), max(float(along.max()), 1.0)
    edges = np.linspace(low, high, BINS + 1)
    table: list[frames.Row] = []
    for label, chosen in (("Becomes the sink", sinks), ("Does not", ~sinks)):
        counts, _ = np.histogram(along[chosen], edges)
        filled = np.flatnonzero(counts)
        table += frames.rows(
            start=edges[filled],
            stop=edges[filled + 1],
            count=counts[filled],
            zero=np.zeros(len(filled)),
            series=[label] * len(filled),
        )
    order = ["Becomes the sink", "Does not"]
    return (
        alt.Chart(frames.inline(table))
        .mark_rect()
        .encode(
            x=alt.X(
                "start:Q",
                title="Cosine to the sink direction",
                scale=alt.Scale(domain=[low, high], nice=False),
                axis=alt.Axis(grid=False, tickCount=6),
            ),
            x2="stop:Q",
            y=alt.Y(
                "count:Q",
                title="Vocabulary items (log)",
                scale=alt.Scale(type="symlog", constant=1),
                axis=alt.Axis(values=[0, 1, 10, 100, 1000, 10_000, 100_000], format=",d"),
            ),
            y2="zero:Q",
            color=alt.Color("series:N", title=None, scale=alt.Scale(domain=order)),
            tooltip=[
                alt.Tooltip("series:N", title=" "),
                alt.Tooltip("start:Q", title="Cosine from", format=".2f"),
                alt.Tooltip("count:Q", title="Items", format=",d"),
            ],
        )
        .properties(**SIZE)
    )
