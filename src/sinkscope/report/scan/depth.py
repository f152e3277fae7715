"""Charts along the depth of the model: everything with blocks or read points on the x axis."""

from __future__ import annotations

from typing import TYPE_CHECKING

import altair as alt
import numpy as np

from sinkscope.report import frames
from sinkscope.report.scan.charts import PLAIN, Chart, log_axis, tiles
from sinkscope.stats import nan_mean

if TYPE_CHECKING:
    from xarray import Dataset

HEIGHT = 190
POINT_TITLE = "Read point (input of a block; last: output)"


def norm_chart(data: Dataset) -> Chart | None:
    """Norm of P0's residual stream over the median token's: median and range over prompts."""
    if not frames.has(data, "norm_ratio"):
        return None
    values = np.asarray(data["norm_ratio"].values, dtype=np.float64)
    table = frames.rows(
        point=data["point"].values,
        value=frames.nanmedian(values, axis=0),
        low=np.nanmin(values, axis=0),
        high=np.nanmax(values, axis=0),
    )
    base = alt.Chart(frames.inline(table))
    x = _points(data)
    log = alt.Scale(type="log")
    title = "‖P0‖ / median ‖other tokens‖ (×, log)"
    band = base.mark_area(opacity=0.2).encode(
        x=x, y=alt.Y("low:Q", scale=log, title=title), y2="high:Q"
    )
    line = base.mark_line(point=True).encode(
        x=x,
        y=alt.Y("value:Q", scale=log, title=title, axis=log_axis(values[values > 0])),
        tooltip=[
            alt.Tooltip("point:Q", title="Read point"),
            alt.Tooltip("value:Q", title="Median ratio", format=".3~g"),
        ],
    )
    return _sized(alt.layer(_rule(1), band, line))


def cosine_chart(data: Dataset) -> Chart | None:
    """Mean pairwise cosine of P0's stream over different first tokens."""
    if not frames.has(data, "p0_cosine"):
        return None
    table = frames.rows(point=data["point"].values, value=data["p0_cosine"].values)
    line = (
        alt.Chart(frames.inline(table))
        .mark_line(point=True)
        .encode(
            x=_points(data),
            y=alt.Y("value:Q", title="Mean pairwise cosine", scale=alt.Scale(domainMax=1)),
            tooltip=[
                alt.Tooltip("point:Q", title="Read point"),
                alt.Tooltip("value:Q", title="Cosine", format=".3~f"),
            ],
        )
    )
    return _sized(alt.layer(_rule(0), line))


def massive_chart(data: Dataset) -> Chart | None:
    """Largest activation over the median one, at P0 and elsewhere, with the 1000× rule."""
    if not frames.has(data, "massive_p0", "massive_others"):
        return None
    series = {"Position zero": "massive_p0", "Other positions": "massive_others"}
    table = _series(data, series, "point")
    lines = _lines(table, _points(data), "max |x| / median |x| (×, log)", log=True)
    return _sized(alt.layer(_rule(1000), lines))


def channels_chart(data: Dataset) -> Chart | None:
    """Where along the depth which channels of P0 are the largest."""
    if not frames.has(data, "massive_channel", "massive_value"):
        return None
    channels = np.asarray(data["massive_channel"].values)
    size = np.abs(np.asarray(data["massive_value"].values, dtype=np.float64))
    shown = top_channels(data)
    table = frames.rows(
        point=np.repeat(data["point"].values, channels.shape[1]),
        channel=channels.ravel(),
        value=size.ravel(),
    )
    table = [row for row in table if row["channel"] in shown and row["value"] > 0]
    return _sized(
        alt.Chart(frames.inline(table))
        .mark_rect(aria=False)
        .encode(
            x=alt.X(
                "point:O",
                title=POINT_TITLE,
                axis=_ordinal_points(data),
                scale=tiles(data["point"].values),
            ),
            y=alt.Y("channel:O", title="Channel", scale=tiles(shown), axis=_bare()),
            color=alt.Color(
                "value:Q",
                title="|activation| at P0 (log)",
                scale=alt.Scale(type="log"),
                legend=alt.Legend(format=PLAIN, tickCount=4),
            ),
            tooltip=[
                alt.Tooltip("channel:O", title="Channel"),
                alt.Tooltip("point:O", title="Read point"),
                alt.Tooltip("value:Q", title="|activation|", format=".3~g"),
            ],
        )
    )


