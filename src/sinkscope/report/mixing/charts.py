"""Charts of `mix` over depth and position: spread maps, Jacobian heat maps, collapse."""

from __future__ import annotations

from itertools import pairwise

import altair as alt
import numpy as np
from xarray import Dataset

from sinkscope.report import frames
from sinkscope.report.charts import (
    BARE,
    INPUT,
    INPUTS,
    PLAIN,
    TICKS,
    Chart,
    layer,
    lines,
    log_y,
    tiles,
    tips,
    value_y,
)
from sinkscope.stats import nan_mean

NAMES = {
    "intact": "With the sink",
    "redistributed": "Attention to P0 removed",
    "value-zeroed": "Value of P0 zeroed",
    "other-key": "Control: another key removed",
    "other-value": "Control: another value zeroed",
    "circuit-cut": "Circuit ablated",
    "circuit-cut-norm-kept": "Circuit ablated, norm kept",
    "circuit-cut-control": "Control: other units ablated",
    "bos-dropped": "BOS dropped",
}
OFFSETS = 40  # columns of a spread map
# conditions that a chart over depth can show apart
SHOWN = ("intact", "redistributed", "circuit-cut", "other-key")
LEGEND = alt.Legend(columns=1, symbolType="stroke", symbolOpacity=1)


def name_of(condition: str) -> str:
    """A condition in words."""
    return NAMES.get(condition, condition)


def spread_map(data: Dataset, condition: str) -> Chart | None:
    """Relative change of the stream by block input and distance behind the changed token."""
    if not frames.has(data, "spread_map") or condition not in data["condition"]:
        return None
    both = [c for c in ("intact", "redistributed") if c in data["condition"]]
    top = float(np.nanmax(_binned(data.sel(condition=both)).max()))
    values = _binned(data.sel(condition=[condition]))[0]
    starts = _edges(data.sizes["offset"])[:-1]
    table = frames.grid(values, point=range(len(values)), distance=starts + 1)
    axis = alt.Axis(values=_ticks(starts + 1), **BARE)
    title = "Relative change of the stream"
    scale, legend = alt.Scale(domain=[0, top]), alt.Legend(format=".2~g")
    return tiles(
        table,
        alt.X("distance:O", title="Tokens behind the changed one", axis=axis),
        alt.Y("point:O", title=INPUT, sort="descending", axis=alt.Axis(**BARE)),
        alt.Color("value:Q", title=title, scale=scale, legend=legend),
        tips(point=INPUT, distance="Tokens behind", value="Relative change"),
        height=max(120, 12 * len(values)),
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
    wanted = [tick for tick in TICKS if 0 < tick <= numbers[-1]]
    return sorted({int(numbers[np.abs(numbers - tick).argmin()]) for tick in wanted})


def spread_curves(data: Dataset) -> Chart | None:
    """Spread over depth, a line a condition; the table has the others."""
    if not frames.has(data, "spread"):
        return None
    curves = {
        name_of(condition): nan_mean(data["spread"].sel(condition=condition).values, (0, 1))
        for condition in SHOWN
        if condition in data["condition"]
    }
    return _lines(curves, "Mean relative change of later tokens")


def jacobian_map(data: Dataset, condition: str) -> Chart | None:
    """Jacobian norms of the first prompt, target by source, on a log scale."""
    if not frames.has(data, "jacobian") or condition not in data["few"]:
        return None
    whole = np.asarray(data["jacobian"].values[:, 0], dtype=np.float64)
    shown = whole[:2][whole[:2] > 0]
    values = whole[list(data["few"].values).index(condition)]
    targets = [int(j) for j in data["target"].values]
    sources = range(values.shape[1])
    table = frames.grid(np.where(values > 0, values, np.nan), target=targets, source=sources)
    every_fifth = alt.Axis(values=list(sources[::5]), **BARE)
    scale = alt.Scale(type="log", domain=[float(shown.min()), float(shown.max())])
    title, legend = "‖∂x(target) / ∂x(source)‖ (log)", alt.Legend(format=PLAIN, tickCount=3)
    return tiles(
        table,
        alt.X("source:O", title="Source position", axis=every_fifth),
        alt.Y("target:O", title="Target position", sort="descending", axis=alt.Axis(**BARE)),
        alt.Color("value:Q", title=title, scale=scale, legend=legend),
        tips(target="Target", source="Source", value="Norm"),
        height=max(90, 22 * len(targets)),
    )


def collapse_curves(data: Dataset, name: str, title: str) -> Chart | None:
    """One measure of collapse over depth, with the sink and without; intact also without P0's row.

    The control is left to the arrays: it lies on the intact curve.
    """
    if not frames.has(data, name):
        return None
    curves = {}
    for condition in (each for each in SHOWN[:3] if each in data["few"]):
        with_p0, without_p0 = data[name].sel(few=condition).values
        curves[name_of(condition)] = nan_mean(with_p0, axis=0)
        if condition == "intact":
            curves[f"{name_of(condition)}, without P0's row"] = nan_mean(without_p0, axis=0)
    return _lines(curves, title)


def rows_curves(data: Dataset, name: str, title: str) -> Chart | None:
    """Row entropy or smoothness of attention by block, with P0 and without it (renormalised)."""
    if not frames.has(data, name):
        return None
    sides = ("As it is", "Attention to P0 removed")
    curves = {series: nan_mean(values, axis=0) for series, values in zip(sides, data[name].values)}
    return _lines(curves, title, "Attention layer")


def _lines(curves: dict[str, np.ndarray], title: str, x_title: str = INPUTS) -> Chart:
    """A line a curve over depth, on a log scale where they span more than a factor of 50."""
    table = frames.long(curves, point=np.arange(max(map(len, curves.values()))))
    values = [row["value"] for row in table]
    log = min(values) > 0 and max(values) > 50 * min(values)
    y = log_y(title, values) if log else value_y(title, type="linear")
    axis = alt.Axis(format="d", tickMinStep=1, grid=False)
    return layer(lines(table, alt.X("point:Q", title=x_title, axis=axis), y, columns=1))
