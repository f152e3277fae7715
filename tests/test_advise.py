"""The answers of `advise`, where they are known, and against plain re-implementations."""

from __future__ import annotations

import dataclasses
import io
import json
import re

import numpy as np
import pytest
import torch
import xarray
from rich.console import Console

import sinkscope
from sinkscope.advice import gates
from sinkscope.advice.advise import QUESTIONS, advise_on, questions
from sinkscope.advice.bench import Bench, in_nats, told
from sinkscope.advice.bos import _lines
from sinkscope.advice.cache_layers import left_alone
from sinkscope.advice.lines import lines, table
from sinkscope.advice.maps import (
    MAPS,
    OTHER_MAPS,
    PURPOSES,
    TENSOR,
    TOKEN,
    lines_that_ignore,
    maps_left_alone,
)
from sinkscope.advice.outliers import outliers
from sinkscope.advice.prefix import PREFIX
from sinkscope.advice.quantise_words import answer_of, sentence_of
from sinkscope.advice.repeats import onset_of, onsets, patch_word
from sinkscope.advice.schemes import CACHES, CHANNEL, CONTROL, INT4, INT8, P0, Found
from sinkscope.advice.streaming import KEPT, _worst, lines_that_keep, smallest
from sinkscope.advice.weights import NAMES, OTHERS, WRITERS
from sinkscope.errors import InputError
from sinkscope.frame import silent
from sinkscope.intervene.edits.rounding import linear_maps
from sinkscope.known.constructed import build_in_memory, draw_spec
from sinkscope.mixing.conditions import INTACT
from sinkscope.mixing.dose import Cost
from sinkscope.report.advise.card import model_card
from sinkscope.report.advise.page import SHORT, findings, in_short, told_lines_table, with_bounds
from sinkscope.report.brief import print_brief
from sinkscope.report.first import page_sections
from sinkscope.report.text import typeset
from sinkscope.result import load_result
from sinkscope.schema import Measured
from sinkscope.settings import AdviseSettings, field_docs
from sinkscope.stats import judged
from sinkscope.subject.documents import read_documents
from sinkscope.subject.load import Subject
from tests.plain_reference import served, streamed

N, LENGTH = 6, 64


def constructed(mechanism: str, **overrides) -> Subject:
    spec = draw_spec(mechanism, 3, **{"family": "llama", "noise": 0.02, **overrides})
    model, tokenizer, _ = build_in_memory(spec)
    return Subject.from_model(model, tokenizer, mechanism)


def advised(subject: Subject, asked: str, **changes) -> sinkscope.Result:
    return sinkscope.advise(subject, n=N, length=LENGTH, questions=asked, **changes)


@pytest.fixture(scope="module")
def circuit() -> Subject:
    return constructed("p0-two-block")


@pytest.fixture(scope="module")
def whole(circuit):
    return sinkscope.advise(circuit, n=N, length=LENGTH)


def test_every_question_is_answered_saved_and_shown(whole, tmp_path):
    assert list(whole.summary.advise) == list(QUESTIONS)
    assert all(one.answer and one.sentence.endswith(".") for one in whole.summary.advise.values())
    again = load_result(whole.save(tmp_path / "advice"))
    assert again.to_json() == whole.to_json()
    page = (tmp_path / "advice" / "report.html").read_text(encoding="utf-8")
    assert all(one.question in page for one in whole.summary.advise.values())
    assert "What to do about it" in whole.table()
    card = model_card(whole)
    assert card.count("| ") > len(QUESTIONS)
    assert "<s>" not in re.sub(r"^    .*$", "", card, flags=re.MULTILINE)


def test_the_first_screen_of_the_page_tells_what_to_do_on_every_question(whole):
    shown = page_sections(whole)[0].parts[0].panels[""]
    to_do = [said for question, said in findings(whole, "").answers if question == "To do"]
    assert [shown.headline, *shown.sentences] == [*map(typeset, to_do)]
    assert len(to_do) > 4


def test_the_terminal_tells_every_answer_with_its_interval(whole):
    stream = io.StringIO()
    print_brief(whole, Console(file=stream, width=80, color_system=None))
    lines = stream.getvalue().splitlines()
    said = " ".join(stream.getvalue().split())
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert "…" not in said
    for name, (about, _, unit) in SHORT.items():
        one = whole.summary.advise[name]
        assert f"{about}: {one.answer}" in said
        if one.value is not None and one.value.low is not None:
            assert with_bounds(one.value, unit) in said
    assert "changes nothing" not in said


