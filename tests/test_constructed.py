"""Constructed models do what their truth says, and the check notices when one does not."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import sinkscope
from sinkscope.errors import InputError
from sinkscope.known.check import check_truth, figures, run_checks
from sinkscope.known.constructed import (
    MECHANISMS,
    NOISE_LEVELS,
    build_in_memory,
    build_model,
    circuit,
    draw_spec,
    edits,
    load_truth,
)
from sinkscope.known.constructed.build import canvas_of
from sinkscope.known.constructed.codes import LARGEST, LENGTH, token_codes
from sinkscope.known.constructed.plan import FLAG
from sinkscope.known.measure import look, plain_rows
from sinkscope.known.probe import Check
from sinkscope.subject.load import Subject

VERDICTS = {
    "p0-circuit": {
        "p0-two-block",
        "p0-deeper",
        "p0-split",
        "p0-two-phase",
        "p0-hybrid",
        "p0-expert",
        "secondary",
        "sink-without-massive",
        "p0-weak",
        "p0-few-heads",
        "p0-part",
        "p0-head-groups",
        "p0-suppression",
        "p0-real-tokens",
        "p0-small-vocabulary",
        "p0-spike-before",
        "p0-spike-after",
        "p0-unread-writers",
    },
    "p0-circuit+bos-token": {"p0-and-bos", "p0-or-bos"},
    "p0-circuit+position-embedding": {"p0-and-position"},
    "bos-token": {"bos-token"},
    "position-embedding": {
        "position-embedding",
        "position-amplified",
        "position-several",
        "position-full",
        "position-periodic",
        "position-ramp",
        "position-one",
    },
    "rotary-distance": {"rotary-distance"},
    "query-bias": {"query-bias"},
    "learned-sink": {"learned-sink"},
    "other": {"delimiter"},
    "none": {"norm-unread", "recognised-unamplified", "uniform", "massive-elsewhere"},
}
# Every mechanism in every family, without noise and with much of it.
CASES = [
    (mechanism, families[i % len(families)], NOISE_LEVELS[-(i % 2)])
    for mechanism, families in MECHANISMS.items()
    for i in range(max(2, len(families)))
]
# What to break in a finished model so that its truth no longer holds.
BREAKS = {
    "p0-two-block": lambda c, t: edits.neurons_off(c, t.recognising_neurons),
    "p0-deeper": lambda c, t: edits.neurons_off(c, t.writing_neurons),
    "p0-split": lambda c, t: edits.neurons_off(c, t.writing_neurons[-t.spec["writers"] :]),
    "p0-two-phase": lambda c, t: edits.neurons_off(c, t.phases[0]["taking_neurons"]),
    "p0-hybrid": lambda c, t: edits.neurons_off(c, t.phases[1]["writing_neurons"]),
    "p0-expert": lambda c, t: edits.experts_off(c, t.experts),
    "bos-token": lambda c, t: c.embedding[0].copy_(c.embedding[5]),
    "position-embedding": lambda c, t: edits.position_replaced(c, 0, 1),
    "query-bias": lambda c, t: edits.query_bias_off(c),
    "learned-sink": lambda c, t: edits.learned_off(c),
    "delimiter": lambda c, t: c.embedding[t.tokens[0]].copy_(c.embedding[5]),
    "secondary": lambda c, t: edits.neurons_off(c, t.secondary["neurons"]),
    "norm-unread": lambda c, t: edits.neurons_off(c, t.writing_neurons),
    "recognised-unamplified": lambda c, t: edits.heads_off(c, t.recognising_heads),
    "sink-without-massive": lambda c, t: edits.readers_off(c, t.reading_heads[:1]),
    "uniform": lambda c, t: (c.query(1, 0).fill_(1.0), c.key(1, 0).fill_(1.0)),
    "massive-elsewhere": lambda c, t: edits.neurons_off(c, t.writing_neurons),
    "position-amplified": lambda c, t: edits.neurons_off(c, t.writing_neurons),
    "position-several": lambda c, t: edits.position_replaced(c, t.at[-1], 9),
    "position-full": lambda c, t: edits.position_replaced(c, t.at[-1], 9),
    "position-periodic": lambda c, t: edits.position_replaced(c, 64, 9),
    "position-ramp": lambda c, t: edits.positions_swapped(c, 0, 9),
    "position-one": lambda c, t: edits.positions_swapped(c, t.at[0], 9),
    "rotary-distance": lambda c, t: c.query(*t.reading_heads[0]).fill_(0.0),
    "p0-and-bos": lambda c, t: c.embedding[0].copy_(c.embedding[5]),
    "p0-or-bos": lambda c, t: c.embedding[0].copy_(c.embedding[5]),
    "p0-and-position": lambda c, t: edits.neurons_off(c, t.writing_neurons),
    "p0-weak": lambda c, t: c.query(*t.reading_heads[0]).mul_(2.0),
    "p0-few-heads": lambda c, t: edits.readers_off(c, t.reading_heads),
    "p0-part": lambda c, t: c.embedding[t.tokens[0]].copy_(c.embedding[0]),
    "p0-head-groups": lambda c, t: edits.neurons_off(c, t.groups[1]["writing_neurons"]),
    "p0-suppression": lambda c, t: edits.neurons_off(c, t.writing_neurons[::2]),
    "p0-real-tokens": lambda c, t: edits.neurons_off(c, t.unread),
    "p0-small-vocabulary": lambda c, t: edits.neurons_off(c, t.recognising_neurons),
    "p0-spike-before": lambda c, t: edits.neurons_off(c, t.unread),
    "p0-spike-after": lambda c, t: edits.neurons_off(c, t.unread),
    "p0-unread-writers": lambda c, t: edits.neurons_off(c, t.unread),
}


def build(mechanism: str, seed: int = 0, **overrides):
    overrides = {"family": MECHANISMS[mechanism][0], **overrides}
    model, tokenizer, truth = build_in_memory(draw_spec(mechanism, seed, **overrides))
    return Subject.from_model(model, tokenizer), truth


@pytest.mark.parametrize(("mechanism", "family", "noise"), CASES)
def test_truth_holds_when_loaded(mechanism, family, noise, tmp_path):
    spec = draw_spec(mechanism, 11, family=family, noise=noise)
    folder = build_model(spec, tmp_path / "model")
    truth = load_truth(folder)
    assert (truth.mechanism, truth.family, truth.noise) == (mechanism, family, noise)
    check = run_checks(sinkscope.load(folder), truth)
    assert check.failures == []
    found = figures(check)
    if truth.position == "p0" and truth.share == 1:
        assert found["sink_rate"] > 0.9
        assert found["reader_mass"] > 0.9
    assert found["other_share"] is None or found["other_share"] < 1


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_broken_model_is_noticed(mechanism):
    subject, truth = build(mechanism)
    with torch.no_grad():
        BREAKS[mechanism](canvas_of(subject.model), truth)
    assert check_truth(subject, truth)


@pytest.mark.parametrize(
    ("part", "broken"),
    [
        ("flag_threshold", lambda canvas, plan: 0.3 * FLAG),
        ("flag_threshold", lambda canvas, plan: 1.2 * FLAG),
        ("token_codes", lambda count, generator: torch.ones(count, LENGTH)),
        ("slow", lambda canvas: [0, canvas.size // 2]),
    ],
)
def test_a_broken_construction_is_noticed(part, broken, monkeypatch):
    monkeypatch.setattr(circuit, part, broken)
    assert check_truth(*build("p0-two-block"))


@pytest.mark.parametrize(
    "claim",
    [
        {"reading_heads": [], "position": None, "from_block": None},
        {"writing_neurons": "others"},
        {"reading_heads": "more"},
        {"massive_from": 0},
        {"massive_at": None, "massive_from": None},
        {"direction": [1.0, 0.0], "channels": [0, 1]},
    ],
)
def test_a_wrong_claim_is_noticed(claim):
    subject, truth = build("p0-two-block", readers=1)
    canvas = canvas_of(subject.model)
    if claim.get("writing_neurons"):
        claim = {"writing_neurons": edits.other_neurons(canvas, truth)}
    if claim.get("reading_heads"):
        b, head = truth.reading_heads[-1]
        claim = {"reading_heads": [*truth.reading_heads, [b, (head + 1) % canvas.heads]]}
    assert check_truth(subject, dataclasses.replace(truth, **claim))


def test_an_unread_norm_with_readers_is_noticed():
    subject, truth = build("p0-two-block")
    claim = dataclasses.replace(truth, mechanism="norm-unread", position=None, reading_heads=[])
    assert "another head has a sink" in check_truth(subject, claim)


def test_all_mechanisms_over_four_families_and_their_verdicts():
    assert len(MECHANISMS) == 37
    assert len({family for families in MECHANISMS.values() for family in families}) == 4
    for verdict, mechanisms in VERDICTS.items():
        for mechanism in mechanisms:
            assert build(mechanism)[1].verdict == verdict
    assert set().union(*VERDICTS.values()) == set(MECHANISMS)


@pytest.mark.parametrize("family", MECHANISMS["p0-two-block"])
def test_readers_that_carry_tokens_still_do_what_the_truth_says(family):
    spec = draw_spec("p0-two-block", 5, family=family, carry=1.0, noise=0.05)
    model, tokenizer, truth = build_in_memory(spec)
    assert check_truth(Subject.from_model(model, tokenizer), truth) == []
    assert truth.spec["carry"] == 1.0
    with pytest.raises(InputError, match="carry must be between 0 and 1"):
        build_in_memory(draw_spec("p0-two-block", 5, family=family, carry=1.5))


def test_equal_specifications_give_equal_bytes(tmp_path):
    state = torch.random.get_rng_state()
    spec = draw_spec("p0-expert", 5)
    one, two = (build_model(spec, tmp_path / name) for name in ("one", "two"))
    other = build_model(draw_spec("p0-expert", 6), tmp_path / "other")
    files = sorted(file.name for file in one.iterdir())
    assert {"config.json", "model.safetensors", "tokenizer.json", "truth.json"} <= set(files)
    assert all((one / f).read_bytes() == (two / f).read_bytes() for f in files)
    assert (one / "model.safetensors").read_bytes() != (other / "model.safetensors").read_bytes()
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("family", MECHANISMS["p0-two-block"])
def test_plain_transformers_loads_the_folder(family, tmp_path):
    folder = build_model(draw_spec("p0-two-block", 7, family=family), tmp_path / "model")
    model, tokenizer = (c.from_pretrained(folder) for c in (AutoModelForCausalLM, AutoTokenizer))
    text = "A sink.\nÉtude"
    ids = tokenizer(text, return_tensors="pt").input_ids
    assert tokenizer.decode(ids[0]) == text
    assert tokenizer.bos_token_id == 0
    assert len(tokenizer) == model.config.vocab_size
    logits = model(ids).logits
    assert torch.isfinite(logits).all()
    # the next-token distribution depends on the token: not a degenerate readout
    assert logits[0].argmax(-1).unique().numel() > 5


def test_scan_finds_the_sink_of_a_folder(tmp_path):
    subject = sinkscope.load(build_model(draw_spec("p0-two-block", 7), tmp_path / "model"))
    truth = load_truth(tmp_path / "model")
    result = sinkscope.scan(subject, n=8, length=64, untrained=False)
    late = torch.tensor(result.data["scan/without"]["p0_late"].values).mean(0)
    readers = torch.zeros_like(late, dtype=torch.bool)
    for b, head in truth.reading_heads:
        readers[b, head] = True
    assert late[readers].min() > 0.85
    assert late[~readers].max() < 0.1


@pytest.mark.parametrize("mechanism", [m for m in MECHANISMS if m != "learned-sink"])
def test_plain_transformers_sees_the_same_sink(mechanism):
    """Eager attention weights, and nothing of ours but where the truth says to look."""
    subject, truth = build(mechanism, 13, noise=0.05)
    rows = Check(subject, truth).rows
    subject.model.set_attn_implementation("eager")
    with torch.no_grad():
        maps = torch.stack(subject.model(rows, output_attentions=True).attentions)
    where = torch.zeros(rows.shape)
    where[:, truth.at or [0]] = 1
    if truth.position == "delimiter":
        where = torch.isin(rows, torch.tensor(truth.tokens)).float()
    late = (maps[..., rows.shape[1] // 2 :, :] * where[:, None, None]).sum(-1).mean((1, 3))
    readers = torch.zeros(late.shape, dtype=torch.bool)
    for b, head in truth.reading_heads:
        readers[b, head] = True
    least, most = (0.9, 1.0) if truth.share == 1 else (truth.share / 1.5, truth.share * 1.5)
    if truth.reading_heads:
        assert late[readers].min() > least
        assert late[readers].max() < most + 1e-6
    if (~readers).any():
        assert late[~readers].max() < 2 * where[0].sum() * 0.0214 + 0.05


def test_a_sink_lasts_over_the_promised_length():
    for mechanism in ("p0-two-block", "p0-split", "sink-without-massive"):
        subject, truth = build(mechanism, 5, noise=NOISE_LEVELS[-1])
        rows = plain_rows(truth, 0, 2, 512)
        first = torch.zeros_like(rows, dtype=torch.bool)
        first[:, 0] = True
        late = look(subject, rows).late(first)
        assert min(late[b, h] for b, h in truth.reading_heads) > 0.9


def test_checking_leaves_the_weights_alone():
    subject, truth = build("query-bias")
    before = {name: p.clone() for name, p in subject.model.named_parameters()}
    check_truth(subject, truth)
    assert all(torch.equal(p, before[name]) for name, p in subject.model.named_parameters())


def test_codes_are_unlike_each_other():
    codes = token_codes(LARGEST, torch.Generator().manual_seed(3))
    cosine = codes @ codes.T / LENGTH - 2 * torch.eye(LARGEST)
    assert cosine.max() == 0.25
    assert (codes.sum(1) == 0).all()
    with pytest.raises(ValueError, match="codes"):
        token_codes(LARGEST + 1, torch.Generator())


def test_drawing_is_repeatable_and_overrides_shift_nothing_else():
    assert draw_spec("p0-deeper", 3) == draw_spec("p0-deeper", 3)
    drawn = draw_spec("p0-deeper", 3, family="llama", noise=0.0)
    again = draw_spec("p0-deeper", 3, family="llama", noise=0.1)
    assert dataclasses.replace(drawn, noise=0.1) == again
    assert len({draw_spec("p0-deeper", seed).blocks for seed in range(40)}) == 4


@pytest.mark.parametrize(
    ("mechanism", "changes", "message"),
    [
        ("p0", {}, "not one of"),
        ("p0-two-block", {"colour": 1}, "no field"),
        ("learned-sink", {"family": "llama"}, "gpt_oss only"),
        ("p0-two-block", {"family": "llama", "vocab": 100}, "vocab"),
        ("p0-two-block", {"family": "gpt2", "heads": 3}, "gpt2 needs"),
        ("p0-two-block", {"blocks": (9,), "depth": 4}, "depth"),
        ("p0-two-block", {"blocks": (0,)}, "block 0 recognises"),
        ("p0-split", {"blocks": (1,)}, "number of amplifying"),
        ("p0-two-block", {"noise": 2.0}, "noise"),
    ],
)
def test_what_cannot_be_built_is_refused(mechanism, changes, message):
    with pytest.raises(InputError, match=message):
        draw_spec(mechanism, 0, **changes)


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "note.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match="not empty"):
        build_model(draw_spec("uniform", 0), tmp_path)
    assert (tmp_path / "note.txt").read_text(encoding="utf-8") == "mine"
    with pytest.raises(InputError, match="truth file"):
        load_truth(tmp_path)


def test_every_version_of_torch_draws_the_same_specification():
    spec = draw_spec("p0-two-block", 7)
    assert (spec.family, spec.width, spec.depth, spec.heads, spec.key_heads) == (
        "llama",
        96,
        4,
        6,
        6,
    )
    assert (spec.vocab, spec.readers, spec.writers, spec.spike) == (258, 2, 4, 60.0)
