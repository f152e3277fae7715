"""Charts of `mix` over depth and position: spread maps, Jacobian heat maps, collapse."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import altair as alt
import numpy as np

from sinkscope.report import frames
from sinkscope.report.scan.charts import PLAIN, Chart, log_axis
from sinkscope.stats import nan_mean

if TYPE_CHECKING:
    from xarray import Dataset

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
# conditions that a chart over depth can show apart
SHOWN = ("intact", "redistributed", "circuit-cut", "other-key")
LEGEND = alt.Legend(columns=1, symbolType="stroke", symbolOpacity=1)


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
    values = nan_mean(data["spread_map"].values, axis=1)
    edges = _edges(values.shape[-1])
    return np.stack([values[..., a:b].mean(-1) for a, b in pairwise(edges)], -1)


def _ticks(numbers: np.ndarray) -> list[int]:
    wanted = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
    return sorted({int(numbers[np.abs(numbers - w).argmin()]) for w in wanted if w <= numbers[-1]})


def spread_curves(data: Dataset) -> Chart | None:
    """Spread over depth, a line a condition; the table has the others."""
    if not frames.has(data, "spread"):
        return None
    table: list[frames.Row] = []
    for condition in SHOWN:
        if condition not in data["condition"]:
            continue
        spread = data["spread"].sel(condition=condition).values
        values = nan_mean(spread, axis=(0, 1))
        series = [name_of(condition)] * len(values)
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
    every = list(range(0, values.shape[1], 5))
    return (
        alt.Chart(frames.inline(table), width=420, height=max(90, 22 * len(targets)))
        .mark_rect(aria=False)
        .encode(
            x=alt.X(
                "source:O",
                title="Source position",
                axis=alt.Axis(ticks=False, domain=False, labelAngle=0, values=every),
            ),
            y=alt.Y("target:O", title="Target position", sort="descending", axis=axis),
            color=alt.Color(
                "value:Q",
                title="‖∂x(target) / ∂x(source)‖ (log)",
                scale=alt.Scale(type="log", domain=[float(shown.min()), float(shown.max())]),
                legend=alt.Legend(format=PLAIN, tickCount=3),
            ),
            tooltip=[
                alt.Tooltip("target:O", title="Target"),
                alt.Tooltip("source:O", title="Source"),
                alt.Tooltip("value:Q", title="Norm", format=".3~g"),
            ],
        )
    )  # fmt: skip


def collapse_curves(data: Dataset, name: str, title: str) -> Chart | None:
    """One measure of collapse over depth, with the sink and without; intact also without P0's row.

    The control is left to the arrays: it lies on the intact curve.
    """
    if not frames.has(data, name):
        return None
    table: list[frames.Row] = []
    for condition in (each for each in SHOWN[:3] if each in data["few"]):
        curves = data[name].sel(few=condition).values
        for side, suffix in enumerate(("", ", without P0’s row")):
            if side and condition != "intact":
                continue
            values = nan_mean(curves[side], axis=0)
            series = name_of(condition) + suffix
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
        values = nan_mean(data[name].values[side], axis=0)
        table += frames.rows(
            block=np.arange(len(values)), value=values, series=[series] * len(values)
        )
    return _lines(table, "block", "Attention layer", title)


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
            color=alt.Color("series:N", title=None, scale=alt.Scale(domain=order), legend=LEGEND),
            tooltip=[
                alt.Tooltip("series:N", title=" "),
                alt.Tooltip(f"{along}:Q", title="At"),
                alt.Tooltip("value:Q", title=title, format=".3~g"),
            ],
        )
    )  # fmt: skip
