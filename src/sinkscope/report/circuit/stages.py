"""Charts of stages 1 and 2: how position zero is recognised, and how that is amplified."""

from __future__ import annotations

import altair as alt
import numpy as np
from xarray import Dataset

from sinkscope.report import frames
from sinkscope.report.charts import (
    INPUT,
    Chart,
    by_series,
    chart,
    inputs_x,
    layer,
    lines,
    log_y,
    part,
    positions_x,
    rule,
    tips,
    value_y,
)
from sinkscope.report.phases import phase_marks, phases_of
from sinkscope.result import TraceSummary

MOST_BLOCKS = 4  # lines over positions in one chart
BINS = 40
MEASURES = {
    "norm": "Norm",
    "cosine": "Cosine to the others' mean",
    "raw": "Linear probe, stream",
    "normalised": "Linear probe, normalised stream",
}


def auroc_chart(trace: TraceSummary, data: Dataset) -> Chart | None:
    """How well each measure separates position zero from the others, by place in the stream."""
    if not frames.has(data, "separability"):
        return None
    names = [str(name) for name in data["read_point"].values]
    table: list[frames.Row] = []
    for key, curve in zip(data["measure"].values, data["separability"].values):
        if np.isfinite(curve).any():
            table += frames.rows(point=names, value=curve, series=[MEASURES[str(key)]] * len(names))
    x = alt.X(
        "point:N",
        title="Place (x2: into block 2, 2.attention: behind it)",
        sort=names,
        axis=alt.Axis(labelAngle=-45 if len(names) > 6 else 0, labelOverlap=True),
    )
    y = value_y("AUROC", domain=[0, 1])
    return layer(rule(0.99, domain=[0, 1]), lines(table, x, y, "Place", ".3f"))


def unmixed_chart(trace: TraceSummary, data: Dataset) -> Chart | None:
    """Unmixedness of the attention output by position, in the blocks that come first."""
    return _by_position(data, "unmixedness", "Σ attention² (1: attends to one key)")


def variance_chart(trace: TraceSummary, data: Dataset) -> Chart | None:
    """Variance over channels of what attention adds, by position, over the median one."""
    return _by_position(data, "attention_variance", "Variance over the median (×)", relative=True)


def _by_position(data: Dataset, name: str, title: str, relative: bool = False) -> Chart | None:
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
    x = positions_x(max(row["position"] for row in table), padding=6)
    return layer(lines(table, x, log_y(title, (row["value"] for row in table)), "Position"))


def norm_chart(trace: TraceSummary, data: Dataset) -> Chart | None:
    """Norm of P0 over the median of the others, by block input."""
    if not frames.has(data, "norm_ratio"):
        return None
    values = np.asarray(data["norm_ratio"].values, dtype=np.float64)
    table = frames.rows(point=np.arange(len(values)), value=values)
    y = log_y("‖P0‖ / median ‖others‖ (×, log)", [1.0, *values[values > 0]])
    line = lines(table, inputs_x([0, len(values) - 1]), y, INPUT)
    block = (trace.emergence.get("norm") or {}).get("block")
    marks = phase_marks(phases_of(trace)) or _emergence(block)
    return layer(rule(1), *marks, line)


def direction_chart(trace: TraceSummary, data: Dataset) -> Chart | None:
    """How far P0 stands along u, and how alike it is over first tokens, by block input."""
    names = {"Distance from the others along u": "distance", "Cosine over first tokens": "cosine"}
    known = {k: data[name].values for k, name in names.items() if frames.has(data, name)}
    if not known:
        return None
    points = np.arange(max(map(len, known.values())))
    table = frames.long(known, point=points)
    drawn = lines(table, inputs_x(points), value_y("Unit vectors"), INPUT, ".3~f")
    block = (trace.emergence.get("direction") or {}).get("block")
    return layer(rule(0), *_emergence(block), drawn)


def _emergence(block: int | None) -> list[alt.Chart]:
    """A band over the block whose output does it."""
    if block is None or block < 0:
        return []
    band = part([{"start": block, "stop": block + 1}])
    return [band.mark_rect(style="band").encode(x="start:Q", x2="stop:Q")]


def vocabulary_chart(trace: TraceSummary, data: Dataset) -> Chart | None:
    """Vocabulary items at position zero: how far along the sink direction it ends."""
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
    x = alt.X(
        "start:Q",
        title="Cosine to the sink direction",
        scale=alt.Scale(domain=[low, high], nice=False),
        axis=alt.Axis(grid=False, tickCount=6),
    )
    y = alt.Y(
        "count:Q",
        title="Vocabulary items (log)",
        scale=alt.Scale(type="symlog", constant=1),
        axis=alt.Axis(values=[0, 1, 10, 100, 1000, 10_000, 100_000], format=",d"),
    )
    said = tips(".2f", series=" ", start="Cosine from", count="Items")
    drawn = chart(table).mark_rect()
    return drawn.encode(
        x=x,
        x2="stop:Q",
        y=y,
        y2="zero:Q",
        tooltip=said,
        **by_series(["Becomes the sink", "Does not"]),
    )
