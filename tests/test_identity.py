"""Whether a sink is carried by its token or by its position id, on models where that is known."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from sinkscope.causal.evidence import POSITION, QUERY_BIAS, TOKEN, judge
from sinkscope.causal.families import identity
from sinkscope.causal.testing import CausalBench
from sinkscope.causal.verdict import lost
from sinkscope.circuit.find import find_circuit
from sinkscope.errors import InputError
from sinkscope.intervene.edits import TokenAt, from_json
from sinkscope.intervene.edits.tokens import DropToken, InsertToken, RandomTokens, RepeatToken
from sinkscope.intervene.engine import Engine
from sinkscope.known.constructed import build_in_memory, draw_spec
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts, build_prompts
from sinkscope.subject.tiny import tiny_model

P = 5


@functools.cache
def lab_of(mechanism: str, family: str, bos: str = "without", length: int = 40) -> CausalBench:
    """A lab on a constructed model of that mechanism."""
    model, tokenizer, _ = build_in_memory(draw_spec(mechanism, 0, family=family))
    subject = Subject.from_model(model, tokenizer, name=mechanism)
    prompts = build_prompts(subject, kind="random", n=8, length=length, bos=bos, seed=1)
    circuit = find_circuit(subject, prompts, untrained=False)
    engine = Engine(
        subject,
        prompts,
        circuit.sites,
        direction=circuit.direction,
        heads=circuit.reading_heads,
        positions=(0, P),
    )
    return CausalBench(engine, circuit, circuit.reading_heads, P, 4, 0)


@functools.cache
def rows_of(mechanism: str, family: str, bos: str = "without"):
    lab = lab_of(mechanism, family, bos)
    return judge(identity.tokens(lab) + identity.positions(lab) + identity.query_bias(lab))


def deciding(tests, role):
    found = [test for test in tests if test.claim and test.extra.get("role") == role]
    assert len(found) <= 1
    return found[0] if found else None


@pytest.mark.parametrize(
    ("mechanism", "family", "bos", "token", "position", "bias"),
    [
        ("p0-two-block", "llama", "without", False, False, None),
        ("p0-expert", "mixtral", "with", False, False, None),
        ("p0-two-block", "gpt2", "without", False, False, False),
        ("bos-token", "llama", "with", True, False, None),
        ("position-embedding", "gpt2", "without", False, True, False),
        ("query-bias", "gpt2", "without", False, True, True),
    ],
)
def test_what_carries_the_sink(mechanism, family, bos, token, position, bias):
    tests = rows_of(mechanism, family, bos)
    assert lost(deciding(tests, TOKEN)) is token
    assert lost(deciding(tests, POSITION)) is position
    row = deciding(tests, QUERY_BIAS)
    assert (None if row is None else lost(row)) is bias


def test_the_sink_moves_with_the_position_id_only_where_embeddings_carry_it():
    for mechanism, family, moved in (
        ("query-bias", "gpt2", 1.0),
        ("position-embedding", "gpt2", 1.0),
        ("p0-two-block", "llama", 0.0),
    ):
        swap = next(t for t in rows_of(mechanism, family) if "moved" in t.extra)
        assert not swap.claim
        assert swap.extra["moved"]["position"] == P
        assert swap.extra["moved"]["share"].value == pytest.approx(moved, abs=0.02)


def test_repeats_leave_what_the_mask_predicts():
    """By recognition every copy is like P0, so P0 gets its even share; a position id stays."""
    row = next(t for t in rows_of("p0-two-block", "llama") if "repeated" in t.edit)
    assert row.extra["share"].value == pytest.approx(row.extra["uniform"], abs=0.01)
    assert abs(row.control_effect.mean()) < 0.05  # different tokens: the sink stays
    assert row.kl is None
    row = next(t for t in rows_of("query-bias", "gpt2") if "repeated" in t.edit)
    assert row.extra["share"].value > 0.9


def test_the_other_bos_policy_is_tried():
    dropped = next(t for t in rows_of("bos-token", "llama", "with") if "drop" in t.edit)
    assert dropped.size < -0.9
    put = next(t for t in rows_of("p0-two-block", "llama") if "put in" in t.edit)
    assert abs(put.size) < 0.05
    assert not put.claim


def test_variance_by_identity_of_planted_components():
    generator = np.random.default_rng(0)
    token, prompt = generator.normal(size=(400, 1)), generator.normal(size=(1, 400))
    rest = generator.normal(size=(400, 400))
    for weights in ((2.0, 1.0, 1.0), (0.0, 1.0, 1.0), (1.0, 0.0, 3.0)):
        a, b, c = weights
        found = identity.explained(a * token + b * prompt + c * rest)
        assert found == pytest.approx(a**2 / (a**2 + b**2 + c**2), abs=0.05)
    assert identity.explained(token[:5] + 0 * prompt[:, :5]) == pytest.approx(1.0)
    assert identity.explained(np.ones((5, 5))) is None
    assert identity.explained(token[:5]) is None  # one prompt


def test_identity_explains_little_of_a_p0_sink():
    found = deciding(rows_of("p0-two-block", "llama"), TOKEN).extra["identity"]
    assert found["spread"] < 0.01
    assert found["share"].value > 0.9
    assert len(set(found["tokens"])) == identity.ITEMS
    low, value, high = (getattr(found["explained"], k) for k in ("low", "value", "high"))
    assert 0 <= low <= value <= high <= 1


def test_no_shift_where_prompts_fill_the_positions_and_the_swap_decides():
    lab = lab_of("position-embedding", "gpt2", length=512)
    tests = judge(identity.positions(lab))
    assert [t.edit for t in tests] == [f"position ids of 0 and {P} swapped"]
    assert lost(deciding(tests, POSITION))
    assert any("not shifted" in note for note in lab.notes)


def test_families_without_position_ids_say_so():
    subject = Subject.from_model(tiny_model("bloom"), name="bloom")
    ids = torch.randint(3, 100, (3, 30), generator=torch.Generator().manual_seed(1))
    prompts = Prompts(ids, torch.full((3,), 30), "ids", "without")
    circuit = find_circuit(subject, prompts, untrained=False)
    engine = Engine(subject, prompts, circuit.sites, heads=[(1, 0)], positions=(0, P))
    lab = CausalBench(engine, circuit, [(1, 0)], P, 2, 0)
    assert identity.positions(lab) == []
    assert any("takes no position ids" in note for note in lab.notes)


def test_drawn_tokens_are_neither_special_nor_near_position_zero():
    lab = lab_of("p0-two-block", "llama")
    drawn = identity.random_tokens(lab, 300, 7)
    assert len(drawn) == 300
    assert not set(drawn) & set(lab.engine.prompts.input_ids[:, :8].flatten().tolist())
    assert not set(drawn) & {0, 1}  # <s> and </s>


def test_token_edits_do_what_they_say():
    lab = lab_of("p0-two-block", "llama")
    ids = lab.engine.prompts.input_ids
    context = lab.engine._batches[0].context

    def after(edit):
        return edit.inputs(context, {"input_ids": ids})["input_ids"]

    assert torch.equal(after(DropToken(0))[:, :-1], ids[:, 1:])
    assert torch.equal(after(DropToken(3))[:, :3], ids[:, :3])
    assert torch.equal(after(DropToken(3))[:, 3:-1], ids[:, 4:])
    put = after(InsertToken(7, 2))
    assert torch.equal(put[:, :2], ids[:, :2])
    assert (put[:, 2] == 7).all()
    assert torch.equal(put[:, 3:], ids[:, 2:-1])
    each = tuple(range(10, 10 + len(ids)))
    assert torch.equal(
        after(RepeatToken(each, 1))[:, 1:], torch.tensor(each)[:, None].expand(-1, 39)
    )
    assert torch.equal(after(RepeatToken(each, 1))[:, 0], ids[:, 0])
    drawn = after(RandomTokens((5, 6, 7)))
    assert set(drawn.flatten().tolist()) == {5, 6, 7}
    assert not torch.equal(drawn[0], drawn[1])
    for edit in (DropToken(3), InsertToken(7, 2), RepeatToken(each, 1), RandomTokens((5, 6))):
        assert from_json(edit.to_json()) == edit
    with pytest.raises(InputError):
        after(InsertToken(10**6))


def test_a_token_edit_equals_the_prompts_it_describes():
    lab = lab_of("p0-two-block", "llama")
    prompts = lab.engine.prompts
    ids = prompts.input_ids.clone()
    ids[:, 0] = 9
    other = Engine(
        lab.engine.subject,
        Prompts(ids, prompts.lengths, "ids", "without"),
        lab.circuit.sites,
        heads=lab.heads,
    )
    np.testing.assert_allclose(
        lab.run([TokenAt(0, 9)]).on(lab.heads), other.intact.on(lab.heads), atol=1e-6
    )
