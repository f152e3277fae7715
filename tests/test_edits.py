"""Every edit does what it says, against plain tensors; nothing stays behind."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from sinkscope.errors import InputError, Unsupported
from sinkscope.intervene.edits import (
    ClampAttention,
    FreezeAttention,
    Heads,
    KeepNorm,
    MatchVariance,
    Neurons,
    PositionIds,
    QueryBias,
    RemoveAttention,
    RemoveValue,
    ScaleWrite,
    SelfOnly,
    SetWrite,
    Stream,
    TokenAt,
    Transplant,
    from_json,
)
from sinkscope.intervene.edits.base import Edit
from sinkscope.intervene.engine import Engine
from sinkscope.observe.attention import observe
from sinkscope.observe.parity import plain_logits, token_prompts
from sinkscope.observe.reads import Want
from sinkscope.observe.residual import residual_hooks
from sinkscope.observe.sites import find_sites, write_hooks
from sinkscope.subject.load import Subject
from sinkscope.subject.tiny import tiny_model

EDITS = [
    SetWrite(1, "mlp", 3, "mean"),
    ScaleWrite(1, "attention", 3, 2.0),
    MatchVariance(1, 3, 0.5, "p0", "stream"),
    Neurons(1, (0, 5), 3, "resample", seed=2),
    Heads(1, (1,), 3),
    Stream(2, 3, "swap", seed=4),
    Stream(2, 3, "set", vector=tuple(range(64))),
    SelfOnly(3, (0, 1)),
    SelfOnly(3, None, to=1),
    RemoveAttention(0),
    RemoveAttention((3, 5), 0.4, ((1, 0), (2, 3))),
    RemoveValue(2, 0.5),
    KeepNorm(2),
    FreezeAttention(),
    Transplant(3, 0, "key", (2,)),
    QueryBias(0.5),
    TokenAt(0, 7),
    TokenAt(0, (7, 8)),
    PositionIds(2, (3, 9)),
]
FAMILIES = ("llama", "gpt2", "gemma2", "gpt_neox", "mixtral", "gpt_oss", "bloom")


def prepare(family: str):
    subject = Subject.from_model(tiny_model(family), name=family)
    ids = torch.randint(3, 100, (2, 24), generator=torch.Generator().manual_seed(1))
    prompts = token_prompts(ids)
    return subject, prompts, find_sites(subject, prompts)


def deltas(engine, edits, subject, sites):
    """What every write adds in a pass with edits: {(block, index): [B, T, d]}."""
    found = {}

    def consume(block, index, delta):
        found[block, index] = delta.clone()

    @dataclasses.dataclass(frozen=True)
    class Listen(Edit):
        order = 2

        def hooks(self, context):
            return write_hooks(subject, sites, consume)()

    engine.run([*edits, Listen()], want_logits=False)
    return found


@pytest.mark.parametrize("edit", EDITS, ids=lambda e: type(e).__name__)
def test_an_edit_is_one_line_and_survives_json(edit):
    assert "\n" not in str(edit)
    assert len(str(edit)) > 10
    import json

    assert from_json(json.loads(json.dumps(edit.to_json()))) == edit


def test_json_of_something_else_is_refused():
    with pytest.raises(InputError, match="is not an edit"):
        from_json({"edit": "Engine"})
    with pytest.raises(InputError, match="cannot be read back"):
        from_json({"edit": "SetWrite", "nowhere": 3})


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["attention", "mlp"])
def test_a_write_is_what_it_was_set_to(family, kind):
    subject, prompts, sites = prepare(family)
    engine = Engine(subject, prompts, sites)
    index = [s.kind for s in sites.blocks[1]].index(kind)
    intact = deltas(engine, [], subject, sites)[1, index]
    others = [t for t in range(1, 24) if t != 3]
    for how, wanted in (("zero", 0 * intact[:, 3]), ("mean", intact[:, others].mean(1))):
        edited = deltas(engine, [SetWrite(1, kind, 3, how)], subject, sites)[1, index]
        torch.testing.assert_close(edited[:, 3], wanted, atol=1e-5, rtol=1e-4)
        if kind == "mlp":  # a changed attention write changes nothing at other positions either
            torch.testing.assert_close(edited[:, others], intact[:, others])
    drawn = deltas(engine, [SetWrite(1, kind, 3, "resample", 5)], subject, sites)[1, index][:, 3]
    for row in range(2):
        near = (intact[row, others] - drawn[row]).abs().amax(-1)
        assert near.min() < 1e-5
    again = deltas(engine, [SetWrite(1, kind, 3, "resample", 5)], subject, sites)[1, index][:, 3]
    assert torch.equal(drawn, again)


def test_variance_edits_reach_their_variance(llama, ids):
    prompts = token_prompts(ids)
    sites = find_sites(llama, prompts)
    engine = Engine(llama, prompts, sites)
    points = {}
    before = residual_of(engine, llama, points, [])[1][:, 3]
    intact = deltas(engine, [], llama, sites)[1, 0]
    variance = intact.var(-1, unbiased=False)
    edited = deltas(engine, [MatchVariance(1, 3, 0.25, "p0")], llama, sites)[1, 0]
    wanted = 0.75 * variance[:, 3] + 0.25 * variance[:, 0]
    torch.testing.assert_close(edited.var(-1, unbiased=False)[:, 3], wanted)
    center = intact.mean(-1)[:, 3]
    torch.testing.assert_close(edited.mean(-1)[:, 3], center, atol=1e-5, rtol=1e-4)
    control = deltas(engine, [MatchVariance(1, 3, 0.25, "p0", "stream")], llama, sites)[1, 0]
    new, old, loud = (before + d[:, 3] for d in (control, intact, edited))
    torch.testing.assert_close(new.norm(dim=-1), loud.norm(dim=-1))
    cosine = torch.nn.functional.cosine_similarity(new, old)
    torch.testing.assert_close(cosine, torch.ones(2))
    doubled = deltas(engine, [ScaleWrite(1, "attention", 3, 2.0)], llama, sites)[1, 0]
    torch.testing.assert_close(doubled.var(-1, unbiased=False)[:, 3], 4 * variance[:, 3])
    torch.testing.assert_close(doubled.mean(-1)[:, 3], center, atol=1e-5, rtol=1e-4)


def residual_of(engine, subject, points, edits):
    @dataclasses.dataclass(frozen=True)
    class Listen(Edit):
        order = 2

        def hooks(self, context):
            return residual_hooks(subject, lambda i, h: points.__setitem__(i, h.clone()))()

    engine.run([*edits, Listen()], want_logits=False)
    return dict(points)


def test_stream_edits(llama, ids):
    direction = torch.nn.functional.normalize(torch.ones(64), dim=0)
    engine = Engine(llama, token_prompts(ids), direction=direction)
    intact = residual_of(engine, llama, {}, [])
    for point in (2, len(llama.anatomy.blocks)):
        x = intact[point]

        def edited(point=point, **how):
            return residual_of(engine, llama, {}, [Stream(point, 3, **how)])[point]

        removed = edited(how="remove")
        assert (removed[:, 3] @ direction).abs().max() < 1e-4
        torch.testing.assert_close(removed[:, 4:], x[:, 4:])
        norms = x[:, [1, 2, *range(4, 24)]].norm(dim=-1).median(1).values
        cut = edited(how="norm")[:, 3]
        torch.testing.assert_close(cut.norm(dim=-1), norms)
        torch.testing.assert_close(
            torch.nn.functional.cosine_similarity(cut, x[:, 3]), torch.ones(2)
        )
        swapped = edited(how="swap", seed=1)[:, 3]
        torch.testing.assert_close(swapped.norm(dim=-1), x[:, 3].norm(dim=-1))
        assert torch.nn.functional.cosine_similarity(swapped, x[:, 3]).abs().max() < 0.5
        torch.testing.assert_close(edited(how="copy", source=1)[:, 3], x[:, 1])


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_oss", "gemma2"])
def test_who_sees_whom(family):
    subject, prompts, sites = prepare(family)
    engine = Engine(subject, prompts, sites)
    maps = {}

    def look(edits):
        keep, engine._maps = engine._maps, True
        original = engine._reading

        def reading(*args, **kwargs):
            made = original(*args, **kwargs)
            made._from_map = lambda read, layout, chosen: maps.__setitem__(
                read.block, read.map.clone()
            )
            return made

        engine._reading = reading
        try:
            engine.run(edits, want_logits=False)
        finally:
            engine._reading, engine._maps = original, keep
        return dict(maps)

    intact = look([TokenAt(0, 5)])
    seen = look([TokenAt(0, 5), SelfOnly(3, (1,))])
    row = seen[1][:, :, 3]
    assert (row[..., :3] == 0).all()
    assert (row[..., 3] > 0).all()
    if family != "gpt_oss":  # a learned sink keeps its share
        torch.testing.assert_close(row[..., 3], torch.ones_like(row[..., 3]))
    torch.testing.assert_close(seen[0], intact[0])
    narrow = look([TokenAt(0, 5), SelfOnly(3, (1,), to=2)])[1][:, :, 3]
    assert (narrow[..., 2] > 0).all()
    assert (narrow[..., 3] == 0).all()


def test_a_transplanted_key_is_scored_like_its_source(llama, ids):
    engine = Engine(llama, token_prompts(ids), positions=(3,))
    read = engine.run([Transplant(3, 0, "key", (2,))], want_logits=False)
    torch.testing.assert_close(torch.tensor(read.share[:, 0, 2]), torch.tensor(read.share[:, 1, 2]))
    value = engine.run([Transplant(3, 0, "value", (2,))], want_logits=False)
    assert abs(value.share[:, :, 2] - engine.intact.share[:, :, 2]).max() < 1e-6
    assert abs(value.share[:, :, 3] - engine.intact.share[:, :, 3]).max() > 1e-4


def test_neurons_off_is_a_column_of_zeros():
    for family in ("llama", "gpt2", "mixtral", "gpt_oss"):
        subject, prompts, sites = prepare(family)
        engine = Engine(subject, prompts, sites)
        index = [s.kind for s in sites.blocks[1]].index("mlp")
        edited = deltas(engine, [Neurons(1, (0, 7), 3)], subject, sites)[1, index]
        projection = sites.mlp(1).projection
        weight = projection.weight(subject.anatomy.modules(subject.model)[1])
        saved = weight.detach().clone()
        columns = projection.columns(subject.anatomy.modules(subject.model)[1])
        columns[..., [0, 7], :] = 0.0  # a view: every position loses them
        off = deltas(engine, [], subject, sites)[1, index]
        with torch.no_grad():
            weight.copy_(saved)
        intact = deltas(engine, [], subject, sites)[1, index]
        torch.testing.assert_close(edited[:, 3], off[:, 3])
        torch.testing.assert_close(edited[:, 4:], intact[:, 4:])
        assert (off[:, 3] - intact[:, 3]).abs().max() > 1e-4


def test_heads_off_is_a_column_of_zeros(llama, ids):
    prompts = token_prompts(ids)
    sites = find_sites(llama, prompts)
    engine = Engine(llama, prompts, sites)
    edited = deltas(engine, [Heads(1, (2,), 3)], llama, sites)[1, 0]
    block = llama.anatomy.modules(llama.model)[1]
    columns = sites.attention(1).projection.columns(block)
    saved = columns.clone()
    columns[32:48] = 0.0  # head 2 of 4, 16 wide
    off = deltas(engine, [], llama, sites)[1, 0]
    columns.copy_(saved)
    torch.testing.assert_close(edited[:, 3], off[:, 3])


def test_token_and_position_edits_equal_edited_input(llama, ids):
    engine = Engine(llama, token_prompts(ids))
    other = ids.clone()
    other[:, 0] = 7
    want = Engine(llama, token_prompts(other)).intact
    got = engine.run([TokenAt(0, 7)])
    assert abs(got.share - want.share).max() < 1e-6
    assert abs(got.ce - want.ce).max() < 1e-5
    assert abs(engine.run([PositionIds(5)]).ce - engine.intact.ce).max() < 1e-4  # rotary: relative
    assert abs(engine.run([PositionIds(0, (3, 9))]).ce - engine.intact.ce).max() > 1e-4


def test_query_bias_is_the_models_own():
    subject, prompts, _ = prepare("gpt2")
    without = Engine(subject, prompts).run([QueryBias(0.0)])
    for block in subject.anatomy.modules(subject.model):
        block.attn.c_attn.bias.data[:64] = 0.0
    assert abs(without.share - Engine(subject, prompts).intact.share).max() < 1e-6


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (SetWrite(9, "mlp"), "there is no block 9"),
        (SetWrite(1, "norm"), "not attention or mlp"),
        (SetWrite(1, "mlp", 99), "lies outside a prompt of 24"),
        (SetWrite(1, "mlp", 1, "other"), "is not one of zero, mean, resample"),
        (Neurons(1, (4000,)), "has neurons 0 to"),
        (Neurons(1, (1,), expert=0), "has no experts"),
        (Heads(1, (4,)), "has heads 0 to 3"),
        (Stream(1), "needs a vector or a sink direction"),
        (SelfOnly(3, None, to=5), "cannot see key 5"),
        (RemoveAttention(99), "lies outside a prompt of 24"),
        (RemoveAttention((3,)), "1 keys were given for more prompts"),
        (RemoveValue(0, 1.0, ((1, 4),)), "there is no head 4 in block 1"),
        (ClampAttention(), "needs masses"),
        (ClampAttention(masses={}), "was not written down"),
        (TokenAt(0, 100000), "outside the model's vocabulary"),
        (PositionIds(100000), "is over the model's"),
    ],
)
def test_edits_that_do_not_fit_are_refused_in_a_sentence(llama, ids, edit, message):
    prompts = token_prompts(ids)
    engine = Engine(llama, prompts, find_sites(llama, prompts))
    before = plain_logits(llama, prompts)
    with pytest.raises(InputError, match=message):
        engine.run([edit])
    assert torch.equal(before, plain_logits(llama, prompts))


def test_attention_edits_outside_the_registry_are_refused():
    subject, prompts, sites = prepare("bloom")
    engine = Engine(subject, prompts, sites)
    with pytest.raises(Unsupported, match="attention registry"):
        engine.run([SelfOnly(3)])
    assert engine.run([SetWrite(1, "attention", 0)]).kl.max() > 0


def test_routed_neurons_can_only_be_switched_off():
    subject, prompts, sites = prepare("mixtral")
    with pytest.raises(Unsupported, match="only be switched off"):
        Engine(subject, prompts, sites).run([Neurons(1, (0,), how="mean")])


def test_observe_still_sees_the_same_model(llama, ids):
    prompts = token_prompts(ids)
    before, _, _ = observe(llama, prompts, Want())
    engine = Engine(llama, prompts, find_sites(llama, prompts))
    for edit in EDITS:
        if not isinstance(edit, Stream) or edit.vector is not None or edit.how == "swap":
            engine.run([edit])
    after, _, _ = observe(llama, prompts, Want())
    for a, b in zip(before, after):
        assert torch.equal(a.p0, b.p0)
