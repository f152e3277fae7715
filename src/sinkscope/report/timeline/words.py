"""What `timeline` says in sentences: when the sink formed, in what stages, whether it settled."""

from __future__ import annotations

from sinkscope.report.text import NO_VALUE, number_of, percent, percent_interval, short, visible
from sinkscope.schema import RunSummary


def of_several(runs: dict[str, RunSummary]) -> str:
    """One sentence on all runs."""
    emerged = sum(one.emergence.get("sink") is not None for one in runs.values())
    settled = sum(one.settled_step is not None for one in runs.values())
    return f"A sink emerged in {emerged} of {len(runs)} runs; {settled or 'none'} settled."


def sentences(one: RunSummary) -> list[str]:
    """When the sink came, in how many stages, whether it settled, where it is written."""
    unit, sink = unit_of(one), one.emergence.get("sink")
    if sink is None:
        said = [f"no sink emerged over {len(one.steps)} checkpoints."]
    elif one.present_from_start:
        said = [f"the sink is present at the first checkpoint, {unit} {sink['step']:,}."]
    else:
        came = (
            f"before {unit} {short(sink['high'])}"
            if sink["low"] is None
            else f"between {unit}s {short(sink['low'])} and {short(sink['high'])}"
        )
        said = [
            f"the sink is first seen at the checkpoint of {unit} {sink['step']:,}; it emerged "
            f"{came} (95 %)."
        ]
    later = [f"{stage['low']:,} and {stage['high']:,}" for stage in one.stages[1:]]
    if later:
        said.append(
            f"Training shows {len(later) + 1} stages; later ones begin between {unit}s "
            f"{', then between '.join(later)}."
        )
    else:
        said.append("Training shows one stage.")
    standing, announced = one.settled_step, one.settled["announced"]
    if standing is not None:
        said.append(f"The circuit has settled: the signal was given at {unit} {standing:,}.")
    elif announced is not None:
        said.append(f"It seemed to have settled at {unit} {announced:,}, but moved again.")
    elif one.vanished_step is not None:
        said.append(f"It vanished: from {unit} {one.vanished_step:,} on there is no sink.")
    elif sink is not None:
        said.append("It has not settled within these checkpoints.")
    said.append(_concentrated(one))
    return said


def _concentrated(one: RunSummary) -> str:
    """How much of the sink direction the first two blocks write at the end."""
    measured = one.concentration["2"]
    interval = percent_interval(measured)
    return (
        f"At the end the first two blocks write {percent(number_of(measured))} of what is written "
        f"along the sink direction{f' ({interval} %)' if interval else ''}."
    )


def written(run: str, one: RunSummary, several: int) -> str:
    """How much the first two blocks write at the end, with the name of the run where several."""
    said = _concentrated(one)
    return f"{visible(run)}: {said[0].lower()}{said[1:]}" if several > 1 else said


def step(value: int | None) -> str:
    """A step, or that there is none."""
    return NO_VALUE if value is None else f"{value:,}"


def unit_of(one: RunSummary) -> str:
    """What the checkpoints are counted in."""
    return str(one.unit)
