"""Experiments: configs, runs that are resumed, figures with and without BOS, study pages."""

import errno
import json
import shutil
from dataclasses import replace
from typing import get_args

import pytest
import torch
import yaml
from torch import nn

from sinkscope import files
from sinkscope.cli.app import main
from sinkscope.errors import InputError, OutOfResources
from sinkscope.known.constructed import build_in_memory, draw_spec
from sinkscope.lab import train as train_module
from sinkscope.lab.backcopy import LONGEST, SHORTEST, Backcopy
from sinkscope.lab.corpus import texts_of
from sinkscope.lab.data import prepare
from sinkscope.lab.model import build_model
from sinkscope.lab.recipe import TrainingRecipe
from sinkscope.lab.studies import matched, results, runs
from sinkscope.lab.studies.evaluate import (
    evaluation,
    quick_evaluation,
    rows_as_prompts,
    text_rows,
)
from sinkscope.lab.studies.needs import needs, processes_for
from sinkscope.lab.studies.plan import (
    SIZES,
    Figure,
    experiment_names,
    make_plan,
    read_experiment,
)
from sinkscope.lab.studies.reads import as_read
from sinkscope.lab.studies.runs import run_plan
from sinkscope.lab.studies.summary import FIGURES, signed, sink_from, summary
from sinkscope.lab.tokens import bundled_tokenizer
from sinkscope.lab.train import begin, model_inputs
from sinkscope.report.studies.study import write_study
from sinkscope.report.studies.tables import SIGNED, cells_table
from sinkscope.stats import t_interval
from sinkscope.subject.load import Subject

BASE = {
    "data": "bigram-backcopy", "vocabulary": 40, "blocks": 1, "width": 16, "heads": 2, "hidden": 16,
    "context": 16, "lengths": [16], "tokens_per_step": 64, "steps": 8, "warmup": 2,
}  # fmt: skip
TINY = {
    "question": "does it run?",
    "source": "nobody",
    "differs": "all of it",
    "evaluate": ["with", "without"],
    "control": "plain",
    "cells": {"plain": {}, "first": {"bos": True}},
    "sizes": {
        "smoke": {"seeds": 2, "windows": 6, "length": 8, "every": 3, "base": BASE},
        "small": {"seeds": 1, "windows": 6, "length": 8, "every": 3, "base": BASE},
    },
    "published": [{"cell": "first", "bos": "with", "sink_rate": 12.5, "loss": 2.5, "mark": "[S]"}],
    "signs": [
        {"cell": "first", "than": "plain", "figure": "loss", "expected": "lower",
         "says": "2.7 to 2.5", "mark": "[S]"},
        {"cell": "first", "than": "first", "than_bos": "without", "figure": "read_norm",
         "expected": "higher", "says": "more", "mark": "[INF]"},
    ],
}  # fmt: skip


@pytest.fixture
def tiny(tmp_path):
    return write(tmp_path, TINY)


def write(folder, content):
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return str(file)


def command(capsys, *arguments):
    with pytest.raises(SystemExit) as exit_:
        main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return exit_.value.code, out, err


def without_time(path):
    lines = results.read_lines(path)
    for line in lines:
        line.get("training", {}).pop("minutes", None)
    return lines


# configs


def changed(path, value):
    content = json.loads(json.dumps(TINY))
    *parents, last = path
    place = content
    for key in parents:
        place = place[key]
    place[last] = value
    return content


@pytest.mark.parametrize(
    ("path", "value", "match"),
    [
        (["questions"], "?", "questions is not a setting"),
        (["sizes", "smoke", "seed"], 1, "seed is not a setting"),
        (["sizes", "smoke", "seeds"], "2", "seeds"),
        (["sizes", "smoke", "seeds"], 0, "positive"),
        (["sizes", "smoke", "length"], 32, "beyond its context"),
        (["sizes", "huge"], TINY["sizes"]["smoke"], "huge"),
        (["cells", "plain", "depth"], 3, "cell plain: depth is not a setting"),
        (["cells", "plain", "heads"], 3, "cell plain: width must be"),
        (["cells"], {}, "no cells"),
        (["evaluate"], ["sometimes"], "evaluate"),
        (["control"], "nobody", "'nobody' is no cell"),
        (["published", 0, "cell"], "nobody", "'nobody' is no cell"),
        (["signs", 0, "than"], "nobody", "'nobody' is no cell"),
        (["signs", 0, "figure"], "luck", "figure"),
        (["evaluate"], ["without"], "a BOS policy that is not measured"),
    ],
)
def test_a_config_that_will_not_do_is_refused_in_one_sentence(tmp_path, path, value, match):
    with pytest.raises(InputError, match=match) as error:
        read_experiment(write(tmp_path, changed(path, value)))
    assert "\n" not in str(error.value)


