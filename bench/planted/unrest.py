"""Known-answer series in which something goes on moving: relapse, rotation, slow halving, turning.

The models are those of `planted.series`; what is planted here must not be called settled while it
moves.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np

from planted.curves import draw_grid, step_at
from planted.series import Script, State
from sinkscope.training_runs.settling import QUIET

UNREST = ("gone", "returned", "rotation", "halving", "turning")
LATE_KEYS = 80  # what late queries see at 48 tokens weighs, their own token among it
PATIENCE = 50  # draws of events until another grid is tried
HANDED = 0.8  # of the logit, at the end: where the late share of the old heads falls fastest
HIGHEST, LOWEST = 0.97, 0.4  # late share of the reading heads before and after its slow fall


def draw_unrest(seed: int) -> Script:
    """Draw a series whose sink emerges at once and then never settles, or settles on its return.

    What goes or comes back does so after no longer calm than the settling signal waits for.


    gone       the write is there for some checkpoints and then for good away
    returned   it goes away and comes back for good
    rotation   reading heads hand over to others, evenly in log steps
    halving    the late share of the reading heads falls from 0.97 to 0.4, evenly in log steps
    turning    u turns by more than a right angle, evenly in log steps
    """
    g = np.random.default_rng(seed)
    kind = UNREST[seed % len(UNREST)]
    steps = draw_grid(g)
    whole = State(float(g.choice([2.0, 4.0, 8.0])), float(g.uniform(0.0, 0.25)), 0.0)
    for attempt in itertools.count(1):
        steps = draw_grid(g) if attempt % PATIENCE == 0 else steps
        count = len(steps)
        start = float(g.uniform(4.0, 0.4 * count))
        away = start + float(g.uniform(5.0, 9.0))
        back = away + float(g.uniform(4.0, 6.0))
        places = [step_at(steps, place) for place in (start, away, back)]
        if kind not in ("gone", "returned") or (
            back < count - 4 and all(b <= QUIET * a for a, b in itertools.pairwise(places))
        ):
            break
    since = np.log1p(steps) - math.log1p(step_at(steps, start))
    passed = np.clip(since / since[-1], 0.0, 1.0)
    states = []
    for i in range(count):
        here = i >= start and (kind not in ("gone", "returned") or i < away)
        here = here or (kind == "returned" and i >= back)
        state = replace(whole, size=whole.size * here)
        if kind == "rotation":
            state = replace(state, moved=HANDED * float(passed[i]))
        elif kind == "halving":
            share = HIGHEST * (LOWEST / HIGHEST) ** float(passed[i])
            state = replace(state, logit=math.log(LATE_KEYS * share / (1 - share)))
        elif kind == "turning":
            state = replace(state, angle=0.6 * math.pi * float(passed[i]))
        states.append(state)
    return Script(
        kind=kind if kind == "returned" else "drifts", seed=seed, steps=steps, states=states,
        jitter=float(g.uniform(0.003, 0.01)), growth=(start, start, 1.0), whole=whole,
        events=[start, back] if kind == "returned" else [start],
    )  # fmt: skip
