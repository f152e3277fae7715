"""What `timeline` says in sentences: when the sink formed, in what stages, whether it settled."""

from __future__ import annotations

from collections.abc import Mapping

from sinkscope.report.parts import Said
from sinkscope.report.text import NO_VALUE, number_of, percent, percent_interval, short, visible
from sinkscope.schema import RunSummary
from sinkscope.training_runs.view import within

MOST_RUNS = 8  # that a terminal names by itself


def of_several(runs: Mapping[str, RunSummary]) -> str:
    """One sentence on all runs."""
    emerged = sum(one.emergence.get("sink") is not None for one in runs.values())
    settled = sum(one.settled_step is not None for one in runs.values())
    part = any(where(one) for one in runs.values())
    begin = "In the blocks that were looked at a" if part else "A"
    return f"{begin} sink emerged in {emerged} of {len(runs)} runs; {settled or 'none'} settled."


def answers(runs: Mapping[str, RunSummary]) -> list[Said]:
    """What a terminal shows by itself: the answers of one run, or a sentence a run."""
    if len(runs) > 1:
        told = [f"{visible(run)}: {' '.join(sentences(one)[:1])}" for run, one in runs.items()]
        left = len(told) - MOST_RUNS
        more = [f"{left} more runs: --verbose."] if left > 0 else []
        return [("Formed", said) for said in (of_several(runs), *told[:MOST_RUNS], *more)]
    return [
        (question, f"{said[0].upper()}{said[1:]}")
        for one in runs.values()
        for question, said in _asked(one)
        if said
    ]


def sentences(one: RunSummary) -> list[str]:
    """When the sink came, in how many stages, whether it settled, where it is written."""
    return [said for _, said in _asked(one) if said]


def _asked(one: RunSummary) -> list[Said]:
    return [
        ("Formed", _formed(one)),
        ("Stages", _stages(one)),
        ("Settled", _settled(one)),
        ("Written", _concentrated(one)),
    ]


def _formed(one: RunSummary) -> str:
    unit, sink = one.unit, one.emergence.get("sink")
    if sink is None and one.sink_spans:
        stood = ", ".join(f"{a:,}" if a == b else f"{a:,} to {b:,}" for a, b in one.sink_spans)
        return (
            f"no sink is seen to last{where(one)} over {len(one.steps)} checkpoints; one stands at "
            f"{unit} {stood}."
        )
    if sink is None:
        return f"no sink emerged{where(one)} over {len(one.steps)} checkpoints."
    if one.present_from_start:
        return f"the sink is present{where(one)} at the first checkpoint, {unit} {sink['step']:,}."
    came = (
        f"before {unit} {_about(sink['high'])}"
        if sink["low"] is None
        else f"between {unit}s {_about(sink['low'])} and {_about(sink['high'])}"
    )
    return (
        f"the sink is first seen{where(one)} at the checkpoint of {unit} {sink['step']:,}; it "
        f"emerged {came} (95\u00a0% interval)."
    )


def _about(value: float) -> str:
    """A bound between checkpoints: whole where it is one."""
    return f"{value:,.0f}" if value == round(value) else short(value)


def _stages(one: RunSummary) -> str:
    later = [f"{stage['low']:,} and {stage['high']:,}" for stage in one.stages[1:]]
    if not later:
        return "Training shows one stage." if one.emergence.get("sink") is not None else ""
    return (
        f"Training shows {len(later) + 1} stages; later ones begin between {one.unit}s "
        f"{', then between '.join(later)}."
    )


def _settled(one: RunSummary) -> str:
    unit, standing, announced = one.unit, one.settled_step, one.settled["announced"]
    if standing is not None:
        return f"The circuit has settled{where(one)}: the signal was given at {unit} {standing:,}."
    if announced is not None:
        return f"It seemed to have settled at {unit} {announced:,}, but moved again."
    if one.vanished_step is not None:
        return f"It vanished: from {unit} {one.vanished_step:,} on there is no sink{where(one)}."
    if one.emergence.get("sink") is None:
        return ""
    return "It has not settled within these checkpoints."


def where(one: RunSummary) -> str:
    """Which blocks a sentence speaks of, where not all were looked at."""
    return within(one.looked_at["first_blocks"], one.looked_at["blocks"])


def _concentrated(one: RunSummary) -> str:
    """How much of the sink direction the first two blocks write at the end."""
    measured = one.concentration["2"]
    interval = percent_interval(measured)
    if number_of(measured) is None:  # where there is no sink, nothing is written along it
        return ""
    return (
        f"At the end the first two blocks write {percent(number_of(measured))} of what is written "
        f"along the sink direction{f' ({interval} %)' if interval else ''}."
    )


def written(run: str, one: RunSummary, several: int) -> str:
    """How much the first two blocks write at the end, with the name of the run where several."""
    said = _concentrated(one)
    return f"{visible(run)}: {said[:1].lower()}{said[1:]}" if said and several > 1 else said


def step(value: int | None) -> str:
    """A step, or that there is none."""
    return NO_VALUE if value is None else f"{value:,}"
