"""Charts over heads and positions. Each function takes a scan dataset and returns one chart.

`charts` of the optional variables return None where the dataset lacks them. Colours come from the
config that the page or the exporter adds (`theme.py`), so a chart itself holds none.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import altair as alt
import numpy as np

from sinkscope.report import frames

if TYPE_CHECKING:
    from xarray import Dataset

PLAIN = ",~r"  # numbers without exponents or prefixes
Chart = alt.Chart | alt.LayerChart | alt.FacetChart
QUANTILES = 120  # points of the ranked-heads curve
MOST_LETTERS = 64  # blocks beyond which letters under them would run into each other
RECEIVED_POINTS = 48  # positions kept of the received-attention curves, dense near zero


@dataclass(frozen=True)
class Measure:
    """One measure of the block × head heat map.

    name     key in the page and in `heads_chart`
    label    in the selector
    legend   legend title, with the unit
    caption  what it says and against which null
    """

    name: str
    label: str
    legend: str
    caption: str
    scale: str = "share"


MEASURES = (
    Measure(
        "late_share",
        "Late share of P0",
        "Share of attention on P0, later queries",
        "Mean share of attention that queries in the second half of a prompt give to position "
        "zero. Null: uniform attention.",
    ),
    Measure(
        "alpha0",
        "Attention received by P0 (α₀)",
        "Attention received by P0 (α₀)",
        "Mean attention that position zero receives from all queries, after Gu et al. It counts "
        "query zero, which can only look at itself, so the uniform null is higher here.",
    ),
    Measure(
        "selectivity",
        "Selectivity for P0",
        "Late share over uniform (×, log scale)",
        "Late share of position zero divided by what uniform attention would give it. One means "
        "that position zero is treated like any other.",
        "log",
    ),
    Measure(
        "entropy",
        "Entropy of attention rows",
        "Entropy of a row (nats)",
        "Mean entropy of the attention rows. A sink head is low, but so is any head that looks "
        "at one place; read it beside the late share.",
        "linear",
    ),
    Measure(
        "learned_mass",
        "Mass on a learned sink",
        "Share on the learned sink logit",
        "Share of attention that goes to the learned extra logit of the softmax, which is no "
        "position at all.",
    ),
    Measure(
        "elsewhere_mass",
        "Mass on sinks elsewhere",
        "Share on sinks away from P0",
        "Share of attention on positions other than zero that receive more than 0.3 of the "
        "attention of the queries that see them.",
    ),
    Measure(
        "head_class",
        "Class of head",
        "Class of head",
        "Not a sink: late share up to 0.3. No-op: P0’s value is under 0.2 times the usual norm, "
        "so reading it adds almost nothing. Broadcast: that norm is usual (0.5 to 1.5) and the "
        "head writes nearly one vector everywhere (stable rank up to 1.5). Undecided: between "
        "these thresholds, which are those of Fesser et al.",
        "class",
    ),
)


def head_values(data: Dataset, name: str) -> np.ndarray | None:
    """[layer, head] values of a heat-map measure, or None where the dataset lacks it."""
    if name == "late_share":
        return frames.late_share(data)
    if name == "alpha0":
        return frames.alpha0(data)
    return np.asarray(data[name].values, dtype=np.float64) if frames.has(data, name) else None


def measures_of(data: Dataset) -> list[Measure]:
    """The heat-map measures that this dataset can show."""
    return [measure for measure in MEASURES if head_values(data, measure.name) is not None]


def heads_chart(data: Dataset, name: str = "late_share") -> Chart:
    """Block × head heat map of one measure (`MEASURES` lists the names)."""
    measure = next(measure for measure in MEASURES if measure.name == name)
    values = head_values(data, name)
    if values is None:
        raise KeyError(f"This scan holds no {name}.")
    table = frames.per_head(data, values)
    if measure.scale == "class":
        for row in table:
            row["value"] = frames.HEAD_CLASSES[int(row["value"])]
    return heat_map(data, table, _colour(measure), measure.legend)


def _colour(measure: Measure) -> alt.Color:
    title = measure.legend
    if measure.scale == "class":
        return alt.Color(
            "value:N", title=title, scale=alt.Scale(domain=list(frames.HEAD_CLASSES)), legend=_TOP
        )
    if measure.scale == "log":
        return alt.Color("value:Q", title=title, scale=alt.Scale(type="log"), legend=_log_legend())
    if measure.scale == "share":
        legend = alt.Legend(format=".0%", values=[0, 0.25, 0.5, 0.75, 1])
        return alt.Color("value:Q", title=title, scale=alt.Scale(domain=[0, 1]), legend=legend)
    return alt.Color("value:Q", title=title, scale=alt.Scale(zero=True))


_TWO = alt.Legend(columns=2, symbolType="stroke")
_TOP = alt.Legend(orient="top", symbolType="square")


def _log_legend() -> alt.Legend:
    return alt.Legend(format=PLAIN, tickCount=4)


def heat_map(data: Dataset, table: list[frames.Row], colour: alt.Color, title: str) -> Chart:
    """Rows of block, head, value and type as a heat map with depth running to the right."""
    heads = data.sizes["head"]
    value = alt.Tooltip("value:Q", title=title, format=".3~g")
    if table and isinstance(table[0]["value"], str):
        value = alt.Tooltip("value:N", title=title)
    return (
        alt.Chart(frames.inline(table), width=620, height=_height(heads))
        .mark_rect(aria=False)
        .encode(
            x=alt.X(
                "block:O", title="Block", axis=block_axis(data), scale=tiles(frames.blocks(data))
            ),
            y=alt.Y(
                "head:O",
                title="Head",
                axis=alt.Axis(values=_every(heads), **_BARE),
                scale=tiles(range(heads)),
            ),
            color=colour,
            tooltip=[
                alt.Tooltip("block:O", title="Block"),
                alt.Tooltip("head:O", title="Head"),
                value,
                alt.Tooltip("type:N", title="Attention"),
            ],
        )
    )


_BARE: dict[str, Any] = {"ticks": False, "domain": False, "labelAngle": 0}


def tiles(domain: Iterable[Any]) -> alt.Scale:
    """Scale of all tiles of a heat map, also the empty ones, with a hair between them."""
    return alt.Scale(domain=[int(number) for number in domain], padding=0.05)


def _height(heads: int) -> int:
    return int(np.clip(heads * 14, 90, 420))


def _every(count: int, most: int = 16) -> list[int]:
    step = next(step for step in (1, 2, 4, 8, 16, 32, 64) if count / step <= most or step == 64)
    return list(range(0, count, step))


def block_axis(data: Dataset) -> alt.Axis:
    """Axis of blocks; a letter under the number marks the blocks without full attention."""
    numbers = [int(block) for block in frames.blocks(data)]
    ticks = [numbers[i] for i in _every(len(numbers))]
    letters = {n: kind[0] for n, kind in zip(numbers, frames.layer_types(data)) if kind != "full"}
    if not letters or len(numbers) > MOST_LETTERS:
        return alt.Axis(values=ticks, **_BARE)
    shown = ",".join(f"'{block}':'{block}'" for block in ticks)
    marked = ",".join(f"'{block}':'{letter}'" for block, letter in letters.items())
    label = f"[({{{shown}}})[datum.label] || '', ({{{marked}}})[datum.label] || '']"
    return alt.Axis(values=numbers, labelExpr=label, labelOverlap=False, **_BARE)


def difference_chart(data: Dataset, against: Dataset) -> Chart | None:
    """Heat map of the late share here minus there; None where the shapes differ."""
    here, there = frames.late_share(data), frames.late_share(against)
    if here.shape != there.shape:
        return None
    colour = alt.Color(
        "value:Q",
        title="Late share, this run − the other",
        scale=alt.Scale(domain=[-1, 1], range="diverging"),
        legend=alt.Legend(format="+.0%", values=[-1, -0.5, 0, 0.5, 1]),
    )
    return heat_map(data, frames.per_head(data, here - there), colour, "Difference")


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
        even = frames.nanmean(data["uniform_received"].values[layers])
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
    received = frames.nanmean(data["received"].values, axis=1)
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


def uniform_by_key(positions: int) -> np.ndarray:
    """[key] attention each key would receive if every query spread its own evenly (causal)."""
    each = 1 / np.arange(1, positions + 1)
    return np.cumsum(each[::-1])[::-1] / np.arange(positions, 0, -1)


def _position_ticks(positions: int) -> list[int]:
    steps = [0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000]
    return [step for step in steps if step < positions]
