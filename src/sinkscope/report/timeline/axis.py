"""What training is drawn over: steps or tokens, on a log or linear axis; and its marks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
from xarray import Dataset

from sinkscope.report import frames
from sinkscope.report.charts import by_series, part, tips
from sinkscope.schema import RunSummary

Runs = dict[str, Dataset]


@dataclass(frozen=True)
class Axis:
    """One way to lay out training: over `step` or `tokens`, on a log axis or a linear one."""

    by: str
    log: bool

    @property
    def name(self) -> str:
        """In the name of a file, such as `step-log`."""
        return f"{self.by}-{'log' if self.log else 'linear'}"

    def places(self, data: Dataset) -> np.ndarray:
        """[checkpoint] where those of a run lie, in the unit of `by`."""
        return data[self.by].values

    def place(self, data: Dataset, step: float) -> float:
        """Where a step between two checkpoints lies."""
        return float(np.interp(step, data["step"].values, self.places(data)))


STEPS = Axis("step", True)


def axes_of(runs: Runs) -> dict[str, Axis]:
    """The axes that every run can be drawn over, by their labels."""
    units = sorted({str(data.attrs.get("unit", "step")) for data in runs.values()})
    words = {"step": "steps", "index": "index", "epoch": "epochs", "tokens": "tokens"}
    kinds = {" and ".join(words[unit] for unit in units): "step"}
    known = all(
        frames.has(data, "tokens") and np.isfinite(data["tokens"].values).all()
        for data in runs.values()
    )
    if known and units != ["tokens"]:
        kinds["tokens"] = "tokens"
    return {
        f"{kind}, {'log' if log else 'linear'}": Axis(by, log)
        for kind, by in kinds.items()
        for log in (True, False)
    }


def x_of(runs: Runs, axis: Axis) -> alt.X:
    """The axis of a chart, the same for every chart of these runs; a log axis can show step 0."""
    places = np.concatenate([axis.places(data) for data in runs.values()])
    label = next(label for label, one in axes_of(runs).items() if one == axis)
    title = f"Training, {label.removesuffix(', linear').replace(', log', ' (log)')}"
    tokens = "tokens" in title
    words = "replace(format(datum.value, '~s'), 'G', 'B')" if tokens else "format(datum.value,'~s')"
    look: dict[str, Any] = {"labelExpr": words, "labelOverlap": True}
    if not axis.log:
        return alt.X("x:Q", title=title, scale=alt.Scale(nice=False), axis=alt.Axis(**look))
    least = int(places[places > 0].min()) if (places > 0).any() else 1
    top = max(int(places.max()), 1)
    marks = {0, top, *(10**e for e in range(len(str(top))) if least <= 10**e <= top)}
    scale = alt.Scale(type="symlog", constant=least, nice=False)
    return alt.X("x:Q", title=title, scale=scale, axis=alt.Axis(values=sorted(marks), **look))


def stage_layers(runs: Runs, found: dict[str, RunSummary], axis: Axis, x: alt.X) -> list[alt.Chart]:
    """Every second stage shaded (of a single run); the gap in which it began or ended more lightly.

    A stage began between the last checkpoint before it and its first one.
    """
    if len(found) != 1:
        return []
    [(run, one)] = found.items()
    stages, data = one.stages, runs[run]
    shaded: list[tuple[float, float, str]] = []
    for i, stage in enumerate(stages):
        if i % 2:
            shaded.append((stage["start"], stage["stop"], "stage"))
        if stage["low"] is not None:
            shaded.append((stage["low"], stage["high"], "gap"))
    layers = []
    for kind, opacity in (("stage", 0.14), ("gap", 0.07)) if shaded else ():
        edges = [
            {"x": axis.place(data, start), "stop": axis.place(data, stop)}
            for start, stop, what in shaded
            if what == kind
        ]
        areas = part(edges).mark_rect(opacity=opacity, aria=False)
        layers.append(areas.encode(x=x, x2="stop:Q"))
    return layers


def event_layers(runs: Runs, found: dict[str, RunSummary], axis: Axis, x: alt.X) -> list[alt.Chart]:
    """A rule where the sink emerged and where the settling signal stands.

    The interval of the emergence is a bar at the top, one below the other for several runs.
    """
    table: list[frames.Row] = []
    bars: list[Any] = []
    several = len(found) > 1
    colour = {"color": colour_of(list(runs))} if several else {}
    for number, (run, one) in enumerate(found.items()):
        data, sink = runs[run], one.emergence.get("sink")
        events = {"emerged": sink and sink["step"], "settled": one.settled_step}
        table += [
            {"x": axis.place(data, step), "step": step, "event": event, "run": run}
            for event, step in events.items()
            if step is not None
        ]
        if sink is not None:
            low = one.steps[0] if sink["low"] is None else sink["low"]
            edges = {"x": axis.place(data, low), "stop": axis.place(data, sink["high"])}
            bar = part([{**edges, "run": run}]).mark_rule(
                strokeWidth=BAR, strokeDash=[1, 0], opacity=0.55, aria=False
            )
            place = alt.value(BAR + (BAR + 1) * number)
            bars.append(bar.encode(x=x, x2="stop:Q", y=place, **colour))
    if not table:
        return []
    rules = part(table).encode(x=x)
    said = tips(event="Event", step="Step", run="Run")
    layers = [rules.mark_rule(strokeDash=[2, 3]).encode(tooltip=said, **colour)]
    if not several:
        words = rules.mark_text(align="left", baseline="top", dx=3, y=BAR + 4)
        layers.append(words.encode(text="event:N"))
    return [*layers, *bars]


BAR = 4  # height in pixels of the bar of an interval
COLOURS = 4  # of the theme; further curves differ by their dashes
DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3])
# symbols are opaque even where they stand for a pale band
LEGEND = alt.Legend(columns=4, symbolType="stroke", symbolStrokeWidth=2, symbolOpacity=1)


def colour_of(names: list[str]) -> alt.Color:
    """A colour a curve, in the order of their names."""
    return by_series(names, legend=LEGEND, column="run")["color"]


def dash_of(names: list[str]) -> alt.StrokeDash:
    """Dashes for the curves that share a colour with another."""
    dashes = [DASHES[i // COLOURS % len(DASHES)] for i in range(len(names))]
    return by_series(names, "strokeDash", legend=LEGEND, dashes=dashes, column="run")["strokeDash"]