def test_a_run_includes_the_advice(circuit, tmp_path):
    found = sinkscope.run(
        circuit, n=6, length=48, rows=2, draws=1, untrained=False, vocabulary=False, advise=True
    )
    assert list(found.summary.advise) == list(QUESTIONS)
    assert found.summary.verify
    folder = found.save(tmp_path / "run")
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert all(one.question in page for one in found.summary.advise.values())
    none = sinkscope.run(
        circuit, n=6, length=48, rows=2, untrained=False, vocabulary=False, advise=True, budget=0.0
    )
    assert not none.summary.advise
    assert any("No advice was given" in note for note in none.summary.scan["without"].notes)


def test_bos_is_held_against_plain_losses(circuit, whole):
    one = whole.summary.advise["bos"]
    rows = sinkscope.build_prompts(circuit, n=N, length=LENGTH, bos="with", by_turns=True).input_ids
    with torch.no_grad():

        def loss(ids: torch.Tensor, first: int) -> torch.Tensor:
            logits = circuit.model(ids).logits.log_softmax(-1)
            found = -logits[:, :-1].gather(2, ids[:, 1:, None]).squeeze(2)
            return found[:, first:].mean(1)

        plain = loss(rows[:, 1:], 1) - loss(rows, 2)
    assert one.value is not None
    assert one.value.value == pytest.approx(float(plain.mean()), abs=1e-4)


def test_a_model_without_bos_has_none_to_forget():
    subject = constructed("p0-two-block")
    subject.tokenizer, subject.model.config.bos_token_id = None, None
    found = advised(subject, "bos", kind="random")
    assert found.summary.advise["bos"].answer == "does not apply"


def test_the_cost_of_a_short_cache_is_that_of_a_server(circuit, whole):
    one = whole.summary.advise["streaming"]
    ids = sinkscope.build_prompts(circuit, n=N, length=LENGTH, by_turns=True).input_ids
    window = LENGTH // 4

    def loss(logits: torch.Tensor) -> float:
        late = logits[:, window:-1].flatten(0, 1), ids[:, window + 1 :].flatten()
        return float(torch.nn.functional.cross_entropy(*late))

    with torch.no_grad():
        whole_cache = loss(circuit.model(ids).logits)
        for keep in KEPT:
            what = f"a cache of {window} that keeps {keep} first tokens"
            [row] = [row for row in one.rows if row["what"] == what]
            change = loss(served(circuit.model, ids, window, keep)) - whole_cache
            assert row["ce_change"].value == pytest.approx(change, abs=1e-4)


def test_a_sink_on_a_delimiter_is_kept_beside_the_first_tokens():
    """The rows against a server that keeps the delimiter's first occurrence, token by token."""
    subject = constructed("delimiter", carry=1.0)
    one = advised(subject, "streaming").summary.advise["streaming"]
    prompts = sinkscope.build_prompts(subject, n=N, length=LENGTH, by_turns=True)
    window, token = LENGTH // 4, 48
    assert subject.tokenizer.decode([token]) == "."
    [row] = [row for row in one.rows if "first '.' kept" in row["what"]]
    keep = int(re.findall(r"first (\d+) tokens", row["what"])[0])
    changes = []
    with torch.no_grad():
        for ids in prompts.input_ids:
            at = [i for i, each in enumerate(ids[:-1].tolist()) if each == token and i >= keep][:1]
            short = streamed(subject, ids, window, keep, tuple(at))
            whole = subject.model(ids.unsqueeze(0)).logits[0]
            losses = [
                torch.nn.functional.cross_entropy(x[window:-1], ids[window + 1 :])
                for x in (short, whole)
            ]
            changes.append(float(losses[0] - losses[1]))
    assert row["ce_change"].value == pytest.approx(np.mean(changes), abs=1e-4)
    assert "Heads also sink on '.'" in one.sentence


def test_what_a_prefix_costs_by_plain_rounding(circuit):
    """A token put first, its own inputs exact, all others in int8 with one scale a map."""
    found = advised(circuit, "quantisation", within=0.0).summary.advise["quantisation"]
    rows = {row["what"]: row["ce_change"].value for row in found.rows}
    ids = sinkscope.build_prompts(circuit, n=N, length=LENGTH, by_turns=True).input_ids
    longer = torch.cat([torch.full((N, 1), circuit.tokenizer.bos_token_id), ids], 1)

    def loss(logits: torch.Tensor) -> torch.Tensor:
        each = -logits.log_softmax(-1)[:, :-1].gather(2, ids[:, 1:, None]).squeeze(2)
        return each[:, 1:].mean(1)

    def enter(module, args):
        x = args[0].clone()
        step = x[:, 1:].abs().amax((1, 2), keepdim=True) / 127
        x[:, 1:] = (x[:, 1:] / step).round() * step
        return (x,)

    with torch.no_grad():
        plain, alone = loss(circuit.model(ids).logits), loss(circuit.model(longer).logits[:, 1:])
        handles = [
            module.register_forward_pre_hook(enter)
            for name, module in circuit.model.named_modules()
            if isinstance(module, torch.nn.Linear) and "layers" in name
        ]
        exact = loss(circuit.model(longer).logits[:, 1:])
    for handle in handles:
        handle.remove()
    assert rows[PREFIX[2]] == pytest.approx(float((alone - plain).mean()), abs=1e-4)
    assert rows[PREFIX[0]] == pytest.approx(float((exact - plain).mean()), abs=1e-4)
    assert {name + end for name in NAMES.values() for end in (WRITERS, OTHERS)} & set(rows)
    assert found.facts["prefix"] in ("helps", "not-shown")


