"""Charts of what is written along the sink direction: by whom, by how few, how early."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import altair as alt
import numpy as np

from sinkscope.report import frames
from sinkscope.report.scan.charts import Chart
from sinkscope.report.text import number_of

if TYPE_CHECKING:
    from xarray import Dataset

    from sinkscope.result import TraceSummary

KINDS = {"embedding": "Embedding", "attention": "Attention", "mlp": "MLP", "other": "Other mixer"}


def shares_chart(trace: TraceSummary, data: Dataset) -> Chart | None:
    """Share of every sublayer, by block."""
    table: list[frames.Row] = []
    for name, share in trace.write_shares.items():
        block, _, kind = name.partition(".")
        series = KINDS.get(kind or name, kind or name)
        table += frames.rows(block=["0" if not kind else block], series=[series], value=[share])
        if not kind:
            table[-1]["block"] = "emb."
    if not table:
        return None
    blocks = sorted({r["block"] for r in table if r["block"] != "emb."}, key=int)
    # the first three always, so that a kind has one colour everywhere
    held = {row["series"] for row in table}
    order = [name for name in KINDS.values() if name in held or name != KINDS["other"]]
    return (
        alt.Chart(frames.inline(table))
        .mark_bar()
        .encode(
            x=alt.X(
                "block:N",
                title="Block",
                sort=["emb.", *blocks],
                axis=alt.Axis(labelAngle=0, ticks=False, labelOverlap=True),
            ),
            y=alt.Y(
                "value:Q",
                title="Share of the write along u",
                axis=alt.Axis(format=".0%", tickCount=5),
            ),
            color=alt.Color("series:N", title=None, scale=alt.Scale(domain=order)),
            tooltip=[
                alt.Tooltip("block:N", title="Block"),
                alt.Tooltip("series:N", title=" "),
                alt.Tooltip("value:Q", title="Share", format=".1%"),
            ],
        )
        .properties(width=420, height=190)
    )


def concentration_chart(trace: TraceSummary, data: Dataset) -> Chart | None:
    """C_k: what the first k blocks have written."""
    shown: dict[str, Mapping[str, float | None]] = {
        "Of the write along u": trace.concentration,
        "Of the log norm": trace.concentration_log_norm,
    }
    table = [
        {"k": int(k), "series": series, "value": frames.rounded(value)}
        for series, found in shown.items()
        for k, share in found.items()
        if (value := number_of(share)) is not None and str(k).isdigit()
    ]
    if not table:
        return None
    order = [name for name in shown if any(row["series"] == name for row in table)]
    axis = alt.Axis(format=".0%", tickCount=5)
    return (
        alt.Chart(frames.inline(table))
        .mark_line(point=True)
        .encode(
            x=alt.X("k:Q", title="First k blocks", axis=alt.Axis(tickMinStep=1, grid=False)),
            y=alt.Y("value:Q", title="Share", axis=axis, scale=alt.Scale(domain=[0, 1])),
            color=alt.Color("series:N", title=None, scale=alt.Scale(domain=order)),
            shape=alt.Shape("series:N", title=None, scale=alt.Scale(domain=order)),
            tooltip=[alt.Tooltip("k:Q"), alt.Tooltip("value:Q", title="Share", format=".1%")],
        )
        .properties(width=420, height=190)
    )


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
    line = (
        alt.Chart(frames.inline(table))
        .mark_line(point=True)
        .encode(
            x=alt.X(
                "count:Q",
                title=f"Neurons of block {block}, strongest first (log)",
                scale=alt.Scale(type="log", nice=False, padding=6),
                axis=alt.Axis(
                    values=[n for n in (1, 2, 5, 10, 20, 50, 100, 200) if n <= len(ranked)],
                    grid=False,
                    format="d",
                ),
            ),
            y=alt.Y(
                "value:Q",
                title="Share of what they write along u",
                axis=alt.Axis(format=".0%", tickCount=5),
                scale=alt.Scale(domain=[0, 1]),
            ),
            tooltip=[
                alt.Tooltip("count:Q", title="Neurons"),
                alt.Tooltip("value:Q", title="Share", format=".1%"),
            ],
        )
    )
    bound = alt.Chart(frames.inline([{"bound": 0.9}])).mark_rule().encode(y="bound:Q")
    return alt.layer(bound, line).properties(width=420, height=190)
