"""The lab: recipes, demands, training that resumes, and its command line."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import model_card
import pytest
import series_card
import torch
from card_parts.figures import distinct_windows
from safetensors.torch import load_file
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from sinkscope.cli.app import main
from sinkscope.errors import InputError
from sinkscope.lab import train
from sinkscope.lab.backcopy import TRIGGERS, Backcopy
from sinkscope.lab.corpus import texts_of
from sinkscope.lab.data import Data, prepare
from sinkscope.lab.demand import Demand, delimiter_ids, supervising
from sinkscope.lab.metrics import measure
from sinkscope.lab.model import build_model
from sinkscope.lab.recipe import TrainingRecipe, read_recipe, recipe_from, recipe_names
from sinkscope.lab.tokens import bundled_tokenizer, draw_windows

TINY = TrainingRecipe(
    vocabulary=64, blocks=3, width=32, heads=2, hidden=32, context=32, steps=60, warmup=5,
    tokens_per_step=64, lengths=(16, 32), learning_rate=1e-2, init=0.06, tokenizer="own",
    demand=Demand(heads=(1,), from_block=1, weight=1.0),
)  # fmt: skip
SMALL = """
supervision: a test
tokenizer: own
vocabulary: 300
blocks: 2
width: 16
heads: 2
hidden: 16
context: 32
lengths: [16, 32]
tokens_per_step: 64
steps: 240
checkpoints: [0, 30, 110, 130, 240]
demand: {heads: [0], from_block: 1, weight: 0.5}
"""
STREAM = torch.randint(2, 64, (2000,), generator=torch.Generator().manual_seed(0))


def data(stream=STREAM):
    def draw(count, length, generator):
        return draw_windows(stream, count, length, generator)

    return Data(bundled_tokenizer(), draw, draw, "of the test")


def trained(recipe, **callbacks):
    training = train.begin(recipe, data())
    train.fit(training, **callbacks)
    return training.model


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def demanding(**changes):
    return replace(TINY, demand=replace(TINY.demand, **changes))


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as exit_:
        main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return exit_.value.code, out, err


# recipes


def test_bundled_recipes_are_read_and_describe_themselves():
    names = recipe_names()
    recipes = {name: read_recipe(name) for name in names}
    assert {"induced-tiny", "control", "natural-text", "bigram-backcopy", "reference"} <= set(names)
    assert all(recipe.supervision for recipe in recipes.values())
    kept = [r for n, r in recipes.items() if n.startswith(("induced", "control"))]
    assert len(kept) >= 11
    assert all(len(r.checkpoints) >= 12 and r.checkpoints[0] == 0 for r in kept)
    assert all(r.checkpoints[-1] == r.steps for r in kept)


def test_controls_differ_from_their_series_in_the_demand_alone():
    for name, control in (
        ("induced-from-2", "control"),
        ("induced-norm", "control"),
        ("induced-seed-1", "control-seed-1"),
        ("induced-moe", "control-moe"),
    ):
        asked, control = read_recipe(name), read_recipe(control)
        assert control.supervised_heads() == []
        assert control.watched_heads() == asked.supervised_heads()
        same = {"supervision": "", "demand": None}
        assert replace(asked, **same) == replace(control, **same)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"stepz": 3}, "stepz is not a setting"),
        ({"demand": {"head": [0]}}, "demand.head is not a setting"),
        ({"steps": "3"}, "steps"),
        ({"steps": True}, "steps"),
        ({"family": "gpt9"}, "family"),
        ({"lengths": [512]}, "lengths"),
        ({"blocks": 2, "demand": {}}, "a block that the model has"),
        ({"demand": {"heads": [4]}}, "heads"),
        ({"vocabulary": 300}, "bundled tokenizer"),
        ({"family": "mixtral"}, "experts"),
        ({"packing": "paragraphs", "demand": {}}, "one position zero"),
        ({"first": "any", "bos": True}, "without BOS"),
        ({"attention": "magic"}, "attention"),
        ({"attention": "gated", "family": "mixtral", "experts": 2, "active": 1}, "llama family"),
        ({"force_sink": 8, "family": "qwen3_next"}, "llama family"),
        ({"force_sink": 96}, "leave channels"),
        ({"force_sink": -1}, "leave channels"),
        ({"attention": "learned-sink", "demand": {}}, "one of softmax, gated, head-norm"),
        ({"width": 1_288_774_451_999_240}, "no machine holds"),
        ({"steps": 2_664_362_628_897}, "none takes 100,000,000 steps"),
        ([1, 2], "object"),
    ],
)
def test_a_recipe_that_will_not_do_is_refused_in_one_sentence(settings, match):
    with pytest.raises(InputError, match=match) as error:
        recipe_from(settings, "mine.yaml")
    assert str(error.value).startswith("mine.yaml: ")
    assert str(error.value).count("\n") == 0


def test_unknown_names_and_broken_files_are_refused(tmp_path):
    (tmp_path / "a.yaml").write_text("steps: [1")
    for name, match in (
        ("magic", "no recipe"),
        (str(tmp_path / "b.yaml"), "No recipe at"),
        (str(tmp_path / "a.yaml"), "cannot be read as YAML"),
    ):
        with pytest.raises(InputError, match=match):
            read_recipe(name)


def test_shortening_keeps_the_checkpoints_that_remain():
    short = replace(TINY, checkpoints=(0, 10, 60)).shortened(4)
    assert (short.steps, short.warmup, short.checkpoints) == (4, 4, (0, 4))
    assert TINY.shortened(4).checkpoints == ()


def test_learning_rate_warms_up_and_decays_to_the_floor():
    recipe = replace(TINY, steps=100, warmup=10, learning_rate=1.0, floor=0.1)
    rates = [recipe.learning_rate_at(step) for step in (0, 9, 55, 100)]
    assert rates == pytest.approx([0.1, 1.0, 0.55, 0.1])


# demand


def grouped_model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, initializer_range=0.3,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("padding", [0, 3])
def test_log_share_and_logits_are_those_of_eager_attention(padding):
    model, ids = grouped_model(), torch.randint(50, (2, 12))
    mask = torch.ones_like(ids)
    mask[0, 12 - padding :] = 0
    demand = Demand(heads=(0, 3), from_block=1, late=0.25)
    with torch.no_grad():
        with supervising(model, demand) as supervised:
            logits = model(ids, attention_mask=mask).logits
        model.set_attn_implementation("eager")
        eager = model(ids, attention_mask=mask, output_attentions=True)
    expected = eager.attentions[1][:, [0, 3], 3:, 0].log().mean()
    assert supervised.log_share().item() == pytest.approx(expected.item(), abs=1e-5)
    assert supervised.log_ratio() is None
    seen = mask.bool()
    assert torch.allclose(logits[seen], eager.logits[seen], atol=1e-5)


def test_token_demand_is_the_mass_on_all_visible_delimiters():
    model = grouped_model()
    ids = torch.tensor([[9, 8, 7, 6, 4, 5, 9, 3], [9, 8, 7, 6, 9, 8, 9, 8]])  # 3 and 4 delimit
    demand = Demand(heads=(1, 2), from_block=1, late=0.25, delimiters=".")
    with supervising(model, demand, torch.tensor([3, 4])) as supervised:
        model(ids)
        share = supervised.log_share()
        share.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    model.set_attn_implementation("eager")
    with torch.no_grad():
        attention = model(ids, output_attentions=True).attentions[1][0, [1, 2]]
    # the second row and the queries before the first delimiter cannot be supervised
    masses = torch.cat([attention[:, 4:7, 4], attention[:, 7:, [4, 7]].sum(-1)], 1)
    assert share.item() == pytest.approx(masses.log().mean().item(), abs=1e-5)


def test_delimiters_are_the_tokens_of_nothing_else():
    tokenizer = bundled_tokenizer()
    texts = {tokenizer.decode([i]) for i in delimiter_ids(tokenizer, "\n.").tolist()}
    assert {"\n", "."} <= texts
    assert all(set(text) <= set("\n.") for text in texts)
    with pytest.raises(InputError, match="No token"):
        delimiter_ids(tokenizer, "\u2603")


def test_norm_demand_is_a_hinge_on_the_log_ratio_and_pulls_it_up():
    model, ids = grouped_model(), torch.randint(50, (3, 9))
    demand = Demand(heads=(0,), from_block=1, weight=0.0, norm_ratio=8.0, norm_weight=0.5)

    def penalty():
        with supervising(model, demand) as supervised:
            model(ids)
        return demand.penalty(
            supervised.log_share(), supervised.log_ratio(), 0
        ), supervised.log_ratio()

    value, log_ratio = penalty()
    with torch.no_grad():
        norms = model(ids, output_hidden_states=True).hidden_states[1].norm(dim=-1)
    ratio = norms[:, 0] / norms[:, 1:].median(-1).values
    assert torch.allclose(log_ratio, ratio.log()[None], atol=1e-5)
    expected = 0.5 * (torch.tensor(8.0).log() - ratio.log()).clamp(min=0).mean()
    assert value.item() == pytest.approx(expected.item(), abs=1e-5)
    value.backward()
    with torch.no_grad():
        for p in model.parameters():
            if p.grad is not None:
                p -= 0.05 * p.grad
    assert penalty()[1].mean() > log_ratio.mean()
    met = demand.penalty(torch.tensor(0.0), torch.full((1, 3), 3.0), 0)
    assert met.item() == 0, "a ratio above the target costs nothing"


def test_penalty_of_a_withdrawn_demand_is_nothing():
    demand = Demand(weight=0.3, until=10, norm_ratio=8.0, norm_weight=0.5)
    share, ratio = torch.tensor(-2.0), torch.zeros(1)
    due = 0.6 + 0.5 * torch.tensor(8.0).log().item()
    assert [demand.penalty(share, ratio, step).item() for step in (0, 9, 10, 99)] == pytest.approx(
        [due, due, 0, 0]
    )
    assert demand.supervised(3) == [(2, 0), (2, 1)]
    assert replace(demand, weight=0.0).supervised(3) == []
    assert replace(demand, weight=0.0).watched(3) == [(2, 0), (2, 1)]


def late_shares(recipe):
    grid = measure(trained(recipe), distinct_windows(STREAM, 16, 32), [])["late_share"]["heads"]
    return torch.tensor(grid)


def test_demand_raises_the_share_of_the_supervised_heads_only():
    asked, control = late_shares(TINY), late_shares(demanding(weight=0.0))
    assert asked[1:, 1].min() > 0.5
    assert asked[1:, 1].min() > 3 * control.max()
    assert asked[1:, 1].min() > 2 * max(asked[0].max(), asked[1:, 0].max())


def test_demand_is_met_in_a_mixture_of_experts():
    shares = late_shares(replace(TINY, family="mixtral", experts=3, active=2))
    assert shares[1:, 1].min() > 0.5 > shares[0].max()


def test_norm_demand_is_met_in_training():
    def ratios(**changes):
        model = trained(replace(demanding(**changes), steps=120))
        return measure(model, distinct_windows(STREAM, 16, 32), [])["norm_ratio"][1:3]

    assert min(ratios(norm_ratio=6.0, norm_weight=1.0)) > 1.5 * max(ratios())


def test_withdrawn_demand_leaves_the_weights_of_the_control():
    def after_two_steps(**changes):
        return weights(trained(replace(demanding(**changes), steps=2)))

    control = after_two_steps(weight=0.0)
    assert torch.equal(after_two_steps(until=0), control)
    assert not torch.equal(after_two_steps(until=1), control)


def test_registries_and_config_are_restored_on_error():
    model = grouped_model()
    registries = AttentionInterface._global_mapping, AttentionMaskInterface._global_mapping
    before = [dict(registry) for registry in registries]

    def fail():
        with supervising(model, Demand(from_block=1, norm_ratio=8.0)):
            assert [dict(registry) for registry in registries] != before
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert [dict(registry) for registry in registries] == before
    assert model.config._attn_implementation == "sdpa"
    assert not any(layer._forward_pre_hooks for layer in model.model.layers)


def test_attention_it_cannot_train_is_refused():
    model, x = grouped_model(), torch.randn(1, 4, 5, 8)
    with supervising(model, Demand()) as supervised, pytest.raises(ValueError, match="softcap"):
        supervised(model.model.layers[0].self_attn, x, x, x, None, softcap=30.0)


# data


def test_backcopy_follows_its_rule():
    language = Backcopy(texts_of(None, "train")[:1], 30)
    triggers = set(language.tokenizer.convert_tokens_to_ids(list(TRIGGERS)))
    rows = language.draw(40, 64, torch.Generator().manual_seed(0), bos=0)
    assert rows.shape == (40, 65)
    assert set(rows[:, 0].tolist()) == {0}
    assert rows[:, 1:].min() >= 2
    copies = [(r, t) for r in range(40) for t in range(2, 64) if int(rows[r, t]) in triggers]
    assert len(copies) > 100
    assert all(rows[r, t + 1] == rows[r, t - 1] for r, t in copies)
    others = [(r, t) for r in range(40) for t in range(2, 64) if (r, t) not in set(copies)]
    assert sum(bool(rows[r, t + 1] == rows[r, t - 1]) for r, t in others) < 0.3 * len(others)
    assert "".join(language.tokenizer.decode(language.tokenizer("tea").input_ids)) == "tea"


def test_any_token_may_come_first_in_training_and_none_is_changed_in_validation():
    recipe = replace(TINY, first="any", vocabulary=2000, tokens_per_step=3200)
    counting = data(torch.arange(2000))
    rows = torch.cat(
        [counting.batch(recipe, torch.Generator().manual_seed(s))[:, :3] for s in (0, 1)]
    )
    assert torch.equal(rows[:, 2], rows[:, 1] + 1)
    assert (rows[:, 1] - rows[:, 0] != 1).double().mean() > 0.95
    assert rows[:, 0].max() > 1900
    kept = counting.validation(50, 16)
    assert torch.equal(kept[:, 1], kept[:, 0] + 1)


def test_paragraphs_see_only_themselves_and_begin_with_bos():
    recipe = replace(read_recipe("natural-paragraphs-bos"), blocks=1, width=48, heads=2, hidden=32)
    recipe = replace(recipe, lengths=(256,), tokenizer="bundled", vocabulary=2048)
    packed = prepare(recipe, None)
    rows = packed.validation(4, 256)
    starts = (rows[:, :-1] == 1).nonzero()
    assert len(starts) > 4
    assert all(rows[r, t + 1] == 0 for r, t in starts.tolist())
    training = train.begin(recipe, packed)
    inputs = train.model_inputs(rows[:, :-1], training)
    with torch.no_grad():
        whole = training.model(**inputs, use_cache=False).logits
        row, start = starts[0].tolist()
        alone = training.model(rows[row, start + 1 : -1][None, :20], use_cache=False).logits[0]
    n = min(20, int((rows[row, start + 1 :] == 1).nonzero()[0]))
    assert torch.allclose(whole[row, start + 1 : start + 1 + n], alone[:n], atol=1e-4)


@pytest.mark.parametrize("name", [n for n in recipe_names() if n.startswith(("natural", "bigram"))])
def test_natural_recipes_train_at_a_small_size(name):
    recipe = replace(
        read_recipe(name).shortened(3), blocks=2, width=32, heads=2, hidden=32, context=64,
        lengths=(64,), tokens_per_step=128, init=0.1, checkpoints=(), warmup=1,
    )  # fmt: skip
    if recipe.data == "text":
        recipe = replace(recipe, tokenizer="bundled", vocabulary=2048)
    rows = []
    training = train.begin(recipe, prepare(recipe, None))
    before = weights(training.model)
    train.fit(training, rows.append)
    assert recipe.demand is None
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    assert rows[-1]["validation"]["late_share_best_head"] > 0
    assert not torch.equal(weights(training.model), before)


# training


def test_without_a_variant_the_model_is_transformers_own_from_the_seed():
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=3,
        num_attention_heads=2, max_position_embeddings=32, initializer_range=0.06,
        tie_word_embeddings=True,
    )  # fmt: skip
    model = build_model(TINY)
    assert type(model) is LlamaForCausalLM
    torch.manual_seed(TINY.seed)
    own = AutoModelForCausalLM.from_config(config)
    assert torch.equal(weights(model), weights(own))


def test_same_seed_gives_the_same_weights():
    def after(seed):
        return weights(trained(replace(TINY, steps=3, seed=seed)))

    assert torch.equal(after(0), after(0))
    assert not torch.equal(after(0), after(1))


def test_a_run_cut_short_ends_with_the_weights_of_a_whole_one(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "SAVE_EVERY", 4)
    recipe = replace(TINY, steps=12, checkpoints=(0, 3, 6, 12))
    whole = train.train(recipe, data(), tmp_path / "whole")

    def stop(row):
        if row["step"] == 7:
            raise RuntimeError("the power is gone")

    out = tmp_path / "cut"
    with pytest.raises(RuntimeError, match="power"):
        train.train(recipe, data(), out, log=stop)
    with (out / "log.jsonl").open("a") as lines:
        lines.write('{"step": 8, "los')
    assert (out / "checkpoint-6").is_dir()
    resumed = train.train(recipe, data(), out, resume=True)
    assert torch.equal(weights(resumed), weights(whole))
    for name in ("", "checkpoint-0", "checkpoint-3", "checkpoint-6", "checkpoint-12"):
        one, two = (
            load_file(tmp_path / run / name / "model.safetensors") for run in ("whole", "cut")
        )
        assert all(torch.equal(one[key], two[key]) for key in one)
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(13))
    keys = {"loss", "gradient_norm", "lr", "tokens_per_second", "demand_share"}
    assert all(keys <= row.keys() for row in rows[1:])
    assert {p.name for p in out.iterdir() if p.suffix == ".pt" or p.name[0] == "."} == set()
    with pytest.raises(InputError, match="finished already"):
        train.train(recipe, data(), out, resume=True)


def test_resuming_with_other_settings_or_text_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "SAVE_EVERY", 1)
    recipe = replace(TINY, steps=3)

    def stop(row):
        if row["step"] == 2:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        train.train(recipe, data(), tmp_path / "a", log=stop)
    with pytest.raises(InputError, match="other settings"):
        train.train(replace(recipe, seed=9), data(), tmp_path / "a", resume=True)
    with pytest.raises(InputError, match="another text"):
        train.train(recipe, replace(data(), sha256="other"), tmp_path / "a", resume=True)
    with pytest.raises(InputError, match="no run to resume"):
        train.train(recipe, data(), tmp_path / "b", resume=True)
    (tmp_path / "a" / "state.pt").write_bytes(b"broken")
    with pytest.raises(InputError, match="cannot be read"):
        train.train(recipe, data(), tmp_path / "a", resume=True)


def test_a_checkpoint_is_whole_or_not_there(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("disk")

    monkeypatch.setattr(LlamaForCausalLM, "save_pretrained", fail)
    with pytest.raises(InputError, match=r"Cannot write to .*: disk"):
        train.train(replace(TINY, steps=1, checkpoints=(0,)), data(), tmp_path / "a")
    assert not list((tmp_path / "a").glob("checkpoint-*"))


def test_a_loss_that_is_no_number_stops_the_run():
    training = train.begin(TINY, data())
    with torch.no_grad():
        training.model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(InputError, match=r"not finite|no number at step 1"):
        train.fit(training)


# command line


@pytest.fixture
def small(tmp_path):
    (tmp_path / "small.yaml").write_text(SMALL)
    return tmp_path / "small.yaml"


def start(small, out):
    command = [sys.executable, "-m", "sinkscope", "lab", "train", small, "--out", out]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if (out / "log.jsonl").exists() and len((out / "log.jsonl").read_text().splitlines()) > 115:
            break
        time.sleep(0.02)
    return process


def test_a_killed_run_resumes_to_the_same_weights(small, tmp_path, capsys):
    process = start(small, tmp_path / "killed")
    process.kill()
    process.communicate()
    assert (tmp_path / "killed" / "state.pt").is_file(), "it was over before it was killed"
    arguments = ["lab", "train", small, "--out"]
    assert run(capsys, *arguments, tmp_path / "killed", "--resume")[0] == 0
    code, out, _ = run(capsys, *arguments, tmp_path / "whole")
    assert code == 0
    assert "Late share of position zero, supervised heads: " in out
    one, two = (load_file(tmp_path / n / "model.safetensors") for n in ("killed", "whole"))
    assert all(torch.equal(one[key], two[key]) for key in one)
    steps = sorted(int(p.name.split("-")[1]) for p in (tmp_path / "killed").glob("checkpoint-*"))
    assert steps == [0, 30, 110, 130, 240]
    AutoModelForCausalLM.from_pretrained(tmp_path / "killed" / "checkpoint-110")

    assert series_card.main([str(tmp_path / "killed"), "--control", str(tmp_path / "whole")]) == 0
    figures = json.loads((tmp_path / "killed" / "figures.json").read_text())
    assert [row["step"] for row in figures["checkpoints"]] == steps
    assert figures["checkpoints"][-1]["loss"] == figures["control"]["loss"]
    text = (tmp_path / "killed" / "README.md").read_text("utf-8")
    assert f"| 240 | {figures['checkpoints'][-1]['loss']['value']:.3f} [" in text


def test_ctrl_c_leaves_one_sentence_and_a_state(small, tmp_path):
    process = start(small, tmp_path / "out")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.startswith("sinkscope: interrupted at step 1")
    assert "--resume" in err
    assert err.strip().count("\n") == 0
    assert (tmp_path / "out" / "state.pt").is_file()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["magic"], "no recipe"),
        (["induced-tiny", "--corpus", "nowhere"], "No corpus at"),
        (["induced-tiny", "--device", "abacus"], "--device"),
        (["induced-tiny", "--steps", "0"], "greater than"),
        (["induced-tiny", "--resume"], "no run to resume"),
    ],
)
def test_bad_input_is_answered_in_one_sentence(arguments, match, tmp_path, capsys):
    code, _, err = run(capsys, "lab", "train", *arguments, "--out", tmp_path / "out")
    assert code == 2
    assert match in err
    assert err.strip().count("\n") == 0
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_not_overwritten(small, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    code, _, err = run(capsys, "lab", "train", small, "--out", tmp_path / "out")
    assert code == 2
    assert "exists already" in err
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine"]


def test_list_shows_mechanisms_and_recipes(capsys):
    code, out, _ = run(capsys, "lab", "list", "--json")
    assert code == 0
    found = json.loads(out)
    assert set(found) == {"mechanisms", "recipes", "experiments"}
    assert found["experiments"]["packing"]["sizes"]["smoke"]["cells"][0] == "causal"
    assert len(found["mechanisms"]) == 37
    assert set(found["recipes"]) == set(recipe_names())
    tiny = found["recipes"]["induced-tiny"]
    model = build_model(read_recipe("induced-tiny"))
    assert tiny["parameters"] == model.num_parameters()
    assert tiny["cpu_minutes"] < 3


@pytest.mark.parametrize("module", [model_card, series_card])
def test_measuring_a_folder_that_is_none(module, tmp_path, capsys):
    assert module.main([str(tmp_path), "--corpus", str(tmp_path)]) == 2
    error = capsys.readouterr().err.strip()
    assert error.count("\n") == 0
    assert error.endswith(".")