def test_idle_heads_are_told_by_document(circuit, whole):
    one = whole.summary.advise["heads"]
    documents = sinkscope.build_prompts(circuit, n=N, length=LENGTH, by_turns=True).documents
    rows = [row for row in one.rows if "document" in row["what"]]
    assert len(rows) == len(documents.unique())
    weights = [int((documents == i).sum()) for i in documents.unique()]
    mean = np.average([row["ce_change"].value for row in rows], weights=weights)
    assert mean == pytest.approx(one.value.value, abs=1e-9)
    several = [row["ce_change"].low is not None for row in rows]
    assert several == [count > 1 for count in weights]


def test_windows_of_few_documents_are_no_texts(circuit, tmp_path):
    """Eight windows of three documents: no answer, however many they are."""
    text = "\f".join(f"{word} and then some words more. " * 60 for word in ("one", "two", "three"))
    (tmp_path / "a.txt").write_text(text)
    found = sinkscope.advise(
        circuit, n=8, length=LENGTH, text=str(tmp_path / "a.txt"), questions="quantisation,bos"
    )
    assert set(found.summary.advise) == {"quantisation", "bos"}
    for one in found.summary.advise.values():
        assert one.answer == "undetermined"
        assert one.sentence.startswith("Windows of ")


def test_intervals_rest_on_all_documents_of_the_text_that_ships(circuit):
    """Eight windows of seven documents, drawn by `advise` or taken from the prompts of a run."""
    few = re.compile("Intervals rest on [1-6] ")
    own = sinkscope.advise(circuit, length=32, questions="fp16").summary.advise["fp16"]
    assert not few.search(own.limits)
    prompts = sinkscope.build_prompts(circuit, n=64, length=32)
    scanned = sinkscope.scan(circuit, prompts=prompts, untrained=False)
    of_run = advise_on(circuit, prompts, AdviseSettings(length=32), scanned, ["fp16"])
    assert not few.search(of_run.summary.advise["fp16"].limits)
    assert "On 8 of 64 prompts." in of_run.summary.advise["fp16"].limits


def cost(values: list[float]) -> Cost:
    ce = np.asarray(values)
    return Cost(INTACT, ce, ce, ce, ce)


@pytest.mark.parametrize(
    ("rises", "found"),
    [
        ((0.0, 0.0, 0.0, 0.0), (0, True)),
        ((0.5, 0.0, 0.0, 0.0), (1, True)),
        ((0.5, 0.4, 0.3, 0.0), (4, True)),
        ((0.5, 0.4, 0.3, 0.2), (8, True)),
        ((0.5, None, 0.0, 0.0), (2, False)),
    ],
)
def test_the_smallest_number_that_is_shown_to_do(rises, found):
    """None: an interval across the bound."""
    noise = np.array([-0.001, 0.001, 0.0, -0.001, 0.001, 0.0])
    wide = np.array([-0.2, 0.3, 0.1, -0.1, 0.2, 0.0])
    costs = {
        k: cost(list(1.0 + (wide if rise is None else rise + noise)))
        for k, rise in zip(KEPT, (*rises, 0.0), strict=True)
    }
    costs[8] = cost([1.0] * 6)
    assert smallest({16: costs, 32: costs}, 0.02) == found


def test_the_worst_window_is_that_by_which_the_number_is_refused(circuit):
    """The upper end decides: a narrow interval with a higher lower end is not the worst."""
    narrow, wide = np.array([0.06] * 6), np.array([-0.2, 0.3, 0.1, -0.1, 0.2, 0.0])
    costs = {
        window: {k: cost(list(1 + rise * (k < 8))) for k in KEPT}
        for window, rise in ((16, narrow), (32, wide))
    }
    prompts = sinkscope.build_prompts(circuit, n=N, length=LENGTH, kind="random")
    bench = Bench(circuit, prompts, None, None, None, None)
    window, change = _worst(bench, costs, 1)
    assert (window, smallest(costs, 0.08)) == (32, (8, False))
    assert change.low < change.value < 0.06 < 0.08 < change.high
    one = {w: {k: cost([each.ce[1]]) for k, each in both.items()} for w, both in costs.items()}
    assert _worst(bench, one, 1)[0] == 32
    assert bench.saved(one[32][1], one[32][8]).high is None


