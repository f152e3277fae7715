"""Charts of `mix`: spread maps, Jacobian heat maps, collapse over depth, doses, sweeps."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import altair as alt
import numpy as np

from sinkscope.report import frames
from sinkscope.report.charts import Chart, log_axis
from sinkscope.report.text import bounds_of, number_of

if TYPE_CHECKING:
    from xarray import Dataset

    from sinkscope.schema import MixSummary

NAMES = {
    "intact": "With the sink",
    "redistributed": "Sink’s attention shared out",
    "value-zeroed": "Sink’s value removed",
    "other-key": "Control: another key hidden",
    "other-value": "Control: another value removed",
    "circuit-cut": "Circuit cut",
    "circuit-cut-norm-kept": "Circuit cut, norm kept",
    "circuit-cut-control": "Control: other units cut",
    "bos-dropped": "BOS dropped",
}
OFFSETS = 40  # columns of a spread map
POINT = "Read point (input of a block; last: output)"
FEW = alt.Legend(columns=2, symbolType="stroke")


def name_of(condition: str) -> str:
    """A condition in words."""
    return NAMES.get(condition, condition)


def spread_map(data: Dataset, condition: str) -> Chart | None:
    """Relative change of the stream by read point and distance behind the changed token."""
    if not frames.has(data, "spread_map") or condition not in data["condition"]:
        return None
    both = [c for c in ("intact", "redistributed") if c in data["condition"]]
    top = float(np.nanmax(_binned(data.sel(condition=both)).max()))
    values = _binned(data.sel(condition=[condition]))[0]
    points, bins = values.shape
    starts = _edges(data.sizes["offset"])[:-1]
    table = frames.rows(
        point=np.repeat(np.arange(points), bins),
        distance=np.tile(starts + 1, points),
        value=values.ravel(),
    )
    return (
        alt.Chart(frames.inline(table), width=420, height=max(120, 12 * points))
        .mark_rect(aria=False)
        .encode(
            x=alt.X(
                "distance:O",
                title="Tokens behind the changed one",
                axis=alt.Axis(labelAngle=0, ticks=False, domain=False, values=_ticks(starts + 1)),
            ),
            y=alt.Y(
                "point:O",
                title="Read point",
                sort="descending",
                axis=alt.Axis(ticks=False, domain=False),
            ),
            color=alt.Color(
                "value:Q",
                title="Relative change of the stream",
                scale=alt.Scale(domain=[0, top]),
                legend=alt.Legend(format=".2~g"),
            ),
            tooltip=[
                alt.Tooltip("point:O", title="Read point"),
                alt.Tooltip("distance:O", title="Tokens behind"),
                alt.Tooltip("value:Q", title="Relative change", format=".3~g"),
            ],
        )
    )


def _edges(offsets: int) -> np.ndarray:
    """Bins of distances, narrow near the edit: indices from 0."""
    edges = np.geomspace(1, offsets + 1, min(OFFSETS, offsets) + 1) - 1
    return np.unique(np.rint(edges).astype(int))


def _binned(data: Dataset) -> np.ndarray:
    """[condition, point, bin] mean over kinds of swap and over the offsets of each bin."""
    values = frames.nanmean(data["spread_map"].values, axis=1)
    edges = _edges(values.shape[-1])
    return np.stack([values[..., a:b].mean(-1) for a, b in pairwise(edges)], -1)


def _ticks(numbers: np.ndarray) -> list[int]:
    wanted = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
    return sorted({int(numbers[np.abs(numbers - w).argmin()]) for w in wanted if w <= numbers[-1]})


def spread_curves(data: Dataset) -> Chart | None:
    """Spread over depth, a line a condition."""
    if not frames.has(data, "spread"):
        return None
    table: list[frames.Row] = []
    for at, condition in enumerate(data["condition"].values):
        values = frames.nanmean(data["spread"].values[at], axis=(0, 1))
        series = [name_of(str(condition))] * len(values)
        table += frames.rows(point=np.arange(len(values)), value=values, series=series)
    return _lines(table, "point", POINT, "Mean relative change of later tokens")


def jacobian_map(data: Dataset, condition: str) -> Chart | None:
    """Jacobian norms of the first prompt, target by source, on a log scale."""
    if not frames.has(data, "jacobian") or condition not in data["few"]:
        return None
    whole = np.asarray(data["jacobian"].values[:, 0], dtype=np.float64)
    shown = whole[:2][whole[:2] > 0]
    values = whole[list(data["few"].values).index(condition)]
    targets = [int(j) for j in data["target"].values]
    table = frames.rows(
        target=np.repeat(targets, values.shape[1]),
        source=np.tile(np.arange(values.shape[1]), len(targets)),
        value=np.where(values > 0, values, np.nan).ravel(),
    )
    axis = alt.Axis(ticks=False, domain=False, labelAngle=0)
    return (
        alt.Chart(frames.inline(table), width=420, height=max(90, 22 * len(targets)))
        .mark_rect(aria=False)
        .encode(
            x=alt.X(
                "source:O", title="Source position", axis=axis.copy(deep=True)
            ),
            y=alt.Y("target:O", title="Target position", sort="descending", axis=axis),
            color=alt.Color(
                "value:Q",
                title="‖∂x(target) / ∂x(source)‖ (log)",
                scale=alt.Scale(type="log", domain=[float(shown.min()), float(shown.max())]),
                legend=alt.Legend(format=".1~g", tickCount=3),
            ),
            tooltip=[
                alt.Tooltip("target:O", title="Target"),
                alt.Tooltip("source:O", title="Source"),
                alt.Tooltip("value:Q", title="Norm", format=".3~g"),
            ],
        )
    )  # fmt: skip


def collapse_curves(data: Dataset, name: str, title: str) -> Chart | None:
    """One measure of collapse over depth: conditions, with P0's row and without it."""
    if not frames.has(data, name):
        return None
    table: list[frames.Row] = []
    for at, condition in enumerate(data["few"].values):
        for side, suffix in enumerate(("", ", without P0’s row")):
            if side and condition != "intact":
                continue
            values = frames.nanmean(data[name].values[at, side], axis=0)
            series = name_of(str(condition)) + suffix
            table += frames.rows(
                point=np.arange(len(values)), value=values, series=[series] * len(values)
            )
    return _lines(table, "point", POINT, title)


