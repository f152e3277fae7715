"""Charts along the depth of the model: everything with blocks or their inputs on the x axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
from xarray import Dataset

from sinkscope.report import frames
from sinkscope.report.charts import (
    BARE,
    HEIGHT,
    INPUT,
    INPUTS,
    Chart,
    band,
    every,
    inputs_x,
    layer,
    lines,
    log_colour,
    log_y,
    part,
    percents,
    rule,
    tile_scale,
    tiles,
    tips,
    value_y,
    whole_x,
)
from sinkscope.report.phases import phase_marks
from sinkscope.schema.trace import PhaseRow
from sinkscope.stats import nan_mean

CHANNELS = 8  # of P0 that are drawn


def norm_chart(data: Dataset, phases: Sequence[PhaseRow] = ()) -> Chart | None:
    """Norm of P0's residual stream over the median token's: mean of logs, and range.

    phases  its rises and falls, where a trace found several
    """
    if not frames.has(data, "norm_ratio"):
        return None
    values = np.asarray(data["norm_ratio"].values, dtype=np.float64)
    table = frames.rows(
        point=data["point"].values,
        value=frames.norm_ratio(data),
        low=np.nanmin(values, axis=0),
        high=np.nanmax(values, axis=0),
    )
    x, y = _inputs(data), log_y("‖P0‖ / median ‖other tokens‖ (×, log)", values[values > 0])
    return layer(rule(1), *phase_marks(phases), band(table, x, y), lines(table, x, y, INPUT))


def cosine_chart(data: Dataset) -> Chart | None:
    """Mean pairwise cosine of P0's stream over different first tokens."""
    y = value_y("Mean pairwise cosine", domainMax=1)
    return _one_line(data, "p0_cosine", y, 0)


def secondary_chart(data: Dataset) -> Chart | None:
    """Share of later tokens that point along the sink direction; None where no token does."""
    if not frames.has(data, "secondary_share") or not (data["secondary_share"].values > 0).any():
        return None
    # shares of a few tokens in thousands
    return _one_line(data, "secondary_share", value_y("Share of later tokens", percents(".2~p")))


def _one_line(data: Dataset, name: str, y: alt.Y, reference: float | None = None) -> Chart | None:
    if not frames.has(data, name):
        return None
    table = frames.rows(point=data["point"].values, value=data[name].values)
    line = lines(table, _inputs(data), y, INPUT)
    return layer(*([] if reference is None else [rule(reference)]), line)


def massive_chart(data: Dataset) -> Chart | None:
    """Largest activation over the median one, at P0 and elsewhere, with the 1000× rule."""
    names = {"Position zero": "massive_p0", "Other positions": "massive_others"}
    table = _series(data, names, "point")
    if not table:
        return None
    y = log_y("max |x| / median |x| (×, log)", (row["value"] for row in table))
    return layer(rule(1000), lines(table, _inputs(data), y))


def channels_chart(data: Dataset) -> Chart | None:
    """Where along the depth which channels of P0 are the largest."""
    if not frames.has(data, "massive_channel", "massive_value"):
        return None
    channels = np.asarray(data["massive_channel"].values)
    points, shown = data["point"].values, top_channels(data)
    table = frames.rows(
        point=np.repeat(points, channels.shape[1]),
        channel=channels.ravel(),
        value=np.abs(np.asarray(data["massive_value"].values, dtype=np.float64)).ravel(),
    )
    axis = alt.Axis(values=[int(points[i]) for i in every(len(points))], **BARE)
    return tiles(
        [row for row in table if row["channel"] in shown and row["value"] > 0],
        alt.X("point:O", title=INPUTS, axis=axis, scale=tile_scale(points)),
        alt.Y("channel:O", title="Channel", scale=tile_scale(shown), axis=alt.Axis(**BARE)),
        log_colour("|activation| at P0 (log)"),
        tips(channel="Channel", point=INPUT, value="|activation|"),
        height=HEIGHT,
    )


def top_channels(data: Dataset) -> list[int]:
    """Channels of P0 with the largest activations at any block input, largest first."""
    channels = np.asarray(data["massive_channel"].values).ravel()
    size = np.abs(np.asarray(data["massive_value"].values, dtype=np.float64)).ravel()
    order = channels[np.argsort(-size)]
    return [int(channel) for channel in dict.fromkeys(order.tolist())][:CHANNELS]


