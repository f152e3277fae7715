"""Charts over the steps of training; several runs lie in one picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
from xarray import Dataset

from sinkscope.report import frames
from sinkscope.report.charts import INPUT, Chart, band, layer, names_of, part, tiles, tips, value_y
from sinkscope.report.timeline.axis import (
    Axis,
    Runs,
    colour_of,
    dash_of,
    event_layers,
    stage_layers,
    x_of,
)
from sinkscope.stats import nan_mean

WIDTH, HEIGHT = 560, 210
MARGIN = 48  # of the y axis, so that charts below each other share their x axis
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


@dataclass(frozen=True)
class Curve:
    """One curve over training: a key, a label, the title of its axis, a caption, its values."""

    name: str
    label: str
    title: str
    caption: str
    values: Callable[[Dataset], np.ndarray]
    null: str = ""
    share: bool = False


MEASURES = (
    Curve(
        "sink",
        "Late share of P0",
        "Late share of P0",
        "Share of attention that late queries give to position zero, mean over the heads of "
        "the blocks measured. Dashed: the 99th percentile of its null.",
        lambda data: nan_mean(data["sink_by_prompt"].values, axis=1),
        "null",
    ),
    Curve(
        "norm",
        "Norm of P0",
        "‖P0‖ / median ‖other tokens‖ (×)",
        "How many times longer position zero's stream is than the others', at the block input "
        "that is measured.",
        lambda data: np.exp(nan_mean(data["log_norm_by_prompt"].values, axis=1)),
    ),
    Curve(
        "c2",
        "C₂: first two blocks",
        "C₂",
        "Share of what is written along the sink direction that the first two blocks write.",
        lambda data: data["concentration"].values[:, 1],
        share=True,
    ),
    Curve(
        "turn",
        "Turn of the direction",
        "1 − cos(u now, u before)",
        "How far the sink direction turned since the checkpoint before: 0 is not at all.",
        lambda data: data["turn"].values,
    ),
    Curve(
        "to-last",
        "Direction beside its last",
        "cos(u, u at the end)",
        "Cosine of the sink direction to that of the last checkpoint.",
        lambda data: data["to_last"].values,
    ),
    Curve(
        "block",
        "Emergence block",
        "l* (−1: the embedding)",
        "The block behind which position zero stays separable along the sink direction.",
        lambda data: data["emergence_block"].values,
    ),
)


def course_chart(runs: Runs, measure: Curve, found: dict[str, Any], axis: Axis) -> Chart | None:
    """One measure over the training of every run, stages shaded (one run), events marked."""
    table = _table(runs, measure.values, axis)
    if not table:
        return None
    scale: dict[str, Any] = {"domain": [0, 1]} if measure.share else {"zero": False}
    x, y = x_of(runs, axis), _y(measure.title, **scale)
    layers: list[Any] = [*stage_layers(runs, found, axis, x), _lines(table, x, y, list(runs))]
    if measure.null:
        null = _table(runs, lambda data: data[measure.null].values, axis)
        dashed = part(null).mark_line(strokeDash=[4, 3], strokeWidth=1)
        colour = {"color": colour_of(list(runs))} if len(runs) > 1 else {}
        layers.append(dashed.encode(x=x, y=y, detail="run:N", **colour))
    return _sized(*layers, *event_layers(runs, found, axis, x))


def bands_chart(data: Dataset, axis: Axis) -> Chart | None:
    """C_1 to C_4 over training, with 95 % bands."""
    if not frames.has(data, "concentration"):
        return None
    table: list[frames.Row] = []
    names = [f"C{'₀₁₂₃₄'[int(k)]}" for k in data["first"].values]
    for i, name in enumerate(names):
        table += frames.rows(
            x=axis.places(data),
            step=data["step"].values,
            value=data["concentration"].values[:, i],
            low=data["concentration_low"].values[:, i],
            high=data["concentration_high"].values[:, i],
            run=[name] * data.sizes["step"],
        )
    x, y = x_of({"": data}, axis), _y("Cₖ", domain=[0, 1])
    return _sized(band(table, x, y, color=colour_of(names)), _lines(table, x, y, names))


def heat_chart(data: Dataset) -> Chart | None:
    """Block × step: log of the norm of P0 over the others'."""
    if not frames.has(data, "log_norm"):
        return None
    values = data["log_norm"].values
    points = range(values.shape[1])
    table = frames.grid(np.exp(values), step=data["step"].values, point=points)
    checkpoints = alt.Axis(labelOverlap=True, labelAngle=0)
    legend = alt.Legend(format=".2~g", tickCount=4)
    title, scale = "‖P0‖ / median (×, log)", alt.Scale(type="log")
    return tiles(
        table,
        alt.X("step:O", title="Checkpoint", axis=checkpoints),
        alt.Y("point:O", title=INPUT, sort="descending"),
        alt.Color("value:Q", title=title, scale=scale, legend=legend),
        tips(step="Step", point=INPUT, value="Ratio"),
        width=WIDTH,
        height=max(80, 16 * len(points)),
    )


def agreement_chart(data: Dataset, axis: Axis) -> Chart | None:
    """Agreement of heads, neurons, channels and experts with the checkpoint before."""
    table: list[frames.Row] = []
    for name, label in AGREEMENT.items():
        if frames.has(data, name):
            table += _rows(data, data[name].values, label, axis)
    if not table:
        return None
    y = _y("Jaccard index", domain=[0, 1])
    return _sized(_lines(table, x_of({"": data}, axis), y, names_of(table, "run")))


def loss_chart(runs: Runs, found: dict[str, Any], axis: Axis) -> Chart | None:
    """Losses of every run with the same marks, on the axis of the metrics."""
    kinds = [n for n in LOSSES if all(frames.has(data, n) for data in runs.values())]
    if not kinds:
        return None
    table: list[frames.Row] = []
    if len(runs) == 1:
        [data] = runs.values()
        for name in kinds:
            table += _rows(data, data[name].values, LOSSES[name], axis)
        title = "Loss (nats)"
    else:  # one kind that all runs have, so that they compare
        table = _table(runs, lambda data: data[kinds[0]].values, axis)
        title = f"Loss (nats), {LOSSES[kinds[0]].lower()}"
    x, y = x_of(runs, axis), _y(title, zero=False)
    drawn = _lines(table, x, y, names_of(table, "run"))
    marks = event_layers(runs, found, axis, x)
    return _sized(*stage_layers(runs, found, axis, x), drawn, *marks)


def _y(title: str, **scale: Any) -> alt.Y:
    return value_y(title, alt.Axis(minExtent=MARGIN), **scale)


def _sized(*layers: Any) -> Chart:
    return layer(*layers, width=WIDTH, height=HEIGHT)


def _table(runs: Runs, values: Callable[[Dataset], np.ndarray], axis: Axis) -> list[frames.Row]:
    return [row for run, data in runs.items() for row in _rows(data, values(data), run, axis)]


def _rows(data: Dataset, values: np.ndarray, run: str, axis: Axis) -> list[frames.Row]:
    steps = data["step"].values
    return frames.rows(x=axis.places(data), step=steps, value=values, run=[run] * len(steps))


def _lines(table: list[frames.Row], x: alt.X, y: alt.Y, names: list[str]) -> alt.Chart:
    """Curves by the column `run`; their colours and a legend where there are several."""
    said = tips(run="Curve", step="Step", value="Value")
    drawn = part(table).mark_line(point=True).encode(x=x, y=y, detail="run:N", tooltip=said)
    if len(names) == 1:
        return drawn
    return drawn.encode(color=colour_of(names), strokeDash=dash_of(names))
