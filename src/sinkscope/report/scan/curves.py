"""Curves over ranked heads and over positions, each beside its null."""

from __future__ import annotations

from itertools import pairwise

import altair as alt
import numpy as np
from xarray import Dataset

from sinkscope.report import frames
from sinkscope.report.charts import (
    WIDE,
    Chart,
    by_series,
    chart,
    layer,
    log_axis,
    part,
    percents,
    positions_x,
    value_y,
)
from sinkscope.stats import nan_mean

QUANTILES = 120  # points of the ranked-heads curve
RECEIVED_POINTS = 48  # bins of the received-attention curves, narrow near position zero
RANKED = {
    "This model": [1, 0],
    "Same architecture, untrained": [1, 0],
    "Random keys, 99th percentile": [2, 2],
    "Uniform attention": [5, 4],
}


def ranked_chart(data: Dataset) -> Chart:
    """Late share of P0 in all heads, ranked, beside the nulls."""
    model, untrained, random, uniform = RANKED
    table = _ranked(frames.late_share(data), model, 0)
    if frames.has(data, "untrained_late"):
        for seed, values in enumerate(data["untrained_late"].values):
            table += _ranked(values, untrained, seed)
    if frames.has(data, "random_target_p99"):
        table += _ranked(data["random_target_p99"].values, random, 0)
    for run, layers in enumerate(frames.by_type(data).values()):
        even = nan_mean(data["uniform_late"].values[layers], None)
        table += frames.rows(rank=[0, 1], value=[even] * 2, series=[uniform] * 2, run=[run] * 2)
    shown = [name for name in RANKED if any(row["series"] == name for row in table)]
    legend = alt.Legend(columns=2, symbolType="stroke")
    dashes = [RANKED[name] for name in shown]
    series = by_series(shown, "color", "strokeDash", legend=legend, dashes=dashes)
    x = alt.X("rank:Q", title="Heads, strongest first", axis=alt.Axis(format=".0%", tickCount=10))
    y = value_y("Late share of P0", percents(), domain=[0, 1])
    drawn = chart(table, WIDE, 220).mark_line()
    return drawn.encode(x=x, y=y, detail="run:N", **series)


def _ranked(values: np.ndarray, series: str, run: int) -> list[frames.Row]:
    ranked = np.sort(values[np.isfinite(values)])[::-1]
    if ranked.size == 0:
        return []
    rank = np.linspace(0, 1, min(ranked.size, QUANTILES))
    picked = ranked[np.rint(rank * (ranked.size - 1)).astype(int)]
    count = rank.size
    return frames.rows(rank=rank, value=picked, series=[series] * count, run=[run] * count)


def received_chart(data: Dataset) -> Chart:
    """Attention received by position, one line a block, with the uniform null."""
    received = nan_mean(data["received"].values, axis=1)
    positions = received.shape[1]
    table: list[frames.Row] = []
    for block, curve in zip(frames.blocks(data), received):
        starts, values = binned(curve)
        table += frames.rows(position=starts, value=values, block=[block] * len(starts))
    starts, values = binned(uniform_by_key(positions))
    null = frames.rows(position=starts, value=values)
    x = positions_x(positions - 1, domain=[0, positions - 1], padding=8)
    shares = log_axis([row["value"] for row in [*table, *null]], ",~%")
    y = value_y("Attention received (log scale)", shares, type="log")
    colour = alt.Color(
        "block:Q",
        title="Block (mean over its heads)",
        scale=alt.Scale(range="ramp"),
        legend=alt.Legend(format="d", tickMinStep=1, tickCount=5),
    )
    base = part(table).encode(x=x, y=y, color=colour, detail="block:N")
    at_zero = base.transform_filter("datum.position === 0").mark_point(size=34, aria=False)
    even = part(null).mark_line(style="null", strokeWidth=1.5).encode(x=x, y=y)
    return layer(base.mark_line(strokeWidth=1.4), at_zero, even, width=WIDE, height=260)


def binned(curve: np.ndarray) -> tuple[list[int], list[float]]:
    """A curve [T] over positions as bin starts and the highest value in each bin; NaN for 0.

    The first positions have a bin each; later bins are evenly wide on a log scale. The highest
    value, since a mean would hide a sink at a single later position.
    """
    positions = len(curve)
    edges = np.geomspace(1, positions + 1, RECEIVED_POINTS + 1) - 1
    starts = np.unique(np.rint(edges).astype(int).clip(0, positions))
    pairs = list(pairwise(starts.tolist()))
    highest = [frames.nanmax(curve[low:high]) for low, high in pairs]
    return [low for low, _ in pairs], [value if value > 0 else np.nan for value in highest]


def uniform_by_key(positions: int) -> np.ndarray:
    """[key] attention each key would receive if every query spread its own evenly (causal)."""
    each = 1 / np.arange(1, positions + 1)
    return np.cumsum(each[::-1])[::-1] / np.arange(positions, 0, -1)
