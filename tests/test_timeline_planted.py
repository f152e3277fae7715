"""Known-answer series of real models: what is planted is in the models, and is found."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from planted.curves import step_at
from planted.series import DEPTH, LATE, Grown, State, draw_script, grown
from timeline_answers import check_models, table

from sinkscope.circuit.concentration import concentration
from sinkscope.subject.prompts import Prompts
from sinkscope.training_runs.checkpoint_metrics import light
from sinkscope.training_runs.settling import QUIET
from sinkscope.training_runs.signals import sink_share
from sinkscope.training_runs.view import View


@pytest.fixture(scope="module")
def model():
    return Grown(3)


@pytest.fixture(scope="module")
def view():
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(2, 258, (4, 48), generator=generator)
    prompts = Prompts(ids, torch.full((4,), 48), "ids", "without")
    return View(prompts, torch.arange(2, 34), DEPTH, LATE + 1, parts=False)


def test_a_state_is_what_it_says(model, view):
    nothing = light(model.put(State(0.0, 0.5, 0.0)), view)
    assert sink_share(nothing).max() < 0.03
    for share in (0.1, 0.5, 0.9):
        found = light(model.put(State(6.0, share, 0.3)), view)
        assert sink_share(found).min() > 0.15
        # block 0 writes a little along u as well
        assert concentration(found.write.mean(0))[1] == pytest.approx(share, abs=0.08)
    turned = light(model.put(State(6.0, 0.9, 0.8)), view)
    for one, angle in ((found, 0.3), (turned, 0.8)):  # u also holds what the others share
        across, along = (one.direction @ d.numpy() for d in (model.plan.mark, model.plan.sink))
        assert np.arctan2(across, along) == pytest.approx(angle, abs=0.02)
    assert sink_share(turned).min() > 0.15  # the heads read where it turned to


def test_noise_is_fresh_and_leaves_nothing_behind(model):
    state = State(4.0, 0.2, 0.0)

    def weights(jitter, seed):
        parameters = model.put(state, jitter, seed).model.parameters()
        return torch.cat([p.detach().flatten() for p in parameters])

    clean = weights(0.0, 0)
    noisy = weights(0.01, 1)
    kept = clean != 0
    assert (noisy / clean)[kept].std() == pytest.approx(0.01, rel=0.05)
    assert not torch.equal(noisy, weights(0.01, 2))
    assert torch.equal(noisy, weights(0.01, 1))
    assert torch.equal(clean, weights(0.0, 0))


def test_scripts_hold_what_their_kind_promises():
    scripts = [draw_script(seed) for seed in range(60)]
    assert {script.kind for script in scripts} == {"settles", "drifts", "late", "no sink"}
    for script in scripts:
        steps = script.steps
        if script.kind == "no sink":
            assert (script.stages, script.settled_at, script.events) == (1, None, [])
            continue
        assert len(script.states) == len(steps)
        assert script.events == sorted(script.events)
        start, stop, _ = script.growth
        assert grown(stop + 1, script.growth) == 1.0
        assert grown(start - 1, script.growth) == 0.0
        assert (script.stages is None) == (stop > start or script.kind == "drifts")
        ends = [stop, *script.events[1:]]
        waits = [
            step_at(steps, event) / step_at(steps, end)
            for end, event in zip(ends, script.events[1:], strict=False)
        ]
        if script.kind == "late":
            assert waits[-1] > QUIET
        else:
            assert all(wait <= QUIET for wait in waits)


def test_what_was_planted_is_found():
    rows = [check_models(seed) for seed in (1009, 1013, 4)]
    assert [row["kind"] for row in rows[:2]] == ["settles", "late"]
    assert rows[2]["kind"] == "no sink"
    assert not rows[2]["found"]
    assert [row["stages"] == row["stages_found"] for row in rows[:2]] == [True, True]
    assert [row["holds"] for row in rows[:2]] == [True, True]
    assert not rows[0]["false"]
    assert rows[1]["false"]  # the calm was real, and nothing tells what comes behind it
    assert rows[1]["taken_back"]
    found = table(rows)
    assert found["false_settling"]["of"] == 2
    assert found["event_after_a_long_calm"]["announced_before_it"] == {"value": 1.0, "of": 1}
