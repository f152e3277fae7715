"""What `timeline` shows: when the circuit formed, where it concentrated, whether it settled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

from xarray import Dataset

from sinkscope.report import frames
from sinkscope.report.charts import Chart
from sinkscope.report.parts import (
    Figure,
    Findings,
    Headline,
    Part,
    Section,
    Table,
    Tables,
    Variant,
    Words,
    present,
    table_of,
)
from sinkscope.report.text import decimals, number_of, percent, visible
from sinkscope.report.timeline import charts
from sinkscope.report.timeline.axis import STEPS, Axis, Runs, axes_of
from sinkscope.report.timeline.words import (
    answers,
    of_several,
    sentences,
    step,
    where,
    written,
)
from sinkscope.result import Result
from sinkscope.schema import RunSummary

PANEL = ""
# label, caption, name of its file, and what draws it over an axis
Choice: TypeAlias = "tuple[str, str, str, Callable[[Axis], Chart | None]]"
LIMIT = (
    "A curve that has stopped moving says that this circuit has; whether the loss will still fall "
    "is another question."
)
SHADE = (
    " Every second stage is shaded, the gaps between checkpoints in which stages change more "
    "lightly; dotted lines mark where the sink emerged (the bar at the top is its 95 % interval) "
    "and where the settling signal stands."
)
SHADE_SEVERAL = (
    " Dotted lines mark where the sink of each run emerged (the bars at the top are 95 % "
    "intervals) and where the settling signal stands."
)
SIGNALS = {
    "sink": "Late share of P0",
    "log_norm": "Norm of P0 (log)",
    "concentration_2": "C₂",
    "turn": "Turn of the direction",
    "distance": "Distance along u",
    "log_step": "Baseline: step (log)",
    "loss": "Baseline: loss so far",
    "loss_slope": "Baseline: its slope",
    "gradient_norm": "Baseline: gradient norm",
}


def sections(result: Result) -> list[Section]:
    """Its sections of the page; none where no timeline was made."""
    runs = _runs(result)
    if not runs:
        return []
    data = {name: frames.group(result, "timeline", name) for name in runs}
    found = _findings(result)
    parts: list[Part] = [Words({PANEL: found}), Tables({PANEL: _tables(result)})]
    axes = axes_of(data)
    parts += _course(data, runs, axes)
    parts += _loss(data, runs, axes)
    inside: list[Part] = [
        *_each("timeline-bands", "Where it is written: C₁ to C₄", data, charts.bands_chart, axes,
               "Share of what is written along the sink direction by the blocks below k, with 95 % "
               "bands over first tokens."),
        *_each("timeline-heat", "Norm of position zero, block by block", data,
               lambda one, _: charts.heat_chart(one), {"": STEPS},
               "Depth runs upwards, training to the right."),
        *_each("timeline-turnover", "Turnover", data, charts.agreement_chart, axes,
               "Agreement of each checkpoint with the one before it: 1 is the same set."),
    ]  # fmt: skip
    lead = "Metrics of the circuit's four stages, one forward pass and one point a checkpoint."
    planned = [
        Section("timeline", "When it formed", lead, parts, {PANEL: found.headline}, unfolded=True),
        Section(
            "timeline-inside",
            "Where, and how much turns over",
            "",
            inside,
            {PANEL: " ".join(written(run, one, len(runs)) for run, one in runs.items())},
        ),
    ]
    return planned


def findings(result: Result, panel: str) -> Findings | None:
    """Its words and tables for a terminal."""
    if panel != PANEL or not _runs(result):
        return None
    found = _findings(result)
    found.answers = answers(_runs(result))
    found.tables = _tables(result)
    return found


def headline(result: Result, bos: str) -> Headline:
    """Its numbers that two runs are compared by."""
    found = result.summary.timeline
    if not found:
        return {}
    return {
        "Emergence step": ("word", step(found.emergence_step)),
        "Stages": ("count", len(found.stages)),
        "Settled at step": ("word", step(found.settled_step)),
        "C_2 at the end": ("share", number_of(found.concentration["2"])),
        "Late share at the end": ("share", number_of(found.first_blocks_late_share)),
    }


def main_chart(result: Result, bos: str) -> Chart | None:
    """Late share over training."""
    runs = _runs(result)
    if not runs:
        return None
    data = {name: frames.group(result, "timeline", name) for name in runs}
    return charts.course_chart(data, charts.MEASURES[0], runs, STEPS)


def _runs(result: Result) -> dict[str, RunSummary]:
    return result.summary.timeline.runs if result.summary.timeline else {}


def _course(data: Runs, runs: dict[str, RunSummary], axes: dict[str, Axis]) -> list[Figure]:
    shade = SHADE if len(runs) == 1 else SHADE_SEVERAL

    def choice(measure: charts.Curve) -> Choice:
        name, caption = f"timeline-{measure.name}", measure.caption + shade
        draw = partial(charts.course_chart, data, measure, runs)
        return measure.label, caption, name, draw

    choices = [choice(measure) for measure in charts.MEASURES]
    return _figure("timeline-course", "Metrics over training", choices, axes)


def _loss(data: Runs, runs: dict[str, RunSummary], axes: dict[str, Axis]) -> list[Figure]:
    caption = "The loss on the same axis, so that what moves together is seen together."
    drawn = ("", caption, "timeline-loss", partial(charts.loss_chart, data, runs))
    return _figure("timeline-loss", "Loss", [drawn], axes)


def _each(
    name: str,
    title: str,
    data: Runs,
    draw: Callable[[Dataset, Axis], Chart | None],
    axes: dict[str, Axis],
    caption: str,
) -> list[Figure]:
    """A figure with one choice for each run."""
    choices = [
        (visible(run), caption, f"{name}-{i}", partial(draw, one))
        for i, (run, one) in enumerate(data.items())
    ]
    return _figure(name, title, choices, axes, "Run")


def _figure(
    name: str, title: str, choices: Sequence[Choice], axes: dict[str, Axis], what: str = "Measure"
) -> list[Figure]:
    """A figure with a variant for each choice and axis; nothing where none can be drawn."""
    variants = [
        Variant(label, caption, {PANEL: chart}, f"{file}-{axis.name}", along)
        for label, caption, file, draw in choices
        for along, axis in axes.items()
        if (chart := draw(axis)) is not None
    ]
    return [Figure(name, title, variants, True, what)] if variants else []


def _findings(result: Result) -> Findings:
    runs = _runs(result)
    notes = [
        f"{visible(run)}: {note}" if len(runs) > 1 else note
        for run, one in runs.items()
        for note in one.notes
    ]
    limit = LIMIT if any(one.settled_step is not None for one in runs.values()) else ""
    if len(runs) == 1:
        [(run, one)] = runs.items()
        when, *others = sentences(one)
        return Findings(f"{visible(run)}: {when}", others, _keys(one), limit, notes)
    said = [f"{visible(run)}: {' '.join(sentences(one))}" for run, one in runs.items()]
    return Findings(of_several(runs), said, [], limit, notes)


def _keys(one: RunSummary) -> list[tuple[str, str, str]]:
    """The numbers at the top."""
    settled = f"is the {one.unit} at which it settled"
    if one.settled_step is None:
        settled = "it has not settled within these checkpoints"
    return [
        (step(one.emergence_step), f"is the first {one.unit} at which the sink is seen", ""),
        (str(len(one.stages)), "stages of training", "by change points"),
        (step(one.settled_step), settled, where(one).strip()),
        (
            percent(number_of(one.concentration["2"])),
            "is written by the first two blocks at the end (C₂)",
            "",
        ),
    ]


def _tables(result: Result) -> list[Table]:
    runs = _runs(result)
    table = table_of(
        "Runs",
        runs.items(),
        {
            "Run": lambda run, one: visible(run),
            "Points": lambda run, one: str(len(one.steps)),
            "Emerged": lambda run, one: step(one.emergence_step),
            "Stages": lambda run, one: str(len(one.stages)),
            "Settled": lambda run, one: step(one.settled_step),
            "C₂": lambda run, one: percent(number_of(one.concentration["2"])),
            "Late share": lambda run, one: percent(number_of(one.first_blocks_late_share)),
            "Blocks": lambda run, one: "{first_blocks} of {blocks}".format(**one.looked_at),
        },
        set(range(1, 8)),
    )
    judgement = result.summary.timeline and result.summary.timeline.judgement
    judged = table_of(
        "What tells the loss still to come, in a run that was left out",
        judgement["signals"] if judgement else [],
        {
            "Signal": lambda row: SIGNALS[row["name"]],
            "R² alone": lambda row: decimals(row["alone"], 2),
            "R² beyond the baselines": lambda row: decimals(row["added"], 2),
            "Rank correlation": lambda row: decimals(row["rank"], 2),
        },
        {1, 2, 3},
    )
    return present([table, judged])