def rows_curves(data: Dataset, name: str, title: str) -> Chart | None:
    """Evenness of attention rows by block, with P0 and with its mass shared out."""
    if not frames.has(data, name):
        return None
    table: list[frames.Row] = []
    for side, series in enumerate(("As it is", "P0’s attention shared out")):
        values = frames.nanmean(data[name].values[side], axis=0)
        table += frames.rows(
            block=np.arange(len(values)), value=values, series=[series] * len(values)
        )
    return _lines(table, "block", "Attention layer", title)


def dose_chart(summary: MixSummary, measure: str, title: str) -> Chart | None:
    """Loss or KL over how much of the sink was taken away, with intervals."""
    table: list[frames.Row] = []
    whole = number_of(summary.late_share) or 0.0
    controls = [row for row in summary.conditions if row.control is None and row.ce_change]
    for condition, steps in summary.dose.items():
        for step in steps:
            dose = step["dose"] / max(one["dose"] for one in steps)
            table += _measured(step[measure], dose=dose, series=name_of(condition))
        table += frames.rows(
            dose=[0.0], value=[0.0], low=[0.0], high=[0.0], series=[name_of(condition)]
        )
    for row in controls:
        measured = row.ce_change if measure == "ce_change" else row.kl
        if row.out_of_distribution or measured is None:
            continue
        table += _measured(measured, dose=1.0, series=name_of(row.name))
    if not table or not whole:
        return None
    base = alt.Chart(frames.inline(table))
    x = alt.X("dose:Q", title="Part taken away", axis=alt.Axis(format=".0%", grid=False))
    order = list(dict.fromkeys(row["series"] for row in table))
    colour = alt.Color("series:N", title=None, scale=alt.Scale(domain=order), legend=FEW)
    y = alt.Y("value:Q", title=title)
    band = base.mark_errorband(opacity=0.15).encode(
        x=x, y=alt.Y("low:Q", title=title), y2="high:Q", color=colour
    )
    line = base.mark_line(point=True).encode(
        x=x,
        y=y,
        color=colour,
        tooltip=[
            alt.Tooltip("series:N", title=" "),
            alt.Tooltip("dose:Q", title="Part", format=".0%"),
            alt.Tooltip("value:Q", title=title, format="+.3f"),
        ],
    )
    return alt.layer(band, line).properties(width=420, height=190)  # fmt: skip


