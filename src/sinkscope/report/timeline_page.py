"""What `timeline` shows: when the circuit formed, where it concentrated, whether it settled."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sinkscope.report import frames
from sinkscope.report import timeline_charts as charts
from sinkscope.report.parts import Figure, Findings, Headline, Part, Section, Tables, Variant, Words
from sinkscope.report.tables import Table
from sinkscope.report.text import NO_VALUE, number_of, percent, percent_interval, short, visible

if TYPE_CHECKING:
    from sinkscope.report.charts import Chart
    from sinkscope.result import Result

PANEL = ""
LIMIT = (
    "A curve that has stopped moving says that this circuit has; whether the loss will still fall "
    "is another question, which the table of signals answers where there are runs enough."
)
SHADE = (
    " Every second stage is shaded; dotted lines mark where the sink emerged, with its 95 % "
    "interval, and where the settling signal stands."
)


def sections(result: Result) -> list[Section]:
    """Its sections of the page; none where no timeline was made."""
    runs = _runs(result)
    if not runs:
        return []
    data = {name: frames.group(result, "timeline", name) for name in runs}
    parts: list[Part] = [Words({PANEL: _findings(result)}), Tables({PANEL: _tables(result)})]
    parts += _course(data, runs, log=True)
    parts += _figure("timeline-loss", "Loss on the same axis", "", lambda: charts.loss_chart(data))
    inside: list[Part] = [
        *_each("timeline-bands", "Where it is written: C₁ to C₄", data, charts.bands_chart,
               "Share of what is written along the sink direction by the blocks below k, with 95 % "
               "bands over first tokens."),
        *_each("timeline-heat", "Norm of position zero, block by block", data, charts.heat_chart,
               "Depth runs upwards, training to the right."),
        *_each("timeline-turnover", "Turnover", data, charts.agreement_chart,
               "Agreement of each checkpoint with the one before it: 1 is the same set."),
        *_course(data, runs, log=False),
    ]  # fmt: skip
    lead = "The light set of the circuit’s four stages, a point a checkpoint."
    planned = [
        Section("timeline", "Over training", lead, parts),
        Section("timeline-inside", "Where, and how much turns over", "", inside),
    ]
    return [section for section in planned if section.parts]


def findings(result: Result, panel: str) -> Findings | None:
    """Its words and tables for a terminal."""
    if panel != PANEL or not _runs(result):
        return None
    found = _findings(result)
    found.tables = [table for table in _tables(result) if table.rows]
    return found


def headline(result: Result, bos: str) -> Headline:
    """Its numbers that two runs are compared by."""
    found = result.summary.timeline
    if not found:
        return {}
    return {
        "Emergence step": ("word", _step(found["emergence_step"])),
        "Stages": ("count", len(found["stages"])),
        "Settled at step": ("word", _step(found["settled_step"])),
        "C_2 at the end": ("share", number_of(found["concentration"]["2"])),
        "Late share at the end": ("share", number_of(found["late_share"])),
    }


def main_chart(result: Result, bos: str) -> Chart | None:
    """Late share over training."""
    runs = _runs(result)
    if not runs:
        return None
    data = {name: frames.group(result, "timeline", name) for name in runs}
    return charts.course_chart(data, charts.MEASURES[0], runs)


def _runs(result: Result) -> dict[str, Any]:
    return result.summary.timeline.get("runs", {}) if result.summary.timeline else {}


def _course(data: charts.Runs, runs: dict[str, Any], log: bool) -> list[Figure]:
    variants = []
    for measure in charts.MEASURES:
        chart = charts.course_chart(data, measure, runs, log)
        if chart is not None:
            kind = "log" if log else "linear"
            variants.append(
                Variant(
                    measure.label,
                    measure.caption + SHADE,
                    {PANEL: chart},
                    f"timeline-{measure.name}-{kind}",
                )
            )
    title = "The course of training" if log else "The same on a linear axis"
    name = "timeline-course" if log else "timeline-course-linear"
    return [Figure(name, title, variants, wide=True)] if variants else []


def _each(
    name: str, title: str, data: charts.Runs, draw: Callable[..., Chart | None], caption: str
) -> list[Figure]:
    """A figure with one choice for each run."""
    variants = [
        Variant(visible(run), caption, {PANEL: chart}, f"{name}-{i}")
        for i, (run, one) in enumerate(data.items())
        if (chart := draw(one)) is not None
    ]
    return [Figure(name, title, variants, wide=True)] if variants else []


def _figure(name: str, title: str, caption: str, draw: Callable[[], Chart | None]) -> list[Figure]:
    chart = draw()
    if chart is None:
        return []
    return [Figure(name, title, [Variant("", caption, {PANEL: chart})], wide=True)]


def _findings(result: Result) -> Findings:
    runs = _runs(result)
    sentences = [sentence for run, one in runs.items() for sentence in _sentences(run, one)]
    first = next(iter(runs.values()))
    keys = [
        ("emerged", _step(first["emergence_step"]), _unit(first)),
        ("stages", str(len(first["stages"])), "by change points"),
        ("settled", _step(first["settled_step"]), _unit(first)),
        ("C₂ at the end", percent(number_of(first["concentration"]["2"])), "of what is written"),
    ]
    notes = [
        f"{run}: {note}" if len(runs) > 1 else note
        for run, one in runs.items()
        for note in one["notes"]
    ]
    return Findings(
        sentences[0],
        sentences[1:],
        [(value, name, beside) for name, value, beside in keys],
        LIMIT,
        notes,
    )


def _sentences(run: str, one: dict[str, Any]) -> list[str]:
    unit, name = _unit(one), visible(run)
    sink = one["emergence"].get("sink")
    if sink is None:
        when = f"{name}: no sink emerged over {len(one['steps'])} checkpoints."
    else:
        low = "before" if sink["low"] is None else short(sink["low"])
        when = (
            f"{name}: the sink emerged at {unit} {sink['step']:,} (95 % interval {low}–"
            f"{short(sink['high'])})."
        )
    stages = one["stages"]
    starts = ", ".join(f"{stage['start']:,}" for stage in stages[1:])
    said = [when, "Training shows one stage."]
    if len(stages) > 1:
        said[1] = f"Training shows {len(stages)} stages; later ones begin at {unit} {starts}."
    standing, announced = one["settled_step"], one["settled"]["announced"]
    if standing is not None:
        said.append(f"The circuit has settled: the signal was given at {unit} {standing:,}.")
    elif announced is not None:
        said.append(f"It seemed to have settled at {unit} {announced:,}, but moved again.")
    elif sink is not None:
        said.append("It has not settled within these checkpoints.")
    concentration = one["concentration"]["2"]
    said.append(
        f"At the end the first two blocks write {percent(number_of(concentration))} of what is "
        f"written along the sink direction ({percent_interval(concentration) or NO_VALUE})."
    )
    return said


def _tables(result: Result) -> list[Table]:
    runs = _runs(result)
    table = Table(
        "Runs",
        ["Run", "Checkpoints", "Emerged", "Stages", "Settled", "C_2", "Late share", "Blocks"],
        numeric=set(range(1, 8)),
    )
    for run, one in runs.items():
        looked = one["looked_at"]
        table.rows.append(
            [
                visible(run),
                str(len(one["steps"])),
                _step(one["emergence_step"]),
                str(len(one["stages"])),
                _step(one["settled_step"]),
                percent(number_of(one["concentration"]["2"])),
                percent(number_of(one["late_share"])),
                f"{looked['first_blocks']} of {looked['blocks']}",
            ]
        )
    judged = Table(
        "What tells the loss still to come, in a run that was left out",
        ["Signal", "R² alone", "R² beyond the baselines", "Rank correlation"],
        numeric={1, 2, 3},
    )
    for row in result.summary.timeline["judgement"]["signals"]:
        judged.rows.append(
            [row["name"], *(_number(row[key]) for key in ("alone", "added", "rank"))]
        )
    return [one for one in (table, judged) if one.rows]


def _number(value: float | None) -> str:
    return NO_VALUE if value is None else f"{value:.2f}"


def _step(value: int | None) -> str:
    return NO_VALUE if value is None else f"{value:,}"


def _unit(one: dict[str, Any]) -> str:
    return str(one["unit"])
