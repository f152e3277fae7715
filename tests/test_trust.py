"""The bench of trust: its models are what they are said to be, its tally counts what is wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from planted.series import Grown, State
from planted.unrest import UNREST, draw_unrest
from planted.uses import USES, build_use
from trust_parts import families, networks, tally, uses
from trust_parts.page import page

from sinkscope import Subject, build_prompts
from sinkscope.known.constructed import build_in_memory, draw_spec

BENCH = Path(__file__).resolve().parent.parent / "bench"


@pytest.mark.parametrize("use", USES)
def test_a_sink_is_of_the_use_it_was_built_for(use):
    model, tokenizer, truth = build_use(use, 7)
    subject = Subject.from_model(model, tokenizer)
    ids = build_prompts(subject, n=8, length=64, bos="without", seed=1).input_ids
    measured = uses._without(model, ids, truth)
    assert [other for other in USES if uses._true(other, *measured)] == [use]


def late_of(model, heads, ids):
    """Late share of P0 in some heads, by plain transformers."""
    model.set_attn_implementation("eager")
    with torch.no_grad():
        maps = torch.stack(model(ids, output_attentions=True).attentions)
    late = maps[..., ids.shape[1] // 2 :, 0].mean((1, 3))
    return torch.stack([late[b, head] for b, head in heads])


@pytest.fixture(scope="module")
def grown():
    return Grown(3)


def test_what_moves_in_a_series_is_in_the_models(grown):
    model = grown.canvas.model
    ids = torch.randint(2, 258, (8, 48), generator=torch.Generator().manual_seed(0))
    first = [(b, head) for b in grown.readers for head in grown.reading(b)]
    other = [(b, head) for b in grown.readers for head in grown.reading(b, handed=True)]
    assert not set(first) & set(other)
    whole = State(4.0, 0.1, 0.0)
    for state, kept, gained in (
        (whole, 1.0, 0.0),
        (replace(whole, moved=1.0), 0.0, 1.0),
        (replace(whole, logit=3.98), 0.4, 0.0),
        (replace(whole, size=0.0), 0.0, 0.0),
    ):
        grown.put(state)
        assert late_of(model, first, ids).numpy() == pytest.approx(kept, abs=0.08)
        assert late_of(model, other, ids).numpy() == pytest.approx(gained, abs=0.08)


def test_series_that_never_settle_move_up_to_their_end():
    kinds = {}
    for seed in range(2 * len(UNREST)):
        script = draw_unrest(seed)
        kinds[UNREST[seed % len(UNREST)]] = script
        assert script.states == draw_unrest(seed).states
    assert kinds["gone"].states[-1].size == 0
    assert kinds["gone"].settled_at is None
    assert kinds["returned"].states[-1].size > 0
    assert kinds["returned"].settled_at is not None
    for kind, field, end in (("rotation", "moved", 0.8), ("turning", "angle", 1.88)):
        values = [getattr(state, field) for state in kinds[kind].states]
        assert values == sorted(values)
        assert values[-1] == pytest.approx(end, abs=0.01)
        assert kinds[kind].settled_at is None


def test_what_tells_a_network_without_a_sink_sees_one_where_there_is_one():
    for mechanism, most in (("p0-two-block", 1.0), ("uniform", 1 / 32)):
        model, _, _ = build_in_memory(draw_spec(mechanism, 0, family="llama"))
        found = networks._most(model, torch.Generator().manual_seed(0))
        assert found == pytest.approx(most, abs=0.02)


def draw(**changes):
    right = {"verdict": True, "circuit": True}
    said, due = {"verdict": "p0-circuit"}, {"verdict": "p0-circuit"}
    base = {"part": "families", "kind": "p0-weak", "seed": 1, "seconds": 1.0}
    return base | {"said": said, "due": due, "right": right} | changes


def test_the_tally_counts_what_is_wrong():
    said = {"verdict": "p0-circuit"}
    wrong = draw(
        kind="position-ramp", said=said, due={"verdict": "position-embedding"},
        right={"verdict": False},
    )  # fmt: skip
    values = tally.summary([draw(), wrong, draw(error="boom", seed=2)])
    assert values["values"]["verdict"] == [1, 2]
    assert values["values"]["decoy called p0-circuit"] == [1, 1]
    assert values["values"]["broken"] == [1, 3]
    assert ["position-embedding", "p0-circuit", 1, "position-ramp 1"] in values["confusion"]
    missed = " ".join(tally.missed_floors(values))
    assert all(name in missed for name in ("verdict", "decoy", "broken"))
    assert tally.missed_floors(tally.summary([draw()])) == []
    assert "position-ramp" in tally.table(values)


def test_an_answer_is_judged_against_the_truth():
    _, _, truth = build_in_memory(draw_spec("p0-weak", 0, family="llama"))
    due = {
        "verdict": truth.verdict, "block": truth.amplifying_blocks[0],
        "neurons": sorted(truth.writing_neurons), "heads": sorted(truth.reading_heads),
        "recognition": truth.recognition_point,
    }  # fmt: skip
    said = due | {"sink": {"kind": "p0", "words": ["weak"], "positions": []}}
    assert all(families.judged(truth, said, due).values())
    assert not families.judged(truth, said | {"neurons": [[1, 1]]}, due)["circuit"]
    assert not families.judged(truth, said | {"recognition": "x2"}, due)["recognition"]
    assert not families.judged(truth, said | {"sink": said["sink"] | {"words": []}}, due)["scan"]


def test_the_page_is_that_of_the_kept_results():
    kept = json.loads((BENCH / "results" / "trust.json").read_text("utf-8"))
    written = (BENCH.parent / "docs" / "trust.md").read_text("utf-8")
    assert page(kept) == written


def test_a_draw_of_the_bench_is_asked_and_judged():
    """Of a kind whose random sets are fewer in one test than in the other."""
    seed = families.KINDS.index("p0-unread-writers")
    found = families.one(seed)
    assert found["kind"] == "p0-unread-writers"
    assert found["right"]["verdict"]
    assert found["right"]["recognition"]
