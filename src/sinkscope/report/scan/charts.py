"""The block × head heat maps of a scan."""

from __future__ import annotations

from dataclasses import dataclass

import altair as alt
import numpy as np
from xarray import Dataset

from sinkscope.report import frames
from sinkscope.report.charts import (
    BARE,
    WIDE,
    Chart,
    every,
    log_colour,
    tile_scale,
    tiles,
    tiles_high,
    tips,
)

MOST_LETTERS = 64  # blocks beyond which letters under them would run into each other


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
        "Not a sink: late share up to 0.3. No-op: P0's value is under 0.2 times the usual norm, "
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


def heads_chart(data: Dataset, name: str = "late_share") -> Chart | None:
    """Block × head heat map of one measure (`MEASURES` lists the names); None without it."""
    measure = next(measure for measure in MEASURES if measure.name == name)
    values = head_values(data, name)
    if values is None:
        return None
    table = frames.per_head(data, values)
    if measure.scale == "class":
        for row in table:
            row["value"] = frames.HEAD_CLASSES[int(row["value"])]
    return heat_map(data, table, _colour(measure), measure.legend)


def _colour(measure: Measure) -> alt.Color:
    title = measure.legend
    if measure.scale == "class":
        scale = alt.Scale(domain=list(frames.HEAD_CLASSES))
        legend = alt.Legend(orient="top", symbolType="square")
        return alt.Color("value:N", title=title, scale=scale, legend=legend)
    if measure.scale == "log":
        return log_colour(title)
    if measure.scale == "share":
        legend = alt.Legend(format=".0%", values=[0, 0.25, 0.5, 0.75, 1])
        return alt.Color("value:Q", title=title, scale=alt.Scale(domain=[0, 1]), legend=legend)
    return alt.Color("value:Q", title=title, scale=alt.Scale(zero=True))


def heat_map(data: Dataset, table: list[frames.Row], colour: alt.Color, title: str) -> Chart:
    """Rows of block, head, value and type as a heat map with depth running to the right."""
    heads = data.sizes["head"]
    said = tips(block="Block", head="Head", value=title, type="Attention")
    if table and isinstance(table[0]["value"], str):
        said[2] = alt.Tooltip("value:N", title=title)
    axis = alt.Axis(values=every(heads), **BARE)
    return tiles(
        table,
        alt.X(
            "block:O", title="Block", axis=block_axis(data), scale=tile_scale(frames.blocks(data))
        ),
        alt.Y("head:O", title="Head", axis=axis, scale=tile_scale(range(heads))),
        colour,
        said,
        width=WIDE,
        height=tiles_high(heads),
    )


def block_axis(data: Dataset) -> alt.Axis:
    """Axis of blocks; a letter under the number marks the blocks without full attention."""
    numbers = [int(block) for block in frames.blocks(data)]
    ticks = [numbers[i] for i in every(len(numbers))]
    letters = {n: kind[0] for n, kind in zip(numbers, frames.layer_types(data)) if kind != "full"}
    if not letters or len(numbers) > MOST_LETTERS:
        return alt.Axis(values=ticks, **BARE)
    shown = ",".join(f"'{block}':'{block}'" for block in ticks)
    marked = ",".join(f"'{block}':'{letter}'" for block, letter in letters.items())
    label = f"[({{{shown}}})[datum.label] || '', ({{{marked}}})[datum.label] || '']"
    return alt.Axis(values=numbers, labelExpr=label, labelOverlap=False, **BARE)


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