def test_bundled_experiments_expand_at_every_size():
    names = {"packing", "context-length", "depth", "head-size", "remedies"}
    assert names <= set(experiment_names())
    assert all(set(read_experiment(name).sizes) == set(SIZES) for name in names)
    for name in experiment_names():
        for size in read_experiment(name).sizes:
            plan = make_plan(name, size)
            recipes = list(plan.cells.values())
            assert len({repr(recipe) for recipe in recipes}) == len(recipes) >= 4
            assert len(plan.runs) == len(recipes) * plan.seeds
            assert len({run.folder for run in plan.runs}) == len(plan.runs)
            assert len({r.steps * r.tokens_per_step for r in recipes}) == 1, "equal tokens"
            assert len({r.tokens_per_step for r in recipes}) == 1, "equal tokens a step"
            if name in ("depth", "head-size"):
                counts = [need.parameters for need in needs(plan, 1)]
                assert max(counts) < 1.01 * min(counts), "equal parameters"


def test_remedies_change_one_thing_each():
    base, *others = make_plan("remedies", "smoke").cells.values()
    assert len(others) == 8
    for other in others:
        assert sum(a != b for a, b in zip(vars(base).values(), vars(other).values())) == 1


def test_seeds_run_one_after_the_other_over_all_cells(tiny):
    plan = make_plan(tiny, "smoke", seeds=3)
    assert [run.folder for run in plan.runs[:3]] == ["plain-seed-0", "first-seed-0", "plain-seed-1"]
    assert [run.recipe.seed for run in plan.runs] == [0, 0, 1, 1, 2, 2]


# packing

SHAPE = TrainingRecipe(
    blocks=2, width=32, heads=2, hidden=32, context=256, lengths=(256,), init=0.2
)


COPIES = replace(SHAPE, data="bigram-backcopy", vocabulary=66)
PACKED = [
    replace(shape, packing=packing)
    for shape in (SHAPE, COPIES)
    for packing in ("paragraphs", "paragraphs-causal")
]


def call(training, ids):
    return training.model(**model_inputs(ids, training), use_cache=False).logits


@pytest.mark.parametrize("recipe", PACKED, ids=lambda r: f"{r.data}-{r.packing}")
def test_a_later_paragraph_sees_an_earlier_one_only_without_the_mask(recipe):
    data = prepare(recipe, None)
    training = begin(recipe, data)
    row = data.validation(1, 256)[:, :-1]
    start = int((row[0] == data.tokenizer.eos_token_id).nonzero()[0]) + 1
    assert 2 < start < 250
    other = row.clone()
    other[0, : start - 1] = (other[0, : start - 1] + 7) % (recipe.vocabulary - 2) + 2
    with torch.no_grad():
        one, two = (call(training, r) for r in (row, other))
    same = torch.allclose(one[0, start:], two[0, start:], atol=1e-5)
    assert same == (recipe.packing == "paragraphs")
    assert not torch.allclose(one[0, : start - 1], two[0, : start - 1], atol=1e-5)


@pytest.mark.parametrize("recipe", PACKED, ids=lambda r: f"{r.data}-{r.packing}")
def test_a_fixed_bos_stands_first_and_once_where_all_is_seen(recipe):
    recipe = replace(recipe, bos=True)
    data = prepare(recipe, None)
    rows = data.validation(8, 256)
    bos, eos = data.tokenizer.bos_token_id, data.tokenizer.eos_token_id
    assert (rows[:, 0] == bos).all()
    behind = [(r, t + 1) for r, t in (rows[:, :-1] == eos).nonzero().tolist()]
    assert len(behind) > 8
    if recipe.packing == "paragraphs":
        assert all(rows[place] == bos for place in behind)
    else:
        assert (rows == bos).sum() == len(rows)
    plain = prepare(replace(recipe, bos=False), None)
    assert not (plain.validation(8, 256) == bos).any()


