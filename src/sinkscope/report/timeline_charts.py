"""Charts over the steps of training; several runs lie in one picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import altair as alt
import numpy as np

from sinkscope.report import frames
from sinkscope.report.charts import Chart

if TYPE_CHECKING:
    from xarray import Dataset

Runs = dict[str, "Dataset"]
WIDTH, HEIGHT = 560, 210
AGREEMENT = {
    "head_jaccard": "Sinking heads",
    "neuron_jaccard": "Writing neurons",
    "channel_jaccard": "Largest channels",
    "expert_jaccard": "Experts of P0",
}
LOSSES = {
    "loss": "On the prompts",
    "validation_loss": "Validation, as logged",
    "training_loss": "Training, as logged",
}
RUN_LEGEND = alt.Legend(columns=2, symbolType="stroke")


@dataclass(frozen=True)
class Measure:
    """One curve over training: a key, a label, the title of its axis, a caption, its values."""

    name: str
    label: str
    title: str
    caption: str
    values: Callable[[Dataset], np.ndarray]
    null: str = ""
    share: bool = False


MEASURES = (
    Measure(
        "sink",
        "Late share of P0",
        "Late share of P0",
        "Share of attention that late queries give to position zero, mean over the heads that "
        "were looked at. Dashed: the 99th percentile of its null.",
        lambda data: frames.nanmean(data["sink_by_prompt"].values, axis=1),
        "null",
    ),
    Measure(
        "norm",
        "Norm of P0",
        "‖P0‖ / median ‖other tokens‖ (×)",
        "How many times longer position zero’s stream is than the others’, at the read point.",
        lambda data: np.exp(frames.nanmean(data["log_norm_by_prompt"].values, axis=1)),
    ),
    Measure(
        "c2",
        "C₂: first two blocks",
        "C₂",
        "Share of what is written along the sink direction that the first two blocks write.",
        lambda data: data["concentration"].values[:, 1],
        share=True,
    ),
    Measure(
        "turn",
        "Turn of the direction",
        "1 − cos(u now, u before)",
        "How far the sink direction turned since the checkpoint before: 0 is not at all.",
        lambda data: data["turn"].values,
    ),
    Measure(
        "to-last",
        "Direction beside its last",
        "cos(u, u at the end)",
        "Cosine of the sink direction to that of the last checkpoint.",
        lambda data: data["to_last"].values,
    ),
    Measure(
        "block",
        "Emergence block",
        "l* (−1: the embedding)",
        "The block after whose write position zero stays apart along the sink direction.",
        lambda data: data["emergence_block"].values,
    ),
)


def course_chart(
    runs: Runs, measure: Measure, found: dict[str, Any], log: bool = True
) -> Chart | None:
    """One measure over the steps of every run, stages shaded (one run), events marked."""
    table = _table(runs, measure.values)
    if not table:
        return None
    scale = alt.Scale(domain=[0, 1]) if measure.share else alt.Scale(zero=False)
    y = alt.Y("value:Q", title=measure.title, scale=scale)
    x = steps_axis(runs, log)
    layers: list[Any] = [*stage_layers(found, x), _lines(table, x, y, len(runs) > 1)]
    if measure.null:
        null = _table(runs, lambda data: data[measure.null].values)
        layers.append(
            alt.Chart(frames.inline(null))
            .mark_line(strokeDash=[4, 3], strokeWidth=1)
            .encode(x=x, y=y, detail="run:N")
        )
    return alt.layer(*layers, *event_layers(found, x)).properties(width=WIDTH, height=HEIGHT)


def bands_chart(data: Dataset, log: bool = True) -> Chart | None:
    """C_1 to C_4 over steps, with 95 % bands."""
    if not frames.has(data, "concentration"):
        return None
    table: list[frames.Row] = []
    for i, k in enumerate(data["first"].values):
        table += frames.rows(
            step=data["step"].values,
            value=data["concentration"].values[:, i],
            low=data["concentration_low"].values[:, i],
            high=data["concentration_high"].values[:, i],
            series=[f"C_{int(k)}"] * data.sizes["step"],
        )
    x = steps_axis({"": data}, log)
    base = alt.Chart(frames.inline(table))
    scale = alt.Scale(domain=[0, 1])
    colour = alt.Color("series:N", title=None, legend=RUN_LEGEND)
    band = base.mark_area(opacity=0.2).encode(
        x=x, y=alt.Y("low:Q", scale=scale, title="C_k"), y2="high:Q", color=colour
    )
    line = base.mark_line(point=True).encode(
        x=x, y=alt.Y("value:Q", scale=scale, title="C_k"), color=colour, tooltip=_tips("series")
    )
    return alt.layer(band, line).properties(width=WIDTH, height=HEIGHT)


def heat_chart(data: Dataset) -> Chart | None:
    """Block × step: log of the norm of P0 over the others'."""
    if not frames.has(data, "log_norm"):
        return None
    values = data["log_norm"].values
    points = np.arange(values.shape[1])
    table = frames.rows(
        step=np.repeat(data["step"].values, len(points)),
        point=np.tile(points, len(values)),
        value=np.exp(values).ravel(),
    )
    return (
        alt.Chart(frames.inline(table), width=WIDTH, height=max(80, 16 * len(points)))
        .mark_rect(aria=False)
        .encode(
            x=alt.X("step:O", title="Checkpoint", axis=alt.Axis(labelOverlap=True, labelAngle=0)),
            y=alt.Y("point:O", title="Read point", sort="descending"),
            color=alt.Color(
                "value:Q",
                title="‖P0‖ / median (×, log)",
                scale=alt.Scale(type="log"),
                legend=alt.Legend(format=".2~g", tickCount=4),
            ),
            tooltip=[
                alt.Tooltip("step:O", title="Step"),
                alt.Tooltip("point:O", title="Read point"),
                alt.Tooltip("value:Q", title="Ratio", format=".3~g"),
            ],
        )
    )