def test_learned_sinks_have_no_token_to_keep():
    one = advised(constructed("learned-sink", family="gpt_oss"), "streaming").summary.advise
    assert one["streaming"].answer == "no token"
    assert "attention-backend" in one["streaming"].lines[0]["line"]


def test_outliers_stand_where_they_were_written(monkeypatch):
    """A writing neuron made larger, its column as much smaller: the same model."""
    spec = draw_spec("p0-two-block", 3, family="llama", noise=0.02)
    model, tokenizer, truth = build_in_memory(spec)
    block, *_, neuron = truth.writing_neurons[0]
    mlp = model.model.layers[block].mlp
    with torch.no_grad():
        mlp.up_proj.weight[neuron] *= 1e4
        mlp.down_proj.weight[:, neuron] /= 1e4
    subject = Subject.from_model(model, tokenizer, "outlier")
    found = advised(subject, "quantisation,fp16").summary.advise
    one = found["quantisation"]
    prompts = sinkscope.build_prompts(subject, n=N, length=LENGTH, by_turns=True)
    sizes: dict[str, torch.Tensor] = {}
    given: list[float] = []

    def look(name, args, out):
        sizes[name] = args[0].abs().amax(-1)
        given.append(float(out.abs().max()))

    handles = [
        module.register_forward_hook(lambda m, args, out, name=name: look(name, args, out))
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and "layers" in name
    ]
    with torch.no_grad():
        model(prompts.input_ids)
    for handle in handles:
        handle.remove()
    assert found["fp16"].value.value == pytest.approx(max(given), rel=1e-5)  # inside a block
    plain = {name for name, x in sizes.items() if float(x.max()) > 20 * float(x.median())}
    assert {each["module"] for each in one.outliers} == plain
    first = one.outliers[0]
    assert first["module"] == f"model.layers.{block}.mlp.down_proj"
    assert (first["position"], first["channel"]) == (0, neuron)
    assert one.facts["p0-outlier"] == "yes"
    short = dataclasses.replace(prompts, lengths=torch.tensor([LENGTH, 6, 6, 6, 6, 6]))
    valid = torch.arange(LENGTH) < short.lengths.unsqueeze(1)
    monkeypatch.setattr("sinkscope.advice.outliers.RATIO", 1.0)  # all maps, to see their order
    told = outliers(Bench(subject, short, None, None, None, None))
    for each in told:  # what lies behind the end of a text does not count
        assert each["median"] == pytest.approx(float(sizes[each["module"]][valid].median()))
    ratios = [each["size"] / each["median"] for each in told]
    assert len(ratios) > 1
    assert ratios == sorted(ratios, reverse=True)


@pytest.mark.parametrize(("factor", "answer"), [(1.0, "safe"), (1000.0, "overflows")])
def test_float16_by_running_it(factor, answer):
    subject = constructed("p0-two-block", spike=60.0)
    with torch.no_grad():
        subject.model.model.layers[1].mlp.down_proj.weight.mul_(factor)
    one = advised(subject, "fp16").summary.advise["fp16"]
    assert one.answer == answer
    assert bool(one.lines) == (answer == "overflows")
    assert ("first at block 1" in one.sentence) == (answer == "overflows")


def test_the_number_beside_float16_is_the_largest_of_all_texts(circuit, monkeypatch):
    """One text of six has a large activation: the mean over texts is far below it."""
    tops = np.array([20_000.0, 10.0, 20.0, 10.0, 20.0, 10.0])
    found = (tops, "block 1", 3, 0, "a")
    monkeypatch.setattr("sinkscope.advice.half._largest", lambda bench: found)
    result = advised(circuit, "fp16")
    one = result.summary.advise["fp16"]
    assert one.answer == "near the limit"
    assert one.value == Measured(value=20_000.0)
    assert "the largest activation is 20,000 of 65,504." in in_short("fp16", one)
    assert "| the largest activation is 20,000 of 65,504 |" in model_card(result)
    assert "The largest activation of a text is 3,345 on average (" in one.limits


