"""Whether a sink is carried by its token or by its position id, on models where that is known."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
import torch

from sinkscope.causal.carriers import (
    BY_DISTANCE,
    BY_ID,
    BY_MASK,
    BY_QUERY,
    BY_TOKEN,
    carriers,
    of_role,
)
from sinkscope.causal.evidence import BOTH, POSITION, TOKEN, judge
from sinkscope.causal.families import identity, position_ids
from sinkscope.causal.testing import CausalBench
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
    rows = identity.tokens(lab) + position_ids.positions(lab) + position_ids.both(lab)
    return judge(rows + position_ids.query_bias(lab))


@pytest.mark.parametrize(
    ("mechanism", "family", "bos", "by"),
    [
        ("p0-two-block", "llama", "without", [BY_MASK]),
        ("p0-expert", "mixtral", "with", [BY_MASK]),
        ("p0-two-block", "gpt2", "without", [BY_MASK]),
        ("bos-token", "llama", "with", [BY_TOKEN]),
        ("position-embedding", "gpt2", "without", [BY_ID]),
        ("query-bias", "gpt2", "without", [BY_ID, BY_QUERY]),
    ],
)
def test_what_carries_the_sink(mechanism, family, bos, by):
    lab, tests = lab_of(mechanism, family, bos), rows_of(mechanism, family, bos)
    found = carriers(tests, lab.sink_heads)
    assert [name for name, carrier in found.items() if carrier.heads.any()] == by
    for name in by:
        assert found[name].mass.low == pytest.approx(1)


def test_the_sink_moves_with_the_position_id_only_where_embeddings_carry_it():
    for mechanism, family, moved in (
        ("query-bias", "gpt2", 1.0),
        ("position-embedding", "gpt2", 1.0),
        ("p0-two-block", "llama", 0.0),
    ):
        tests = rows_of(mechanism, family)
        swap = next(t for t in tests if "moved" in t.extra)
        assert swap.claim
        assert swap.extra["moved"]["position"] == P
        assert swap.extra["moved"]["share"].value == pytest.approx(moved, abs=0.02)
        assert swap.extra["follows_ids"] is (family == "gpt2")
        (both,) = of_role(tests, BOTH)
        assert both.size == pytest.approx(-moved, abs=0.05)


def test_a_sink_of_the_farthest_key_moves_with_the_ids_and_not_with_the_stream():
    """A constant query and key in one slow rotary pair: no token, no state and no id counts."""
    lab = farthest_key()
    tests = judge(identity.tokens(lab) + position_ids.positions(lab) + position_ids.both(lab))
    found = carriers(tests, lab.sink_heads)
    assert [name for name, carrier in found.items() if carrier.heads.any()] == [BY_DISTANCE]
    shift, *_ = of_role(tests, POSITION)
    assert shift.outcome == "absent"


def farthest_key() -> CausalBench:
    model = tiny_model("llama")
    config, width = model.config, model.config.hidden_size // model.config.num_attention_heads
    base = config.rope_parameters["rope_theta"]
    pair = next(j for j in range(width // 2) if base ** (-2 * j / width) * 40 < 3)
    with torch.no_grad():
        model.get_input_embeddings().weight[:, 0] = 1.0  # what every token has in common
        for layer in model.model.layers:
            for weight in (layer.self_attn.q_proj.weight, layer.self_attn.k_proj.weight):
                weight.zero_()
            layer.self_attn.q_proj.weight[pair::width, 0] = 30.0
            layer.self_attn.k_proj.weight[pair::width, 0] = -30.0
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    subject = Subject.from_model(model, name="farthest")
    ids = torch.randint(3, 100, (8, 40), generator=torch.Generator().manual_seed(1))
    prompts = Prompts(ids, torch.full((8,), 40), "ids", "without")
    circuit = find_circuit(subject, prompts, untrained=False)
    heads = circuit.reading_heads
    engine = Engine(subject, prompts, circuit.sites, heads=heads, positions=(0, P))
    return CausalBench(engine, circuit, heads, P, 2, 0)


def test_ids_that_the_shift_maps_onto_themselves_are_told_by_the_second():
    lab = lab_of("position-embedding", "gpt2")
    shifts = position_ids._shifts(lab, follows=True)
    assert shifts == [40, 25]
    assert position_ids._shifts(lab, follows=False) == [40]


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
    found = of_role(rows_of("p0-two-block", "llama"), TOKEN)[0].extra["identity"]
    assert found["spread"] < 0.01
    assert found["share"].value > 0.9
    assert len(set(found["tokens"])) == identity.ITEMS
    low, value, high = (getattr(found["explained"], k) for k in ("low", "value", "high"))
    assert 0 <= low <= value <= high <= 1


def test_no_shift_where_prompts_fill_the_positions_and_the_swap_decides():
    lab = lab_of("position-embedding", "gpt2", length=512)
    tests = judge(position_ids.positions(lab))
    assert {t.edit for t in tests} == {f"position ids of 0 and {P} swapped"}
    assert [t.passed for t in tests] == [True, True]
    assert any("not shifted" in note for note in lab.notes)


def test_families_without_position_ids_say_so():
    subject = Subject.from_model(tiny_model("bloom"), name="bloom")
    ids = torch.randint(3, 100, (3, 30), generator=torch.Generator().manual_seed(1))
    prompts = Prompts(ids, torch.full((3,), 30), "ids", "without")
    circuit = find_circuit(subject, prompts, untrained=False)
    engine = Engine(subject, prompts, circuit.sites, heads=[(1, 0)], positions=(0, P))
    lab = CausalBench(engine, circuit, [(1, 0)], P, 2, 0)
    assert position_ids.positions(lab) == []
    assert any("takes no position ids" in note for note in lab.notes)


def test_drawn_tokens_are_neither_special_nor_near_position_zero():
    lab = lab_of("p0-two-block", "llama")
    drawn = identity.random_tokens(lab, 300, 7)
    assert len(drawn) == 300
    assert not set(drawn) & set(lab.engine.prompts.input_ids[:, :8].flatten().tolist())
    assert not set(drawn) & {0, 1}  # <s> and </s>


def test_a_small_vocabulary_leaves_tokens_to_try():
    lab = lab_of("p0-two-block", "llama")
    ids = lab.engine.prompts.input_ids
    few = dataclasses.replace(lab.engine.prompts, input_ids=ids % 12 + 2)
    subject = Subject.from_model(lab.engine.subject.model, name="few")
    bench = CausalBench(Engine(subject, few), lab.circuit, lab.heads, P, 2, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(identity, "usable_vocabulary", lambda subject: 14)
        drawn = identity.other_tokens(bench, 1)
        assert set(identity.random_tokens(bench, 128, 4)) <= set(range(14))
    assert len(drawn) == len(ids)
    assert all(0 <= t < 14 and t not in row[:8] for t, row in zip(drawn, few.input_ids.tolist()))


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