def top_channels(data: Dataset, most: int = 8) -> list[int]:
    """Channels of P0 with the largest activations at any read point, largest first."""
    channels = np.asarray(data["massive_channel"].values).ravel()
    size = np.abs(np.asarray(data["massive_value"].values, dtype=np.float64)).ravel()
    order = channels[np.argsort(-size)]
    return [int(channel) for channel in dict.fromkeys(order.tolist())][:most]


def value_chart(data: Dataset) -> Chart | None:
    """Norm of P0's value vector over the median token's, a dot a key-value head."""
    if not frames.has(data, "value_norm_ratio"):
        return None
    values = np.asarray(data["value_norm_ratio"].values, dtype=np.float64)
    return _dots(data, values, "‖v₀‖ / median ‖v‖ (×, log)", reference=1)


def rank_chart(data: Dataset) -> Chart | None:
    """Stable rank of the head update with and without P0, medians over the heads."""
    names = {"All positions": "stable_rank", "Without P0": "stable_rank_without_p0"}
    if not frames.has(data, *names.values()):
        return None
    table = _series(data, names, "block")
    return _sized(_lines(table, _block_x(data), "Stable rank (median head)", zero=True))


def qk_cosine_chart(data: Dataset) -> Chart | None:
    """Cosine between queries and the key of P0, and the keys elsewhere."""
    names = {"Key of P0": "qk_cos_p0", "Other keys": "qk_cos_others"}
    if not frames.has(data, *names.values()):
        return None
    lines = _lines(_series(data, names, "block"), _block_x(data), "Cosine of query and key")
    return _sized(alt.layer(_rule(0), lines))


def qk_logit_chart(data: Dataset) -> Chart | None:
    """The attention logit at P0 and elsewhere, with its bias and rotary parts."""
    names = {"Logit at P0": "qk_logit_p0", "Logit elsewhere": "qk_logit_others"}
    if not frames.has(data, *names.values()):
        return None
    parts = {"Part from the query bias": "qk_bias_part", "Part from rotation": "qk_rope_part"}
    names |= {label: name for label, name in parts.items() if frames.has(data, name)}
    lines = _lines(_series(data, names, "block"), _block_x(data), "Logit (median head)")
    return _sized(alt.layer(_rule(0), lines))


def key_norm_chart(data: Dataset) -> Chart | None:
    """Norms of the key of P0, of other keys and of queries."""
    names = {"Key of P0": "k0_norm", "Other keys": "k_norm_others"}
    if not frames.has(data, *names.values()):
        return None
    if frames.has(data, "q_norm"):
        names["Queries"] = "q_norm"
    return _sized(
        _lines(_series(data, names, "block"), _block_x(data), "Norm (median head)", zero=True)
    )


def elsewhere_chart(data: Dataset) -> Chart:
    """Share of attention on P0, on sinks elsewhere and on a learned sink, by block."""
    shares = {"Position zero": nan_mean(frames.late_share(data), axis=1)}
    for label, name in (("Sinks elsewhere", "elsewhere_mass"), ("Learned sink", "learned_mass")):
        if frames.has(data, name):
            shares[label] = nan_mean(data[name].values, axis=1)
    table = _long(frames.blocks(data), shares, "block")
    return _sized(_lines(table, _block_x(data), "Share of attention (mean head)", percent=True))


def secondary_chart(data: Dataset) -> Chart | None:
    """Share of later tokens that point along the sink direction."""
    if not frames.has(data, "secondary_share"):
        return None
    table = frames.rows(point=data["point"].values, value=data["secondary_share"].values)
    chart = alt.Chart(frames.inline(table)).mark_line(point=True)
    axis = alt.Axis(format=".2~p", tickCount=5)  # shares of a few tokens in thousands
    y = alt.Y("value:Q", title="Share of later tokens", axis=axis)
    return _sized(chart.encode(x=_points(data), y=y))