def length_chart(summary: MixSummary) -> Chart | None:
    """Spread over context length, with the sink and without it."""
    table: list[frames.Row] = []
    for step in summary.length:
        for key, series in (("spread", "intact"), ("spread_without", "redistributed")):
            table += _measured(step[key], length=step["length"], series=name_of(series))
    if not table:
        return None
    return _over_length(table, "Relative change at the last read point")


def share_chart(summary: MixSummary) -> Chart | None:
    """Late share of P0 in the sinking heads over context length."""
    table: list[frames.Row] = []
    for step in summary.length:
        table += _measured(step["late_share"], length=step["length"], series="Late share of P0")
    return _over_length(table, "Late share of P0, sinking heads") if table else None


def _over_length(table: list[frames.Row], title: str) -> Chart:
    base = alt.Chart(frames.inline(table))
    lengths = sorted({row["length"] for row in table})
    x = alt.X(
        "length:Q",
        title="Prompt length (tokens, log)",
        scale=alt.Scale(type="log", base=2),
        axis=alt.Axis(values=lengths, format="d", grid=False),
    )
    colour = alt.Color("series:N", title=None, legend=FEW)
    band = base.mark_area(opacity=0.2).encode(
        x=x, y=alt.Y("low:Q", title=title), y2="high:Q", color=colour
    )
    line = base.mark_line(point=True).encode(
        x=x,
        y=alt.Y("value:Q", title=title, scale=alt.Scale(zero=True)),
        color=colour,
        tooltip=[
            alt.Tooltip("series:N", title=" "),
            alt.Tooltip("length:Q", title="Length"),
            alt.Tooltip("value:Q", title=title, format=".3~g"),
        ],
    )
    return alt.layer(band, line).properties(width=420, height=190)


def depth_chart(summary: MixSummary) -> Chart | None:
    """Change of the spread with the sink gone from one block at a time."""
    table: list[frames.Row] = []
    for step in summary.depth:
        table += _measured(step["spread_change"], block=step["block"])
    if len(table) < 2:
        return None
    base = alt.Chart(frames.inline(table))
    x = alt.X("block:O", title="Block", axis=alt.Axis(labelAngle=0, ticks=False))
    title = "Change of the spread"
    bars = base.mark_bar().encode(
        x=x,
        y=alt.Y("value:Q", title=title, axis=alt.Axis(format=".1%", tickCount=5)),
        tooltip=[
            alt.Tooltip("block:O", title="Block"),
            alt.Tooltip("value:Q", title=title, format=".2%"),
        ],
    )
    spans = base.mark_rule(style="interval").encode(x=x, y=alt.Y("low:Q", title=title), y2="high:Q")
    return alt.layer(bars, spans).properties(width=420, height=190)


def _measured(measured: Any, **columns: Any) -> list[frames.Row]:
    """One row of a measured value with its interval (its own value where there is none)."""
    value = number_of(measured)
    if value is None:
        return []
    low, high = bounds_of(measured) or (value, value)
    return frames.rows(
        value=[value], low=[low], high=[high], **{key: [each] for key, each in columns.items()}
    )


def _lines(table: list[frames.Row], along: str, x_title: str, title: str) -> Chart:
    order = list(dict.fromkeys(row["series"] for row in table))
    axis = alt.Axis(tickCount=5)
    values = [row["value"] for row in table]
    log = min(values) > 0 and max(values) > 50 * min(values)
    if log:
        axis = log_axis(values)
    return (
        alt.Chart(frames.inline(table), width=420, height=190)
        .mark_line(point=True)
        .encode(
            x=alt.X(
                f"{along}:Q",
                title=x_title,
                axis=alt.Axis(format="d", tickMinStep=1, grid=False),
            ),
            y=alt.Y(
                "value:Q", title=title, axis=axis, scale=alt.Scale(type="log" if log else "linear")
            ),
            color=alt.Color("series:N", title=None, scale=alt.Scale(domain=order), legend=FEW),
            tooltip=[
                alt.Tooltip("series:N", title=" "),
                alt.Tooltip(f"{along}:Q", title="At"),
                alt.Tooltip("value:Q", title=title, format=".3~g"),
            ],
        )
    )  # fmt: skip