def agreement_chart(data: Dataset, log: bool = True) -> Chart | None:
    """Agreement of heads, neurons, channels and experts with the checkpoint before."""
    return _named(data, AGREEMENT, "Jaccard index", log, [0, 1])


def loss_chart(runs: Runs, log: bool = True) -> Chart | None:
    """Losses of every run, on the same axis as the course."""
    table: list[frames.Row] = []
    for run, data in runs.items():
        for name, label in LOSSES.items():
            if frames.has(data, name):
                series = label if len(runs) == 1 else f"{run}: {label.lower()}"
                table += _rows(data, data[name].values, series)
    if not table:
        return None
    y = alt.Y("value:Q", title="Loss (nats)", scale=alt.Scale(zero=False))
    return _lines(table, steps_axis(runs, log), y, True).properties(width=WIDTH, height=HEIGHT)


def _named(
    data: Dataset, names: dict[str, str], title: str, log: bool, domain: list[float]
) -> Chart | None:
    table: list[frames.Row] = []
    for name, label in names.items():
        if frames.has(data, name):
            table += _rows(data, data[name].values, label)
    if not table:
        return None
    y = alt.Y("value:Q", title=title, scale=alt.Scale(domain=domain))
    lines = _lines(table, steps_axis({"": data}, log), y, True)
    return lines.properties(width=WIDTH, height=HEIGHT)


def _table(runs: Runs, values: Callable[[Dataset], np.ndarray]) -> list[frames.Row]:
    return [row for run, data in runs.items() for row in _rows(data, values(data), run)]


def _rows(data: Dataset, values: np.ndarray, run: str) -> list[frames.Row]:
    return frames.rows(step=data["step"].values, value=values, run=[run] * data.sizes["step"])


def _lines(table: list[frames.Row], x: alt.X, y: alt.Y, coloured: bool) -> alt.Chart:
    chart = alt.Chart(frames.inline(table)).mark_line(point=True)
    encoded = chart.encode(x=x, y=y, detail="run:N", tooltip=_tips("run"))
    if coloured:
        return encoded.encode(color=alt.Color("run:N", title=None, legend=RUN_LEGEND))
    return encoded


def _tips(series: str) -> list[alt.Tooltip]:
    return [
        alt.Tooltip(f"{series}:N", title="Curve"),
        alt.Tooltip("step:Q", title="Step", format=",d"),
        alt.Tooltip("value:Q", title="Value", format=".3~g"),
    ]


def steps_axis(runs: Runs, log: bool) -> alt.X:
    """Steps on a log axis that can show step 0, or on a linear one; the same for every chart."""
    steps = np.concatenate([data["step"].values for data in runs.values()])
    units = {str(data.attrs.get("unit", "step")) for data in runs.values()}
    title = f"Training, {' and '.join(sorted(units))}s".replace("indexs", "index")
    if not log:
        return alt.X("step:Q", title=title, scale=alt.Scale(nice=False))
    least = int(steps[steps > 0].min()) if (steps > 0).any() else 1
    scale = alt.Scale(type="symlog", constant=least, nice=False)
    top = max(int(steps.max()), 1)
    marks = [0, *(10**e for e in range(len(str(top))) if least <= 10**e <= top), top]
    return alt.X(
        "step:Q",
        title=f"{title} (log)",
        scale=scale,
        axis=alt.Axis(values=sorted(set(marks)), format="~s", labelOverlap=True),
    )


def stage_layers(found: dict[str, Any], x: alt.X) -> list[alt.Chart]:
    """Every second stage shaded, from the middle of one gap to the middle of the next."""
    if len(found) != 1:
        return []
    stages = next(iter(found.values()))["stages"]
    table = [
        {
            "step": stage["start"],
            "stop": stages[i + 1]["start"] if i + 1 < len(stages) else stage["stop"],
        }
        for i, stage in enumerate(stages)
        if i % 2
    ]
    if not table:
        return []
    return [
        alt.Chart(frames.inline(table)).mark_rect(opacity=0.12, aria=False).encode(x=x, x2="stop:Q")
    ]


def event_layers(found: dict[str, Any], x: alt.X) -> list[alt.Chart]:
    """A rule where the sink emerged (with its interval) and where the settling signal stands."""
    table, bands = [], []
    for run, one in found.items():
        sink = one["emergence"].get("sink")
        if sink is not None:
            table.append({"step": sink["step"], "event": "emerged", "run": run})
            low = sink["low"] if sink["low"] is not None else sink["high"]
            bands.append({"step": low, "stop": sink["high"]})
        if one["settled_step"] is not None:
            table.append({"step": one["settled_step"], "event": "settled", "run": run})
    if not table:
        return []
    layers = [
        alt.Chart(frames.inline(table))
        .mark_rule(strokeDash=[2, 3])
        .encode(
            x=x,
            tooltip=[
                alt.Tooltip("event:N", title="Event"),
                alt.Tooltip("step:Q", title="Step", format=",d"),
                alt.Tooltip("run:N", title="Run"),
            ],
        ),
        alt.Chart(frames.inline(table))
        .mark_text(align="left", baseline="top", dx=3, y=2)
        .encode(x=x, text="event:N"),
    ]
    if bands:
        layers.append(
            alt.Chart(frames.inline(bands))
            .mark_rect(opacity=0.15, aria=False)
            .encode(x=x, x2="stop:Q")
        )
    return layers