def test_repeats_take_over_and_the_patch_undoes_it(circuit, whole):
    """The patch by hand: what the neurons give is zero but at the first position."""
    one = whole.summary.advise["repeats"]
    assert one.facts == {"repeats": 2.0, "patch": "works"}
    assert whole.data["advise"]["repeat_norm"].to_numpy()[1:] == pytest.approx(1.0, abs=0.05)
    assert one.value.low <= one.value.value <= one.value.high
    assert "2 to 2 with other tokens" in one.sentence
    last = f"the last repeat has, on average, {one.value.value:.0%} of the norm of position zero"
    assert f"Over 8 tokens, each repeated {LENGTH} times, {last}" in one.sentence
    assert re.search(r"like P0: .*; the last: .* of P0's norm\.", in_short("repeats", one))
    [block, *_], *_ = re.findall(r"block (\d+)", one.sentence)
    names = re.findall(r"neurons ([\d, ]+) of", one.sentence)[0].split(", ")

    def enter(module, args):
        given = args[0].clone()
        given[:, 1:, list(map(int, names))] = 0.0
        return (given,)

    def loss(rows: torch.Tensor, first: int) -> float:
        logits = circuit.model(rows).logits[:, first:-1].flatten(0, 1)
        return float(torch.nn.functional.cross_entropy(logits, rows[:, first + 1 :].flatten()))

    text = sinkscope.build_prompts(circuit, n=N, length=LENGTH, by_turns=True).input_ids
    repeats = sinkscope.build_prompts(circuit, n=8, length=LENGTH, kind="repeat").input_ids
    asked = {"clean text": (text, 1), "repeats": (repeats, LENGTH // 2)}
    with torch.no_grad():
        before = {name: loss(*rows) for name, rows in asked.items()}
        down = circuit.model.model.layers[int(block)].mlp.down_proj
        handle = down.register_forward_pre_hook(enter)
        after = {name: loss(*rows) for name, rows in asked.items()}
        handle.remove()
    for name, rise in ((name, after[name] - before[name]) for name in asked):
        [row] = [row for row in one.rows if row["what"].startswith(f"{name}, neurons")]
        assert row["ce_change"].value == pytest.approx(rise, abs=1e-4)
    assert abs(after["clean text"] - before["clean text"]) < 0.005 * before["clean text"]


def test_where_nothing_stands_out_nothing_is_taken_over():
    found = advised(constructed("uniform"), "repeats,remedies,heads").summary.advise
    assert [one.answer for one in found.values()] == ["does not apply", "does not apply", "none"]


def test_onset():
    curves = np.array([[1.0, 0.1, 0.2, 0.6, 0.9], [1.0] * 5, [1.0, 0.9, 0.9, 0.9, 0.2]])
    assert onsets(curves).tolist() == [4.0, 2.0, np.inf]
    surely = onset_of(np.tile(curves[:1], (8, 1)))
    assert (surely.value, surely.low, surely.high) == (4.0, 4.0, 4.0)
    never = onset_of(np.tile(curves[2:], (8, 1)))
    assert (never.value, never.low, never.high) == (None, None, None)
    mixed = onset_of(np.concatenate([np.tile(curves[:1], (5, 1)), np.tile(curves[2:], (3, 1))]))
    assert (mixed.value, mixed.high) == (4.0, None)


def test_the_patch_works_or_fails_only_where_the_interval_says_so():
    like, unlike = [1.0, 0.1, 0.2, 0.6, 0.9], [1.0, 0.1, 0.1, 0.1, 0.2]
    rows = {count: np.array([like] * count + [unlike] * (8 - count)) for count in (0, 4, 8)}
    assert [patch_word(curve) for curve in rows.values()] == ["works", None, "fails"]


@pytest.fixture(scope="module")
def with_value_outlier() -> Subject:
    """A value channel a thousand times larger, its reader as much smaller: the same model."""
    subject = constructed("p0-two-block", carry=1.0)
    attention = subject.model.model.layers[0].self_attn
    groups = attention.num_key_value_groups
    with torch.no_grad():
        for head in range(attention.v_proj.weight.shape[0] // attention.head_dim):
            channel = head * attention.head_dim
            attention.v_proj.weight[channel] *= 1000
            for reader in range(head * groups, (head + 1) * groups):
                attention.o_proj.weight[:, reader * attention.head_dim] /= 1000
    return subject


def bench_of(subject: Subject, within: float, text: str = "builtin") -> Bench:
    settings = sinkscope.AdviseSettings(n=N, length=LENGTH, text=text, within=within)
    scanned = sinkscope.scan(subject, n=N, length=LENGTH, text=text, untrained=False)
    prompts = sinkscope.build_prompts(subject, n=N, length=LENGTH, text=text)
    data = scanned.data[f"scan/{prompts.bos}"].to_dataset()
    return Bench(subject, prompts, settings, scanned.summary.scan[prompts.bos], data, silent)


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> str:
    """A file of five documents, one of which gives two texts: six in all."""
    file = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    novels = read_documents("builtin")[0]
    parts = [novel[100 : 100 + LENGTH * (1 + (at == 0))] for at, novel in enumerate(novels[:5])]
    file.write_text("\n".join(json.dumps({"text": part}) for part in parts), "utf-8")
    return str(file)


def test_a_layer_with_an_outlier_is_left_out_of_an_int4_cache(with_value_outlier, texts):
    result = advised(with_value_outlier, "quantisation", within=0.01, text=texts)
    one = result.summary.advise["quantisation"]
    assert one.facts["skip-layers"] == "helps"
    assert "some layers' KV cache" in one.answer
    assert "With the cache of blocks 0 exact, int4 costs" in one.sentence
    [line] = [line["line"] for line in one.lines if "skip-layers" in line["line"]]
    assert line == "--kv-cache-dtype int4_per_token_head --kv-cache-dtype-skip-layers 0"
    assert "SGLang (layers left out of a cache of few bits)" in one.without


def test_layers_are_tried_on_other_documents_than_those_they_were_chosen_on(
    with_value_outlier, texts
):
    bench = bench_of(with_value_outlier, 0.01, texts)
    documents = bench.prompts.documents.tolist()
    spared = left_alone(bench, INT4, CACHES[INT4](()))
    tried = spared.bench.prompts.documents.tolist()
    fewest = min(sorted(set(documents)), key=documents.count)
    assert tried == [each for each in documents if each != fewest]
    whole = bench.cost({"all": CACHES[INT4](())})["all"].ce
    rows = [at for at, each in enumerate(documents) if each != fewest]
    assert spared.plain.ce == pytest.approx(whole[rows], abs=1e-6)
    assert all("documents" in row["what"] or "texts" in row["what"] for row in spared.rows)
    few = dataclasses.replace(bench, prompts=bench.prompts.take(slice(0, 4)))
    assert "documents" in left_alone(few, INT4, CACHES[INT4](()))


def test_maps_are_left_alone_beside_as_many_others_of_their_kind(circuit):
    bench = bench_of(circuit, 0.0)
    every = [name for name, _ in linear_maps(circuit)]
    names = tuple(name for name in every if name.endswith("down_proj"))[:2]
    edits = maps_left_alone(bench, (*PURPOSES, "another scheme"), names)
    assert len(edits) == 2 * len(PURPOSES)
    others = edits[TENSOR + OTHER_MAPS].without
    assert len(set(others)) == 2
    assert not set(others) & set(names)
    assert all(name.endswith("down_proj") for name in others)
    for end, left in ((MAPS, names), (OTHER_MAPS, others)):
        assert edits[TOKEN + end].without == left
        assert set(edits[NAMES["int4"] + end].modules) == set(every) - set(left)
    assert maps_left_alone(bench, PURPOSES, ()) == {}


def found_of(circuit: Subject, **costs: float) -> Found:
    """What was found where schemes cost so much; every text alike, but for a little noise."""
    prompts = sinkscope.build_prompts(circuit, n=N, length=LENGTH, kind="random")
    scanned = xarray.Dataset({"learned_mass": ("block", np.zeros(2))})
    settings = sinkscope.AdviseSettings()
    bench = Bench(circuit, prompts, settings, None, scanned, silent)
    noise = np.array([-0.001, 0.001, 0.0, -0.001, 0.001, 0.0])
    by_name = {name: cost(list(rise + noise)) for name, rise in costs.items()}
    free = {name: cost(list(noise)) for name in (TENSOR, CHANNEL, TOKEN, INT8, INT4)}
    one = {"module": "model.layers.1.mlp.down_proj", "position": 0}
    return Found(bench, free | by_name, [one], "")


@pytest.mark.parametrize(
    ("costs", "answer"),
    [
        ({}, "nothing"),
        ({TENSOR: 0.5, TENSOR + P0: 0.5, TENSOR + CONTROL: 0.5}, "nothing that was tried"),
        ({TENSOR: 0.5, TENSOR + P0: 0.1, TENSOR + CONTROL: 0.5}, "position zero"),
        ({TENSOR: 0.5, TENSOR + P0: 0.1, TENSOR + CONTROL: 0.1}, "undetermined"),
        ({TENSOR: 0.5, TENSOR + MAPS: 0.1, TENSOR + OTHER_MAPS: 0.5}, "one linear map"),
        ({TENSOR: 0.5, TENSOR + MAPS: 0.1, TENSOR + OTHER_MAPS: 0.1}, "undetermined"),
    ],
)
def test_what_is_kept_is_what_helps_more_than_its_control(circuit, costs, answer):
    found = found_of(circuit, **costs)
    assert answer_of(found) == answer
    said = sentence_of(found)
    assert said.startswith(
        {
            "nothing": "Nothing has to be kept",
            "nothing that was tried": "Nothing that was tried in full precision saves more",
            "undetermined": "6 texts cannot say",
        }.get(answer, f"Keep {answer} in full precision.")
    )
    assert ("0.500 becomes 0.100" in said) == (answer in ("position zero", "one linear map"))


def test_what_could_not_be_rounded_is_not_called_fine():
    """Experts lie in one tensor, not in linear maps: most of the weights stay exact."""
    subject = constructed("p0-two-block", family="mixtral")
    one = advised(subject, "quantisation").summary.advise["quantisation"]
    blocks = subject.model.model.layers
    sizes = {name: p.numel() for name, p in blocks.named_parameters() if p.dim() > 1}
    inside = sum(size for name, size in sizes.items() if "self_attn" in name)
    share = inside / sum(sizes.values())
    assert 0 < share < 0.9
    assert f"in maps with {share:.0%} of the weights of the blocks" in one.sentence
    assert one.facts["int8-weights"] is None
    assert one.facts["int8-cache"] == "fine"
    assert one.answer != "nothing"


@pytest.mark.parametrize(
    ("first", "later", "spare", "answer", "helps"),
    [
        (0.3, 0.1, 0.1, "yes", "helps"),
        (0.105, 0.1, 0.1, "no", "not-shown"),
        (3e-5, 1e-5, 1e-5, "no", "not-shown"),
        (0.02, 0.1, 0.02, "no", "not-shown"),
    ],
)
def test_first_words_weigh_more_by_a_tenth_at_least(
    circuit, monkeypatch, first, later, spare, answer, helps
):
    """A difference of a hundred-thousandth of a nat is none, however sure it is."""

    effects = iter((first, later, spare, later))
    monkeypatch.setattr(
        "sinkscope.advice.first_words._moved",
        lambda bench, prompts, *_: next(effects) * np.linspace(0.999, 1.001, len(prompts)),
    )
    one = advised(circuit, "first-words").summary.advise["first-words"]
    assert (one.answer, one.facts["spare-token"]) == (answer, helps)
    assert "-0.0000" not in one.sentence


def test_lines_leave_maps_alone_in_the_tools_that_round_so():
    """A tool that rounds weights alone is told nothing by what activations cost."""
    names = ("model.layers.1.mlp.down_proj",)
    tools = {
        scheme: {one["tool"] for one in lines_that_ignore(names, [scheme])} for scheme in PURPOSES
    }
    assert tools[TENSOR] == {"llm-compressor", "torchao", "transformers"}
    assert tools[TOKEN] == {"llm-compressor", "torchao", "bitsandbytes"}
    assert tools[NAMES["int8"]] == {"llm-compressor", "torchao", "GPTQModel"}
    assert tools[NAMES["int4"]] == tools[NAMES["int8"]] | {"llama-quantize"}
    both = lines_that_ignore(names, [TENSOR, TOKEN])
    assert len({one["line"] for one in both}) == len(both) == 4
    [one] = [one for one in both if one["tool"] == "torchao"]
    assert TENSOR in one["purpose"]
    assert TOKEN in one["purpose"]


def test_judged_says_nothing_that_an_interval_does_not_say():
    def of(low: float, high: float) -> str:
        return judged(Measured(value=(low + high) / 2, low=low, high=high), 0.02)

    assert [of(0.03, 0.1), of(-0.1, -0.03)] == ["more", "less"]
    assert [of(-0.01, 0.01), of(-0.01, 0.1)] == ["same", "unclear"]
    assert judged(Measured(value=0.0), 0.02) == "unclear"


def test_few_or_short_texts_are_never_enough_for_an_answer(circuit):
    for length in (3, LENGTH):
        found = sinkscope.advise(circuit, n=2, length=length)
        answers = {name: one.answer for name, one in found.summary.advise.items()}
        assert set(answers.values()) == {"undetermined"}, answers
    said = found.summary.advise["bos"].sentence
    assert "an answer takes 4 at least, and intervals that cover 95 % take 7" in said


def test_where_no_first_token_has_to_stay_no_line_keeps_one():
    one = advised(constructed("uniform"), "streaming").summary.advise["streaming"]
    assert (one.answer, one.facts["kv-keep"], one.lines, one.without) == ("0", 0.0, [], [])
    assert "nothing to set" in one.sentence
    assert f"keeping none changes the loss by {told(one.value)}" in one.sentence


def test_the_lines_keep_as_many_tokens_as_the_answer_says():
    subject = constructed("p0-two-block", carry=1.0)
    one = advised(subject, "streaming").summary.advise["streaming"]
    keep = int(one.facts["kv-keep"])
    assert 0 < keep < KEPT[-1]
    [line] = [line for line in one.lines if line["tool"] == "llama.cpp"]
    assert line["line"] == f"--keep {keep} --context-shift"
    said = {line["tool"]: line["purpose"] for line in one.lines}
    assert said["kvpress"] == f"first tokens kept: {keep}"
    assert said["OpenVINO GenAI"] == "first tokens kept: 32, whole blocks"


def test_a_tool_that_keeps_four_tokens_is_not_told_to_keep_five():
    tools = [{line["tool"] for line in lines_that_keep(k, 32, "llama")} for k in (4, 5)]
    assert tools[0] - tools[1] == {"MLX-LM"}


def test_lines_on_bos_follow_its_answer(circuit):
    needed, harmful = (_lines(circuit, answer) for answer in ("needed", "harmful"))
    assert {line["purpose"] for line in needed} == {"BOS first: true"}
    assert {line["purpose"] for line in harmful} == {"BOS first: false"}
    assert _lines(circuit, "harmless") == _lines(circuit, "undetermined") == []


def test_a_line_to_paste_stands_beside_what_must_be_known_of_it(whole):
    one = next(one for one in whole.summary.advise.values() if one.lines)
    shown = told_lines_table(one)
    for row, line in zip(shown.rows, one.lines):
        assert row[2] == line["line"]
        assert row[3] == f"{line['note']} Read in {line['version']}, {line['source']}."
    assert shown.columns[shown.verbatim] == "Line"


def test_the_answer_on_quantisation_tells_the_cache_that_its_lines_set(whole):
    one = whole.summary.advise["quantisation"]
    cost = {row["what"]: row["ce_change"] for row in one.rows}
    for bits in (4, 8):
        measured = cost[f"int{bits} cache, a scale a token and head"]
        assert f"an int{bits} KV cache {in_nats(measured)}, fine" in one.sentence
    bits = next(bits for bits in (4, 8) if one.facts[f"int{bits}-cache"] == "fine")
    assert {f"int{bits} KV cache"} == {
        line["purpose"] for line in one.lines if "cache" in line["purpose"]
    }
    [table] = findings(whole, "").tables
    assert table.columns[:2] == ["Tool", "For"]
    brief = in_short("quantisation", one)
    assert with_bounds(cost["int4 cache, a scale a token and head"], "nats") in brief


def test_gates():
    asked = questions(None)
    facts = {"bos": "needed", "kv-keep": 4.0, "fp16": None}
    from sinkscope.schema import Advice

    def advice(*names: str) -> Advice:
        return Advice(question="?", answer="a", sentence="b.", facts={n: facts[n] for n in names})

    held = {"bos": advice("bos"), "streaming": advice("kv-keep"), "fp16": advice("fp16")}
    for text, met in (
        ("bos=needed", True),
        ("bos=harmless", False),
        ("kv-keep<=4", True),
        ("kv-keep<=2", False),
        ("fp16=safe", False),
    ):
        [gate] = gates.parse([text], asked)
        assert (gate.failure(held) == "") == met, text
    wrong = (
        "kv-keep",
        "nothing=1",
        "bos<=needed",
        "kv-keep=<4",
        "kv-keep=needed",
        "bos=neded",
        "kv-keep<=nan",
    )
    for text in (*wrong, "fp16=1"):
        with pytest.raises(InputError):
            gates.parse([text], asked)
    with pytest.raises(InputError, match="is not asked"):
        gates.parse(["kv-keep<=4"], ["bos"])
    with pytest.raises(InputError, match="not one of"):
        questions("bos,tea")


def test_every_fact_that_a_gate_can_name_is_in_an_answer(whole):
    held = {fact for one in whole.summary.advise.values() for fact in one.facts}
    assert held <= set(gates.FACTS)
    assert set(gates.FACTS) == {*gates.WORDS, *gates.NUMBERS}
    for one in whole.summary.advise.values():
        for fact, value in one.facts.items():
            assert fact in gates.NUMBERS if isinstance(value, float) else True
            assert value in gates.WORDS[fact] if isinstance(value, str) else True
    assert set(gates.FACTS.values()) <= set(QUESTIONS)


def test_lines_use_the_names_that_the_table_gives_with_its_source():
    for purpose, entries in table().items():
        for entry in entries:
            if "none" in entry:
                continue
            assert entry["version"], purpose
            assert entry["source"], purpose
            for name in entry["settings"]:
                assert name in entry["line"] or "{tensors}" in entry["line"], (purpose, name)
    [line] = [one for one in lines("keep", keep=4, window=64) if one["tool"] == "llama.cpp"]
    assert line["line"] == "--keep 4 --context-shift"
    assert not [one for one in lines("keep", keep=4) if "{" in one["line"]]


@pytest.mark.parametrize("length", [2, 3, 5])
def test_texts_of_a_few_tokens_are_advised_on_or_said_to_be_too_short(llama, length):
    result = sinkscope.advise(llama, kind="random", n=2, length=length)
    assert set(result.summary.advise) == set(QUESTIONS)


def test_the_help_names_every_question():
    said = field_docs(AdviseSettings)["questions"]
    assert [name for name in QUESTIONS if name not in said] == []
