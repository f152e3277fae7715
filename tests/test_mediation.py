"""What passes through the next stage, on circuits whose stages are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sinkscope.causal.evidence import judge
from sinkscope.causal.families import necessity
from sinkscope.causal.families.mediation import mediated, mediation
from sinkscope.errors import InputError
from sinkscope.intervene.edits import SetWrite, Stream, from_json
from sinkscope.intervene.edits.hold import HoldDirection, HoldKeys, record
from sinkscope.intervene.engine import Engine
from sinkscope.observe.p0_stream import p0_states
from sinkscope.observe.sites import find_sites
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts
from sinkscope.subject.tiny import tiny_model
from tests.test_identity import P, lab_of


def rows_of(mechanism: str, family: str):
    lab = lab_of(mechanism, family)
    before = necessity.recognition(lab) + necessity.mlp_writes(lab)
    return lab, mediation(lab, judge(before))


@pytest.mark.parametrize(
    ("mechanism", "family"),
    [("p0-two-block", "llama"), ("p0-split", "gpt2"), ("p0-expert", "mixtral")],
)
def test_every_stage_of_a_p0_circuit_passes_through_the_next(mechanism, family):
    _, tests = rows_of(mechanism, family)
    assert [t.arrow[:7] for t in tests] == ["stage 1", "stage 2"]
    for test in tests:
        assert test.passed
        assert test.extra["taken"].value < -0.9
        assert test.extra["mediated"].value == pytest.approx(1.0, abs=0.03)
        assert abs(test.extra["control_mediated"].value) < 0.02
        assert test.extra["mediated"].low <= test.extra["mediated"].value
    assert mediated(tests, "stage 1") is tests[0].extra["mediated"]
    assert mediated(tests, "stage 3") is None
    assert all(test.passed for test in judge(tests))  # leaves them alone


def test_a_sink_that_needs_no_recognition_has_nothing_to_pass_on():
    lab, tests = rows_of("query-bias", "gpt2")
    assert [t.arrow[:7] for t in tests] == ["stage 2"]
    assert any("no edit of stage 1" in note for note in lab.notes)


def test_a_hold_off_the_path_gives_nothing_back():
    """Held where the edit comes later, or at keys that heads do not read: the sink stays gone."""
    lab = lab_of("p0-two-block", "llama")
    intact = record(lab.engine, (0, P))
    edit = SetWrite(1, "mlp", 0, "mean")
    gone = lab.run([edit]).on(lab.heads)
    early = lab.run([edit, HoldDirection(0, intact, (0, 1))]).on(lab.heads)
    unread = lab.run([edit, HoldKeys(0, intact, (0, 1))]).on(lab.heads)
    right = lab.run([edit, HoldDirection(0, intact, (2,))]).on(lab.heads)
    np.testing.assert_allclose(early, gone, atol=0.01)
    np.testing.assert_allclose(unread, gone, atol=0.01)
    assert (right > 0.9).all()
    assert (gone < 0.1).all()


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral", "gemma2"])
def test_holds_of_an_unedited_model_change_nothing(family):
    engine, _ = tiny_engine(family)
    intact = record(engine, (0, P))
    for at in (0, P):
        edits = [HoldDirection(at, intact, (0, 2, 4)), HoldKeys(at, intact, (1, 3))]
        read = engine.run(edits)
        np.testing.assert_allclose(read.share, engine.intact.share, atol=1e-5)
        assert np.abs(read.kl).max() < 1e-6


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
def test_what_is_recorded_is_the_intact_stream(family):
    engine, ids = tiny_engine(family)
    intact = record(engine, (0,))
    states = p0_states(engine.subject, ids[:, 0])
    for row in range(len(ids)):
        for point in range(5):
            torch.testing.assert_close(
                intact.streams[point, 0, row], states[row, point], atol=2e-5, rtol=1e-4
            )


def test_held_keys_are_those_of_the_intact_model():
    """The share of P0 on one head depends on P0's key alone where only P0's stream was edited."""
    engine, _ = tiny_engine("llama")
    intact = record(engine, (0,))
    edit = Stream(3, 0, "swap", seed=3)
    edited = engine.run([edit], want_logits=False)
    held = engine.run([edit, HoldKeys(0, intact, (3,))], want_logits=False)
    assert np.abs(edited.share[:, 0, 3] - engine.intact.share[:, 0, 3]).max() > 0.01
    np.testing.assert_allclose(held.share[:, 0, 3], engine.intact.share[:, 0, 3], atol=1e-5)


def test_holds_are_printed_and_say_what_they_need():
    engine, _ = tiny_engine("llama")
    intact = record(engine, (0,))
    for edit in (HoldKeys(0, intact, (1, 2)), HoldDirection(0, intact, (1, 2))):
        again = from_json(edit.to_json())
        assert again == edit
        assert "held" in str(again)
        with pytest.raises(InputError, match="record"):
            engine.run([again])
    with pytest.raises(InputError, match="there is no block 99"):
        engine.run([HoldDirection(0, intact, (1, 99))])
    assert not any(m._forward_pre_hooks for m in engine.subject.model.modules())
    engine.direction = None
    with pytest.raises(InputError, match="no sink direction"):
        engine.run([HoldDirection(0, intact, (1,))])


def tiny_engine(family: str):
    subject = Subject.from_model(tiny_model(family), name=family)
    ids = torch.randint(3, 100, (3, 24), generator=torch.Generator().manual_seed(1))
    prompts = Prompts(ids, torch.full((3,), 24), "ids", "without")
    direction = torch.nn.functional.normalize(
        torch.randn(64, generator=torch.Generator().manual_seed(2)), dim=0
    )
    sites = find_sites(subject, prompts)
    return Engine(subject, prompts, sites, direction=direction, positions=(0, P)), ids