def _series(data: Dataset, names: dict[str, str], along: str) -> list[frames.Row]:
    """Variables as rows of x, value and series; head dimensions are reduced to their median."""
    x = data["point"].values if along == "point" else frames.blocks(data)
    columns = {}
    for label, name in names.items():
        values = np.asarray(data[name].values, dtype=np.float64)
        columns[label] = values if values.ndim == 1 else frames.nanmedian(values, axis=1)
    return _long(x, columns, along)


def _long(x: np.ndarray, columns: dict[str, np.ndarray], along: str) -> list[frames.Row]:
    table: list[frames.Row] = []
    for label, values in columns.items():
        table += frames.rows(**{along: x, "value": values, "series": [label] * len(x)})
    return table


def _lines(
    table: list[frames.Row],
    x: alt.X,
    title: str,
    log: bool = False,
    percent: bool = False,
    zero: bool = False,
) -> alt.Chart:
    order = list(dict.fromkeys(row["series"] for row in table))
    axis = alt.Axis(format=".0%", tickCount=5) if percent else alt.Axis(tickCount=5)
    if log:
        axis = log_axis(row["value"] for row in table)
    scale = alt.Scale(type="log") if log else alt.Scale(zero=percent or zero)
    domain, legend = alt.Scale(domain=order), alt.Legend(columns=2)
    return (
        alt.Chart(frames.inline(table))
        .mark_line(point=True)
        .encode(
            x=x,
            y=alt.Y("value:Q", title=title, scale=scale, axis=axis),
            color=alt.Color("series:N", title=None, scale=domain, legend=legend),
            shape=alt.Shape("series:N", title=None, scale=domain, legend=legend),
            tooltip=[
                alt.Tooltip("series:N", title=" "),
                alt.Tooltip(str(x.shorthand), title="At"),
                alt.Tooltip("value:Q", title="Value", format=".3~g"),
            ],
        )
    )


def _dots(data: Dataset, values: np.ndarray, title: str, reference: float) -> Chart:
    count = values.shape[1]
    table = frames.rows(
        block=np.repeat(frames.blocks(data), count),
        head=np.tile(np.arange(count), values.shape[0]),
        value=np.where(values > 0, values, np.nan).ravel(),
    )
    axis = log_axis([reference, *(row["value"] for row in table)])
    y = alt.Y("value:Q", title=title, scale=alt.Scale(type="log"), axis=axis)
    dots = (
        alt.Chart(frames.inline(table))
        .mark_point(opacity=0.7)
        .encode(
            x=_block_x(data),
            y=y,
            tooltip=[
                alt.Tooltip("block:Q", title="Block"),
                alt.Tooltip("head:O", title="Key-value head"),
                alt.Tooltip("value:Q", title="Ratio", format=".3~g"),
            ],
        )
    )
    return _sized(alt.layer(_rule(reference), dots))


def _rule(value: float) -> alt.Chart:
    return alt.Chart(frames.inline([{"rule": value}])).mark_rule().encode(y="rule:Q")


def _points(data: Dataset) -> alt.X:
    last = int(data["point"].values[-1])
    return alt.X(
        "point:Q",
        title=POINT_TITLE,
        scale=alt.Scale(domain=[0, last], nice=False),
        axis=alt.Axis(format="d", tickMinStep=1, grid=False),
    )


def _ordinal_points(data: Dataset) -> alt.Axis:
    numbers = data["point"].values
    step = max(1, len(numbers) // 16)
    return alt.Axis(
        values=[int(n) for n in numbers[::step]], labelAngle=0, ticks=False, domain=False
    )


def _block_x(data: Dataset) -> alt.X:
    numbers = frames.blocks(data)
    return alt.X(
        "block:Q",
        title="Block",
        scale=alt.Scale(domain=[int(numbers[0]), int(numbers[-1])], nice=False, padding=6),
        axis=alt.Axis(format="d", tickMinStep=1, grid=False),
    )


def _bare() -> alt.Axis:
    return alt.Axis(ticks=False, domain=False)


def _sized(chart: Chart) -> Chart:
    return chart.properties(width=420, height=HEIGHT)