def value_chart(data: Dataset) -> Chart | None:
    """Norm of P0's value vector over the median token's, a dot a key-value head."""
    if not frames.has(data, "value_norm_ratio"):
        return None
    values = np.asarray(data["value_norm_ratio"].values, dtype=np.float64)
    known = np.where(values > 0, values, np.nan)
    table = frames.grid(known, block=frames.blocks(data), head=range(values.shape[1]))
    y = log_y("‖v₀‖ / median ‖v‖ (×, log)", [1, *(row["value"] for row in table)])
    dots = part(table).mark_point(opacity=0.7)
    said = tips(block="Block", head="Key-value head", value="Ratio")
    return layer(rule(1), dots.encode(x=_blocks(data), y=y, tooltip=said))


def rank_chart(data: Dataset) -> Chart | None:
    """Stable rank of the head update with and without P0, medians over the heads."""
    names = {"All positions": "stable_rank", "Without P0": "stable_rank_without_p0"}
    return _by_block(data, names, "Stable rank (median head)", zero=True)


def qk_cosine_chart(data: Dataset) -> Chart | None:
    """Cosine between queries and the key of P0, and the keys elsewhere."""
    names = {"Key of P0": "qk_cos_p0", "Other keys": "qk_cos_others"}
    return _by_block(data, names, "Cosine of query and key", 0)


def qk_logit_chart(data: Dataset) -> Chart | None:
    """The attention logit at P0 and elsewhere, with its bias and rotary parts."""
    names = {"Logit at P0": "qk_logit_p0", "Logit elsewhere": "qk_logit_others"}
    more = {"Part from the query bias": "qk_bias_part", "Part from rotation": "qk_rope_part"}
    return _by_block(data, names, "Logit (median head)", 0, more)


def key_norm_chart(data: Dataset) -> Chart | None:
    """Norms of the key of P0, of other keys and of queries."""
    names = {"Key of P0": "k0_norm", "Other keys": "k_norm_others"}
    more = {"Queries": "q_norm"}
    return _by_block(data, names, "Norm (median head)", more=more, zero=True)


def elsewhere_chart(data: Dataset) -> Chart:
    """Share of attention on P0, on sinks elsewhere and on a learned sink, by block."""
    shares = {"Position zero": nan_mean(frames.late_share(data), axis=1)}
    for label, name in (("Sinks elsewhere", "elsewhere_mass"), ("Learned sink", "learned_mass")):
        if frames.has(data, name):
            shares[label] = nan_mean(data[name].values, axis=1)
    y = value_y("Share of attention (mean head)", percents(), zero=True)
    return layer(lines(frames.long(shares, block=frames.blocks(data)), _blocks(data), y))


def _by_block(
    data: Dataset,
    names: dict[str, str],
    title: str,
    reference: float | None = None,
    more: dict[str, str] | None = None,
    **scale: Any,
) -> Chart | None:
    """Lines over blocks of all variables in `names` (or None), and of those there are in `more`."""
    if not frames.has(data, *names.values()):
        return None
    names = names | {k: name for k, name in (more or {}).items() if frames.has(data, name)}
    drawn = lines(
        _series(data, names, "block"), _blocks(data), value_y(title, **{"zero": False, **scale})
    )
    return layer(*([] if reference is None else [rule(reference)]), drawn)


def _series(data: Dataset, names: dict[str, str], along: str) -> list[frames.Row]:
    """Variables as rows of x, value and series; head dimensions are reduced to their median."""
    if not frames.has(data, *names.values()):
        return []
    columns = {}
    for label, name in names.items():
        values = np.asarray(data[name].values, dtype=np.float64)
        columns[label] = values if values.ndim == 1 else frames.nanmedian(values, axis=1)
    return frames.long(
        columns, **{along: data["point"].values if along == "point" else frames.blocks(data)}
    )


def _inputs(data: Dataset) -> alt.X:
    return inputs_x([0, data["point"].values[-1]])


def _blocks(data: Dataset) -> alt.X:
    return whole_x("block", "Block", frames.blocks(data), padding=6)