@pytest.mark.parametrize("bos", [False, True])
def test_packed_documents_of_the_language_are_whole_and_of_every_length(bos):
    language = Backcopy(texts_of(None, "train")[:1], 30)
    stream = language.packed(2000, torch.Generator().manual_seed(0), bos).long()
    eos = language.tokenizer.eos_token_id
    ends = (stream == eos).nonzero()[:, 0]
    assert len(ends) == 2000
    assert int(ends[-1]) == len(stream) - 1
    lengths = torch.diff(ends, prepend=torch.tensor([-1])) - 1 - int(bos)
    assert set(lengths.tolist()) == set(range(SHORTEST, LONGEST + 1))
    firsts = stream[torch.cat([torch.tensor([0]), ends[:-1] + 1])]
    assert (firsts == language.tokenizer.bos_token_id).all() == bos
    text = stream - language.first
    triggers = torch.isin(text, language.triggers)
    inside = triggers[2:-1] & (text[1:-2] >= 0) & (text[3:] >= 0)
    assert (text[3:] == text[1:-2])[inside].all()  # behind a trigger what stood before it


# figures


def small_subject():
    recipe = replace(SHAPE, data="bigram-backcopy", vocabulary=40, blocks=1)
    data = prepare(recipe, None)
    return recipe, Subject.from_model(build_model(recipe), data.tokenizer)


@pytest.mark.parametrize("bos", ["with", "without"])
def test_loss_counts_the_same_text_with_bos_and_without(bos):
    recipe, subject = small_subject()
    rows = text_rows(recipe, None, subject.tokenizer, 5, 12)
    assert rows.shape == (5, 12)
    losses = []
    for row in rows:
        ids = row[None]
        if bos == "with":
            ids = torch.cat([torch.tensor([[subject.tokenizer.bos_token_id]]), ids], 1)
        with torch.no_grad():
            chances = subject.model(ids).logits[0].log_softmax(-1)
        for place in range(1, 12):  # every text token but the first, predicted by those before it
            at = place if bos == "with" else place - 1
            losses.append(-chances[at, row[place]].item())
    found = quick_evaluation(subject, rows, bos)["loss"]
    assert found == pytest.approx(sum(losses) / len(losses), abs=1e-5)


@pytest.mark.parametrize("bos", ["with", "without"])
def test_a_point_of_the_curve_agrees_with_the_scan(bos):
    recipe, subject = small_subject()
    with torch.no_grad():
        for parameter in subject.model.parameters():
            parameter *= 6  # sharp attention, so that some heads pass a threshold
    rows = text_rows(recipe, None, subject.tokenizer, 40, 12)
    quick, whole = (measure(subject, rows, bos) for measure in (quick_evaluation, evaluation))
    assert 0 < quick["sink_rate_0.3"] < 1
    for name, value in quick.items():
        assert value == pytest.approx(whole[name], abs=1e-5), name


def test_a_bos_sink_is_found_with_bos_and_not_without():
    model, tokenizer, truth = build_in_memory(draw_spec("bos-token", 0))
    subject = Subject.from_model(model, tokenizer)
    rows = torch.randint(3, 60, (16, 48), generator=torch.Generator().manual_seed(0))
    figures = {bos: evaluation(subject, rows, bos) for bos in ("with", "without")}
    assert truth.verdict == "bos-token"
    assert figures["with"]["sink"]
    assert not figures["without"]["sink"]
    assert figures["with"]["best_head_class"] == "no_op"
    assert figures["without"]["best_head_class"] == "not_a_sink"
    assert figures["with"]["sink_rate_0.8"] > 0.1 > figures["without"]["sink_rate_0.3"]
    assert figures["with"]["best_head"] > 0.8 > 4 * figures["without"]["best_head"]


@pytest.mark.parametrize("force_sink", [0, 4])
@pytest.mark.parametrize("bos", ["with", "without"])
def test_position_zero_as_blocks_read_it_against_a_forward_pass_by_hand(force_sink, bos):
    recipe = replace(COPIES, force_sink=force_sink)
    subject = Subject.from_model(
        build_model(recipe), prepare(recipe, None).tokenizer, name="variant"
    )
    rows = text_rows(recipe, None, subject.tokenizer, 6, 16)
    ids = rows_as_prompts(subject, rows, bos).input_ids
    model, places = subject.model.model, torch.arange(16)[None]
    own = torch.arange(recipe.width) < force_sink
    x, read = model.embed_tokens(ids), []

    def seen(x):
        kept = x.clone()
        if force_sink:
            kept[:, 0, ~own], kept[:, 1:, own] = 0, 0
        read.append(kept)
        return kept

    with torch.no_grad():
        for block in model.layers:
            x = x + block.self_attn(
                block.input_layernorm(seen(x)), position_embeddings=model.rotary_emb(x, places),
                attention_mask=None,
            )[0]  # fmt: skip
            x = x + block.mlp(block.post_attention_layernorm(seen(x)))
    found = as_read(subject, rows_as_prompts(subject, rows, bos))
    norms, outliers, dominance = [], [], []
    for kept in read:
        first = kept[:, 0].abs().amax(1)
        norms.append((kept[:, 0].norm(dim=1) / kept[:, 1:].norm(dim=2).median(1).values).mean())
        outliers.append((first / kept.abs().flatten(1).median(1).values).mean())
        dominance.append((first / kept[:, 0].abs().mean(1)).mean())
    for name, values in zip(
        ("read_norm", "read_outlier", "dominance"), (norms, outliers, dominance), strict=True
    ):
        assert found[name] == pytest.approx(float(max(values)), rel=1e-4)
    assert not any(m._forward_pre_hooks for m in subject.model.modules())


