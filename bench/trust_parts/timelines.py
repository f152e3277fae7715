"""Training runs that go on moving: is the emergence covered, and is nothing called settled?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from planted.series import Grown, Script, draw_script, emerged_at, subjects
from planted.unrest import UNREST, draw_unrest

from sinkscope.training_runs.arrays import curves_of, run_arrays
from sinkscope.training_runs.checkpoint import Checkpoint
from sinkscope.training_runs.checkpoint_metrics import light
from sinkscope.training_runs.course import Course, course
from sinkscope.training_runs.emergence import Emergence
from sinkscope.training_runs.pilot import TimelineSettings, run_pilot

LOOKING = TimelineSettings(kind="random", n=8, length=48)


def one(seed: int) -> dict[str, Any]:
    """One series of models: every fourth settles, in the others something moves up to the end."""
    calm = seed % 4 == 3
    script = draw_script(seed) if calm else draw_unrest(seed - seed // 4)
    kind = script.kind if calm else UNREST[(seed - seed // 4) % len(UNREST)]
    found, emerged = followed(seed, script)
    at = found.settled.announced
    given = None if at is None else float(script.steps[at])
    right = {
        "settling": given is None or (script.settled_at or float("inf")) <= given,
        "emergence": holds(found.emergence, emerged) or found.emergence is emerged is None,
    }
    return {
        "kind": kind,
        "emerged": emerged,
        "found": None if found.emergence is None else [found.emergence.low, found.emergence.high],
        "settled": script.settled_at,
        "announced": given,
        "foreseen": script.kind != "late",  # an event after a longer calm than any signal waits for
        "right": right,
    }


def followed(seed: int, script: Script) -> tuple[Course, float | None]:
    """What is found in a series of models, and when the sink truly emerged in it.

    The models are measured as any checkpoint is, from the pilot on the last of them.
    """
    model = Grown(seed)
    *_, last = subjects(model, replace(script, states=script.states[-1:]))
    pilot = run_pilot(last, LOOKING)
    pilot = replace(pilot, view=replace(pilot.view, parts=False, loss=False))
    lights = [light(subject, pilot.view) for subject in subjects(model, script)]
    checkpoints = [Checkpoint(f"step{step}", int(step), "") for step in script.steps]
    arrays = run_arrays(checkpoints, lights, pilot)
    return course(curves_of(checkpoints, arrays, lights)), emerged_at(model, script, pilot)


def holds(found: Emergence | None, emerged: float | None) -> bool:
    """Whether an interval holds the step at which a sink emerged; not where either is missing."""
    if found is None or emerged is None:
        return False
    return (found.low is None or found.low <= emerged) and emerged <= found.high
