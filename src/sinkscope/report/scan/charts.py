"""The block × head heat maps, and what all charts share.

A chart takes a scan dataset and comes back as None where the dataset lacks its variables. Colours
come from the config that the page or the exporter adds (`theme.py`), so a chart holds none.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import altair as alt
import numpy as np

from sinkscope.report import frames

if TYPE_CHECKING:
    from xarray import Dataset

PLAIN = ",~r"  # numbers without exponents or prefixes
Chart = alt.Chart | alt.LayerChart | alt.FacetChart
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