def test_held_out_rows_lie_inside_one_document():
    recipe = replace(SHAPE, packing="paragraphs")
    rows = text_rows(recipe, None, bundled_tokenizer(), 64, 64)
    assert len(rows) > 8
    assert not (rows < 2).any(), "neither BOS nor EOS"
    assert torch.equal(rows, text_rows(recipe, None, bundled_tokenizer(), 64, 64))
    with pytest.raises(InputError, match="No held-out document has 5000 tokens"):
        text_rows(recipe, None, bundled_tokenizer(), 64, 5000)


# running


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A tiny experiment that ran without interruption."""
    folder = tmp_path_factory.mktemp("whole")
    run_plan(make_plan(write(folder, TINY), "smoke"), folder / "out")
    return folder / "out"


def test_results_have_a_line_a_run_and_policy_with_their_provenance(whole):
    held = results.read_results(whole)
    keys = [results.key_of(line) for line in held.lines]
    assert len(keys) == len(set(keys)) == 2 * 2 * 2
    assert len(held.curves) == 4
    for line in held.lines:
        assert {"loss", "sink_rate_0.3", "sink_rate_0.8", "late_share"} <= line["figures"].keys()
        assert {"norm_ratio", "massive"} <= line["figures"].keys()
        assert line["provenance"]["recipe"]["seed"] == line["seed"]
        assert len(line["provenance"]["text_sha256"]) == 64
        assert line["training"]["tokens"] == 8 * 64
    assert [curve["step"] for curve in held.curves] == [[0, 3, 6, 8]] * 4
    assert [curve["bos"] for curve in held.curves] == ["without", "with"] * 2
    for curve in held.curves:
        line = next(line for line in held.lines if results.key_of(line) == results.key_of(curve))
        # the model is saved in bfloat16, the curve is of the weights as trained
        assert line["figures"]["loss"] == pytest.approx(curve["loss"][-1], abs=0.02)


def test_the_curve_leaves_the_model_in_training_mode(tiny, tmp_path, monkeypatch):
    modes = []
    clip = nn.utils.clip_grad_norm_

    def spy(parameters, most):
        parameters = list(parameters)
        modes.append(model[0].training)
        return clip(parameters, most)

    model = []
    begin_run = train_module.begin

    def keep(*arguments):
        training = begin_run(*arguments)
        model[:] = [training.model]
        return training

    monkeypatch.setattr(train_module, "begin", keep)
    monkeypatch.setattr(nn.utils, "clip_grad_norm_", spy)
    run_plan(make_plan(tiny, "small", steps=5), tmp_path / "out")
    assert modes == [True] * 10


def test_nothing_is_done_twice(whole, tiny, tmp_path, monkeypatch):
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    before = (out / results.RESULTS).read_bytes()
    monkeypatch.setattr(runs, "train", None)
    course = run_plan(make_plan(tiny, "smoke"), out)
    assert (len(course.done), course.left) == (4, [])
    assert (out / results.RESULTS).read_bytes() == before


def check_first_seed(out, whole):
    for name in (results.RESULTS, results.CURVES):
        expected = [line for line in without_time(whole / name) if line["seed"] == 0]
        assert without_time(out / name) == expected


@pytest.mark.parametrize("step", [0, 1, 4, 7, 8])
def test_a_run_killed_at_any_step_ends_as_a_whole_one(whole, tiny, tmp_path, monkeypatch, step):
    monkeypatch.setattr(train_module, "SAVE_EVERY", 3)

    def kill(label, done, total):
        if label == "first-seed-0" and done == step:
            raise RuntimeError("the power is gone")

    plan, out = make_plan(tiny, "smoke", seeds=1), tmp_path / "out"
    with pytest.raises(RuntimeError, match="power"):
        run_plan(plan, out, progress=kill)
    run_plan(plan, out)
    check_first_seed(out, whole)


@pytest.mark.parametrize(
    "place", ["evaluation", "load_model", "put_lines", "save_final", "save_state"]
)
def test_a_run_killed_while_it_saves_or_measures_ends_as_a_whole_one(
    whole, tiny, tmp_path, monkeypatch, place
):
    plan, out = make_plan(tiny, "smoke", seeds=1), tmp_path / "out"
    module = train_module if place.startswith("save") else runs

    def kill(*_):
        raise RuntimeError("the power is gone")

    with monkeypatch.context() as patch:
        patch.setattr(module, place, kill)
        with pytest.raises(RuntimeError, match="power"):
            run_plan(plan, out)
    run_plan(plan, out)
    check_first_seed(out, whole)


def test_lines_are_replaced_and_the_file_is_whole(tmp_path, monkeypatch):
    file = tmp_path / "lines.jsonl"
    one = {"cell": "a", "seed": 0, "bos": "with", "x": 1}
    results.put_lines(file, [one, {**one, "bos": "without"}])
    results.put_lines(file, [{**one, "x": 2}])
    assert [line["x"] for line in results.read_lines(file)] == [1, 2]
    before = file.read_bytes()
    full = OSError(errno.ENOSPC, "full")
    monkeypatch.setattr(files.os, "replace", lambda *_: (_ for _ in ()).throw(full))
    with pytest.raises(OutOfResources, match="disk is full"):
        results.put_lines(file, [{**one, "x": 3}])
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_more_seeds_are_added_to_a_finished_experiment(whole, tiny, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    run_plan(make_plan(tiny, "smoke", seeds=3), out)
    rows = summary(results.read_results(out))["rows"]
    assert [row["seeds"] for row in rows] == [[0, 1, 2]] * 4


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"steps": 5}, "its settings differ"),
        ({"size": "small"}, "its size and settings differ"),
    ],
)
def test_a_folder_of_other_settings_is_refused(whole, tiny, change, match):
    with pytest.raises(InputError, match=match):
        run_plan(make_plan(tiny, **{"size": "smoke", **change}), whole)


# sink-matched control


def test_the_last_crossing_is_read_off_between_two_points():
    x, y = [0.0, 0.4, 0.2, 0.6], [5.0, 4.0, 3.0, 2.0]
    assert matched.last_crossing(x, y, 0.3) == pytest.approx(2.75)
    assert matched.last_crossing(x, y, 0.1) == pytest.approx(4.75)
    assert matched.last_crossing(x, y, 0.6) == 2.0
    assert matched.last_crossing(x, y, 0.7) is None
    assert matched.last_crossing(x, y, -0.1) is None


def planted(cell, seed, rates, losses):
    return {"cell": cell, "seed": seed, "sink_rate_0.3": rates, "loss": losses}


def test_methods_are_compared_where_the_planted_curves_meet():
    curves = []
    for seed, shift in enumerate((0.0, 0.1, 0.2)):
        curves += [
            planted("base", seed, [0.0, 0.5], [5.0, 3.0 + shift]),
            # at the base's sink rate of 0.5 this one's loss is 4 - 0.2·(…): 0.4 lower than the base
            planted("better", seed, [0.0, 0.25, 0.75], [5.0, 3.1 + shift, 2.1 + shift]),
            planted("never", seed, [0.0, 0.1], [5.0, 4.0 + shift]),
        ]
    better, never = matched.matched(curves, "base")
    assert (better.cell, better.seeds, better.loss_met, better.sink_rate_met) == ("better", 3, 3, 3)
    assert better.loss.value == pytest.approx(-0.4)
    assert better.loss.low == pytest.approx(-0.4)
    assert better.sink_rate.value == pytest.approx(0.3 - 0.5)
    assert (never.loss_met, never.sink_rate_met) == (0, 0)
    assert never.loss.value is None


def test_a_run_has_its_sink_from_where_the_curve_stays_above_one_half():
    curve = {"step": [0, 10, 20, 30, 40, 50, 60]}
    rates = [0.0, 0.9, 0.2, 0.6, 0.5001, 0.7, 0.1]
    assert sink_from({**curve, "sink_rate_0.3": rates}) == 30
    assert sink_from({**curve, "sink_rate_0.3": [0.5] * 7}) is None
    assert sink_from({**curve, "sink_rate_0.3": [0.0] * 5 + [0.9] * 2}) is None
    one = {"settings": {}, "parameters": 9, "steps": 60, "tokens": 9}
    cells = [
        {**one, "cell": "some", "sink_from": [300, None, 100, 20]},
        {**one, "cell": "none", "sink_from": [None, None]},
    ]
    some, none = cells_table({"cells": cells}).rows
    assert some[-1] == "100 (20 to 300), in 3 of 4"
    assert none[-1] == "in 0 of 2"


@pytest.mark.parametrize(
    ("values", "expected", "found"),
    [
        ([(0.9, 0.2), (0.8, 0.1), (0.9, 0.3)], "lower", "as published"),
        ([(0.9, 0.2), (0.8, 0.1), (0.9, 0.3)], "higher", "against"),
        ([(0.1, 0.2), (0.2, 0.31), (0.2, 0.32)], "higher", "as published"),
        ([(0.1, 0.2), (0.3, 0.2), (0.2, 0.3)], "higher", "open"),
        ([(0.9, 0.2)], "lower", "open"),
        ([], "lower", "not run"),
    ],
)
def test_a_published_direction_is_held_against_the_interval_over_seeds(values, expected, found):
    lines = [
        {"cell": "a", "seed": seed, "bos": bos, "figures": {"loss": value}}
        for seed, pair in enumerate(values)
        for bos, value in zip(("with", "without"), pair)
    ]
    lines += [{"cell": "a", "seed": 9, "bos": "with", "figures": {"loss": 100.0}}]  # has no pair
    sign = {
        "cell": "a", "than": "a", "bos": "without", "than_bos": "with", "figure": "loss",
        "expected": expected,
    }  # fmt: skip
    row = signed(results.Results({}, lines, []), sign)
    assert row["found"] == found
    if values:
        differences = [other - own for own, other in values]
        assert row["change"]["value"] == pytest.approx(sum(differences) / len(values))
    share = {**sign, "figure": "late_share"}
    for line in lines:
        line["figures"]["late_share"] = line["figures"]["loss"]
    change = signed(results.Results({}, lines, []), share)["change"]
    assert all(abs(change[end] or 0.0) <= 1.0 for end in ("low", "high"))  # of shares


def test_every_figure_with_a_direction_is_measured_and_has_a_name():
    assert set(get_args(Figure)) == set(SIGNED) <= set(FIGURES)


def test_t_interval_of_seeds():
    found = t_interval([1.0, 2.0, 3.0])
    assert found.value == 2.0
    assert found.high - 2.0 == pytest.approx(4.302653 / 3**0.5, rel=1e-5)
    assert t_interval([0.1, 0.9], 0.0, 1.0).model_dump() == {"value": 0.5, "low": 0.0, "high": 1.0}
    assert t_interval([4.0]).model_dump() == {"value": 4.0, "low": None, "high": None}
    assert t_interval([]).value is None


# study pages


def test_a_page_is_written_again_to_the_byte_from_raw_results_alone(whole, tmp_path):
    raw = tmp_path / "raw"
    raw.mkdir()
    for name in (results.ASKED, results.RESULTS, results.CURVES):
        shutil.copy(whole / name, raw / name)
    one = write_study([whole], tmp_path / "one").parent
    two = write_study([raw], tmp_path / "two").parent
    files = sorted(path.name for path in one.iterdir())
    assert {"tiny.md", "tiny.html", "tiny-loss-smoke.svg", "tiny-sink-smoke.svg"} <= set(files)
    assert files == sorted(path.name for path in two.iterdir())
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in files)
    assert "://" not in (one / "tiny.html").read_text("utf-8").split("<script")[0]


def test_a_page_says_what_was_measured_published_and_not_run(whole, tmp_path):
    page = write_study([whole], tmp_path).read_text("utf-8")
    loss = results.figures_by_seed(results.read_results(whole).lines, "first", "with", "loss")
    mean = sum(loss.values()) / 2
    row = next(line for line in page.splitlines() if line.startswith("| first | BOS put first | 2"))
    assert f" {mean:.3f} (" in row
    assert row.endswith("| 12.5 [S] | 2.5 [S] |")
    assert "## Small: one GPU\n\nNot run." in page
    assert "## Paper" not in page  # it has no such size
    sign = next(line for line in page.splitlines() if "lower: 2.7 to 2.5 [S]" in line)
    assert sign.startswith("| first, BOS, text | plain, BOS, text | loss, nats |")
    assert sign.rsplit("| ", 1)[1] in ("open |", "as published |", "against |")
    assert "95 % t interval" in page
    assert "2 seeds tell little" in page
    assert "At equal sink rate and at equal loss" in page


def test_one_seed_has_no_interval_and_cells_that_were_not_run_say_so(tiny, tmp_path):
    plan, out = make_plan(tiny, "smoke", seeds=1), tmp_path / "out"

    def only_first(label, done, total):
        if label == "first-seed-0":
            raise RuntimeError

    with pytest.raises(RuntimeError):
        run_plan(plan, out, progress=only_first)
    page = write_study([out], tmp_path).read_text("utf-8")
    assert "One seed: no interval." in page
    assert "1 trained models of 2" in page
    assert "| first | BOS put first | 0 | not run | not run |" in page
    assert "--seeds 1" in page


def test_two_sizes_share_a_page_and_two_experiments_do_not(whole, tiny, tmp_path):
    run_plan(make_plan(tiny, "small", steps=1), tmp_path / "small")
    page = write_study([tmp_path / "small", whole], tmp_path / "page").read_text("utf-8")
    assert page.index("Smoke: minutes on a CPU") < page.index("tiny-loss-small.svg")
    assert page.count("Not run.") == 0
    with pytest.raises(InputError, match="same size"):
        write_study([whole, whole], tmp_path)
    asked = json.loads((tmp_path / "small" / results.ASKED).read_text())
    (tmp_path / "small" / results.ASKED).write_text(json.dumps({**asked, "experiment": "other"}))
    with pytest.raises(InputError, match="two experiments"):
        write_study([whole, tmp_path / "small"], tmp_path)


# command line


def test_packing_runs_by_its_command(tmp_path, capsys):
    asked = ["lab", "run", "packing", "--steps", 2, "--seeds", 1, "--out", tmp_path / "out"]
    code, out, err = command(capsys, *asked, "--json")
    assert code == 0, err
    made = json.loads(out)
    assert [len(row["seeds"]) for row in made["rows"]] == [1] * 8
    code, out, _ = command(capsys, "lab", "study", tmp_path / "out", "--out", tmp_path / "page")
    assert code == 0
    page = (tmp_path / "page" / "packing.md").read_text("utf-8")
    assert page == (tmp_path / "out" / "packing.md").read_text("utf-8")
    assert "not run" not in page.split("## Small")[0]


@pytest.mark.parametrize("name", ["context-length", "depth", "head-size", "remedies"])
def test_the_other_bundled_experiments_run(name, tmp_path):
    plan = make_plan(name, "smoke", seeds=1, steps=1)
    few = replace(plan.settings, windows=4)
    one = replace(plan.experiment, sizes={"smoke": few})
    course = run_plan(replace(plan, experiment=one), tmp_path)
    assert course.left == []
    made = summary(results.read_results(tmp_path))
    assert [len(row["seeds"]) for row in made["rows"]] == [1] * 2 * len(plan.cells)
    assert len(made["matched"]["rows"] if made["matched"] else []) == 8 * (name == "remedies")
    assert all(row["found"] == "open" for row in made["signs"])
    assert len(made["signs"]) >= 1


def test_the_time_is_over_and_the_same_command_goes_on(tiny, whole, tmp_path, capsys):
    asked = ["lab", "run", tiny, "--out", tmp_path / "out"]
    code, out, _ = command(capsys, *asked, "--minutes", 0)
    assert code == 0
    assert "0 of 4 runs are done; the time is over." in out
    assert "go on with plain-seed-0" in " ".join(out.split())
    assert command(capsys, *asked)[0] == 0
    assert without_time(tmp_path / "out" / results.RESULTS) == without_time(whole / results.RESULTS)


def test_a_run_stops_between_two_steps_with_its_state_saved(tiny, whole, tmp_path, monkeypatch):
    plan, out = make_plan(tiny, "smoke"), tmp_path / "out"
    before, after = [], []
    monkeypatch.setattr(runs, "_over", lambda deadline: len(before) >= 5)
    course = run_plan(plan, out, progress=lambda label, done, _: before.append((label, done)))
    assert (course.done, len(course.left)) == ([], 4)
    assert (out / "runs" / "plain-seed-0" / "state.pt").is_file()
    monkeypatch.undo()
    run_plan(plan, out, progress=lambda label, done, _: after.append((label, done)))
    assert before == [("plain-seed-0", step) for step in range(6)]
    assert after[:3] == [("plain-seed-0", step) for step in (6, 7, 8)]
    assert without_time(out / results.RESULTS) == without_time(whole / results.RESULTS)


def test_a_dry_run_of_the_published_size_names_parameters_and_command(tmp_path, capsys):
    asked = ["lab", "run", "packing", "--size", "paper", "--corpus", "texts", "--dry-run"]
    code, out, err = command(capsys, *asked, "--out", tmp_path / "out", "--json")
    assert code == 0, err
    found = json.loads(out)
    width, hidden, blocks, vocabulary = 768, 2048, 12, 32000
    block = 4 * width**2 + 3 * width * hidden + 2 * width
    expected = vocabulary * width + blocks * block + width
    assert {cell["parameters"] for cell in found["cells"]} == {expected}
    assert found["cells"][0]["tokens"] == 57220 * 524288
    assert found["processes"] == 8
    assert "torchrun --nnodes 1 --nproc-per-node 8" in found["command"]
    told = "-m sinkscope lab run packing --size paper --corpus texts --device cuda --out"
    assert found["command"].endswith(f"{told} {tmp_path}/out")
    assert not (tmp_path / "out").exists()
    assert f"{expected:,}" in command(capsys, *asked, "--out", tmp_path / "out")[1]


def test_memory_decides_how_many_processes_there_are():
    plan = make_plan("remedies", "paper")
    plan = replace(plan, cells={cell: plan.cells[cell] for cell in ("base", "sigmoid")})
    count = processes_for(plan)
    fits, half = (max(need.gib for need in needs(plan, n)) for n in (count, count // 2))
    assert fits <= 75 < half
    long = replace(plan.cells["sigmoid"], lengths=(524288,), context=524288)
    with pytest.raises(InputError, match="does not fit"):
        processes_for(replace(plan, cells={"long": long}))


def test_the_published_size_writes_a_launch_script(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    out = tmp_path / "out"
    corpus = tmp_path / "texts"
    write_corpus(corpus)
    asked = ["lab", "run", "depth", "--size", "paper", "--corpus", corpus, "--out", out]
    code, said, err = command(capsys, *asked)
    assert code == 0, err
    assert "Nothing was trained." in said
    script = (out / "launch.sh").read_text()
    assert f"-m sinkscope lab run depth --size paper --corpus {corpus} --device cuda" in script
    assert not (out / "runs").exists()
    assert command(capsys, *asked)[0] == 0


def write_corpus(folder):
    import lzma

    folder.mkdir()
    for split in ("train", "validation"):
        with lzma.open(folder / f"{split}.jsonl.xz", "wt") as lines:
            lines.write(json.dumps({"text": "one two"}) + "\n")


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["lab", "run", "magic", "--out", "{}/a"], "'magic' is no experiment; choose from context"),
        (["lab", "run", "mine.yaml", "--out", "{}/a"], "No experiment at mine.yaml"),
        (["lab", "run", "packing", "--size", "huge", "--out", "{}/a"], "no size 'huge'"),
        (["lab", "run", "packing", "--corpus", "nowhere", "--out", "{}/a"], "No corpus at"),
        (["lab", "run", "packing", "--device", "tpu", "--out", "{}/a"], "'tpu' is not there"),
        (["lab", "run", "packing", "--size", "small", "--out", "{}/a"], "excerpt is too short"),
        (["lab", "run", "packing", "--out", "{}/file"], "is a file; a folder is wanted"),
        (["lab", "run", "packing", "--out", "{}/file/under"], "Cannot write to"),
        (["lab", "run", "packing", "--out", "{}"], "is not empty and holds no experiment"),
        (["lab", "study", "{}"], "holds no experiment"),
    ],
)
def test_bad_input_is_one_sentence(arguments, match, tmp_path, capsys):
    (tmp_path / "file").touch()
    code, _, err = command(capsys, *(a.format(tmp_path) for a in arguments))
    assert code == 2
    assert match in err
    assert err.strip().count("\n") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_machine_without_cuda_is_told(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, _, err = command(
        capsys, "lab", "run", "packing", "--device", "cuda", "--out", tmp_path / "a"
    )
    assert code == 2
    assert "'cuda' is not there" in err


def test_ctrl_c_says_how_to_go_on(tiny, tmp_path, capsys, monkeypatch):
    def press(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(nn.utils, "clip_grad_norm_", press)
    code, _, err = command(capsys, "lab", "run", tiny, "--out", tmp_path / "out")
    assert code == 130
    assert "give the same command again to go on" in err
