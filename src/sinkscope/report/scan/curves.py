"""Curves over ranked heads and over positions, each beside its null."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import altair as alt
import numpy as np

from sinkscope.report import frames
from sinkscope.report.scan.charts import Chart, log_axis
from sinkscope.stats import nan_mean

if TYPE_CHECKING:
    from xarray import Dataset

QUANTILES = 120  # points of the ranked-heads curve
RECEIVED_POINTS = 48  # bins of the received-attention curves, narrow near position zero
_TWO = alt.Legend(columns=2, symbolType="stroke")
RANKED = {
    "This model": [1, 0],
    "Same architecture, untrained": [1, 0],
    "Random targets, 99th percentile": [2, 2],
    "Uniform attention": [5, 4],
}


def ranked_chart(data: Dataset) -> Chart:
    """Attention received by P0 in all heads, ranked, beside the nulls."""
    model, untrained, random, uniform = RANKED
    table = _ranked(frames.alpha0(data), model, 0)
    if frames.has(data, "untrained_received"):
        for seed, values in enumerate(data["untrained_received"].values):
            table += _ranked(values, untrained, seed)
    if frames.has(data, "random_target_p99"):
        table += _ranked(data["random_target_p99"].values, random, 0)
    for run, layers in enumerate(frames.by_type(data).values()):
        even = nan_mean(data["uniform_received"].values[layers], None)
        table += frames.rows(rank=[0, 1], value=[even] * 2, series=[uniform] * 2, run=[run] * 2)
    shown = [name for name in RANKED if any(row["series"] == name for row in table)]
    dashes = alt.Scale(domain=shown, range=[RANKED[name] for name in shown])
    return (
        alt.Chart(frames.inline(table), width=620, height=220)
        .mark_line()
        .encode(
            x=alt.X("rank:Q", title="Heads, strongest first", axis=_tenths()),
            y=alt.Y(
                "value:Q",
                title="Attention received by P0 (α₀)",
                axis=_tenths(5),
                scale=alt.Scale(domain=[0, 1]),
            ),
            color=alt.Color("series:N", title=None, scale=alt.Scale(domain=shown), legend=_TWO),
            strokeDash=alt.StrokeDash("series:N", title=None, scale=dashes, legend=_TWO),
            detail="run:N",
        )
    )


def _tenths(count: int = 10) -> alt.Axis:
    return alt.Axis(format=".0%", tickCount=count)


def _ranked(values: np.ndarray, series: str, run: int) -> list[frames.Row]:
    ranked = np.sort(values[np.isfinite(values)])[::-1]
    if ranked.size == 0:
        return []
    part = np.linspace(0, 1, min(ranked.size, QUANTILES))
    picked = ranked[np.rint(part * (ranked.size - 1)).astype(int)]
    count = part.size
    return frames.rows(rank=part, value=picked, series=[series] * count, run=[run] * count)


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
    x = alt.X(
        "position:Q",
        title="Position (log scale; 0 is the first token)",
        scale=alt.Scale(
            type="symlog", constant=1, domain=[0, positions - 1], nice=False, padding=8
        ),
        axis=alt.Axis(values=_position_ticks(positions), grid=False, format="d"),
    )
    everything = [row["value"] for row in [*table, *null]]
    y = alt.Y(
        "value:Q",
        title="Attention received (log scale)",
        scale=alt.Scale(type="log"),
        axis=log_axis(everything, ",~%"),
    )
    colour = alt.Color(
        "block:Q",
        title="Block (mean over its heads)",
        scale=alt.Scale(range="ramp"),
        legend=alt.Legend(format="d", tickMinStep=1, tickCount=5),
    )
    base = alt.Chart(frames.inline(table)).encode(x=x, y=y, color=colour, detail="block:N")
    lines = base.mark_line(strokeWidth=1.4)
    at_zero = base.transform_filter("datum.position === 0").mark_point(size=34, aria=False)
    even = alt.Chart(frames.inline(null)).mark_line(style="null", strokeWidth=1.5)
    return alt.layer(lines, at_zero, even.encode(x=x, y=y)).properties(width=620, height=260)


def binned(curve: np.ndarray) -> tuple[list[int], list[float]]:
    """A curve over positions as bin starts and the highest value in each bin.

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


def _position_ticks(positions: int) -> list[int]:
    steps = [0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000]
    return [step for step in steps if step < positions]
