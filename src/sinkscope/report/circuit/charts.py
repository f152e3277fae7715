"""Charts of what sets position zero apart: by whom, by how few, how early."""

from __future__ import annotations

from collections.abc import Mapping

import altair as alt
import numpy as np
from xarray import Dataset

from sinkscope.report import frames
from sinkscope.report.charts import (
    TICKS,
    Chart,
    by_series,
    chart,
    layer,
    lines,
    percents,
    rule,
    tips,
    value_y,
)
from sinkscope.report.phases import phases_of
from sinkscope.report.text import number_of
from sinkscope.result import TraceSummary

KINDS = {"embedding": "Embedding", "attention": "Attention", "mlp": "MLP", "other": "Other mixer"}


def shares_chart(trace: TraceSummary, data: Dataset) -> Chart | None:
    """Share of every sublayer, by block."""
    table: list[frames.Row] = []
    for name, share in trace.write_shares.items():
        block, _, kind = name.partition(".")
        series = KINDS.get(kind or name, kind or name)
        at = block if kind else "emb."
        table += frames.rows(block=[at], series=[series], value=[share])
    if not table:
        return None
    blocks = sorted({row["block"] for row in table} - {"emb."}, key=int)
    # the first three always, so that a kind has one colour everywhere
    held = {row["series"] for row in table}
    order = [name for name in KINDS.values() if name in held or name != KINDS["other"]]
    axis = alt.Axis(labelAngle=0, ticks=False, labelOverlap=True)
    return (
        chart(table)
        .mark_bar()
        .encode(
            x=alt.X("block:N", title="Block", sort=["emb.", *blocks], axis=axis),
            y=value_y("Share of what adds to it", percents()),
            tooltip=tips(".1%", block="Block", series=" ", value="Share"),
            **by_series(order),
        )
    )


def concentration_chart(trace: TraceSummary, data: Dataset) -> Chart | None:
    """C_k: what the first k blocks have written."""
    shown: dict[str, Mapping[str, float | None]] = {
        "Of the output along u": trace.concentration,
        "Of the log norm": trace.concentration_log_norm,
        **{
            f"Of phase {number}, along its own u": row["concentration"]
            for number, row in enumerate(phases_of(trace), 1)
        },
    }
    table = [
        {"k": int(k), "series": series, "value": frames.rounded(value)}
        for series, found in shown.items()
        for k, share in found.items()
        if (value := number_of(share)) is not None and str(k).isdigit()
    ]
    if not table:
        return None
    x = alt.X("k:Q", title="First k blocks", axis=alt.Axis(tickMinStep=1, grid=False))
    return layer(lines(table, x, value_y("Share", percents(), domain=[0, 1]), "k", ".1%"))


def neurons_chart(trace: TraceSummary, data: Dataset) -> Chart | None:
    """Cumulative share of the strongest neurons in the block that writes most."""
    if not frames.has(data, "neuron_write"):
        return None
    values = np.nan_to_num(np.asarray(data["neuron_write"].values, dtype=np.float64))
    positive = np.clip(values, 0.0, None)
    block = int(positive.sum(1).argmax())
    ranked = np.sort(positive[block])[::-1]
    # the arrays keep the strongest alone; the summary knows what all of them wrote together
    total = max(float(np.nansum(values[block])), float(ranked.sum()))
    if total <= 0:
        return None
    count = np.unique(np.rint(np.geomspace(1, len(ranked), 40)).astype(int))
    table = frames.rows(count=count, value=np.cumsum(ranked)[count - 1] / total)
    ticks = [n for n in TICKS if 0 < n <= min(len(ranked), 200)]
    x = alt.X(
        "count:Q",
        title=f"Neurons of block {block}, strongest first (log)",
        scale=alt.Scale(type="log", nice=False, padding=6),
        axis=alt.Axis(values=ticks, grid=False, format="d"),
    )
    y = value_y("Share of what they write along u", percents(), domain=[0, 1])
    return layer(rule(0.9, domain=[0, 1]), lines(table, x, y, "Neurons", ".1%"))
