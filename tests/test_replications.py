"""Replications: their edits against slow ones, their signs on known models, and their words."""

from __future__ import annotations

import functools
import json
import math

import numpy as np
import pytest
import torch

from sinkscope import replications as replications
from sinkscope.cli.app import main
from sinkscope.errors import InputError, Unsupported
from sinkscope.intervene.edits import from_json
from sinkscope.intervene.engine import Engine
from sinkscope.known.constructed import build_in_memory, build_model, draw_spec
from sinkscope.observe.attention import observe
from sinkscope.observe.reads import Want
from sinkscope.observe.sites import find_sites
from sinkscope.replications import ran_milo
from sinkscope.replications.base import MODELS, Published, PublishedModel
from sinkscope.replications.bench import Bench, rate
from sinkscope.replications.edits import KeyColumns, NeuronsOff, SetEntries, WithoutSublayers
from sinkscope.replications.positions import (
    PositionRows,
    SwapAlong,
    ZeroEmbedding,
    position_table,
    position_vectors,
)
from sinkscope.replications.queipo import entropy_bits
from sinkscope.replications.run import about, replication_of
from sinkscope.report.replications.page import MOST_ROWS, findings
from sinkscope.result import load_result
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts
from sinkscope.subject.tiny import tiny_model


@functools.cache
def built(mechanism: str, family: str, **fixed):
    model, tokenizer, truth = build_in_memory(draw_spec(mechanism, 0, family=family, **fixed))
    if family == "gpt2":  # rows of zeros have no direction that could be swapped
        rows = model.transformer.wpe.weight.data
        generator = torch.Generator().manual_seed(0)
        rows[1:] += 0.02 * torch.randn(rows[1:].shape, generator=generator)
    return Subject.from_model(model, tokenizer, name=mechanism), truth


@functools.cache
def ran(name: str, mechanism: str, family: str, **fixed):
    """rows by key: quantity -> value; and the whole result."""
    subject, _ = built(mechanism, family, **fixed)
    subject.model(torch.ones(1, 4, dtype=torch.long))  # routed families install hooks of their own
    own_hooks = hook_count(subject)
    before = {key: value.clone() for key, value in subject.model.state_dict().items()}
    result = replications.run(name, subject, n=4)
    for key, value in subject.model.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert hook_count(subject) == own_hooks
    found = {}
    for row in result.summary.replication[name].rows:
        found[row["key"]] = {k: v.value for k, v in row["measured"].items()} | {
            "refused": row["refused"]
        }
    return found, result


def hook_count(subject) -> int:
    modules = subject.model.modules()
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)


def tiny(family: str):
    subject = Subject.from_model(tiny_model(family), name=family)
    ids = torch.randint(3, 100, (3, 24), generator=torch.Generator().manual_seed(1))
    prompts = Prompts(ids, torch.full((3,), 24), "ids", "without")
    return subject, prompts, find_sites(subject, prompts)


# --- the GPT-2 replication ---


def test_the_sign_pattern_of_gpt2_on_a_model_that_sinks_by_query_bias():
    rows, _ = ran("ran-milo-2026", "query-bias", "gpt2")
    rest = {key: row["% of baseline"] for key, row in rows.items()}
    assert rest["a"] == pytest.approx(100)
    assert rows["a"]["attention to P0"] > 0.3
    for key in "bcdghi":
        assert rest[key] < 15, (key, rest[key])
    for key in "efj":
        assert rest[key] == pytest.approx(100, abs=3), (key, rest[key])


def test_without_the_bias_the_pattern_is_that_of_a_position_embedding():
    rows, _ = ran("ran-milo-2026", "position-embedding", "gpt2")
    assert rows["b"]["% of baseline"] == pytest.approx(100, abs=1)
    assert rows["c"]["% of baseline"] < 15
    assert rows["h"]["% of baseline"] < 15


def test_rows_that_a_family_cannot_do_say_so_in_one_sentence():
    rows, result = ran("ran-milo-2026", "p0-two-block", "llama")
    assert rows["b"]["refused"] == "llama has no query bias, so there is none to null."
    for key in "cdehij":
        assert rows[key]["refused"] == "llama has no learned position embeddings."
    assert not rows["g"]["refused"]
    assert rows["g"]["% of baseline"] < 15
    assert "3 of 10 rows were measured on this model" in result.table().replace("\n", " ")


def test_the_band_of_blocks_is_that_of_the_paper():
    assert list(ran_milo.band(12)) == [3, 4, 5, 6, 7, 8, 9, 10]
    assert list(ran_milo.band(4)) == [0, 1, 2, 3]


# --- its edits, against slow ones ---


@pytest.mark.parametrize(("family", "offset"), [("gpt2", 0), ("opt", 2), ("gpt_neo", 0)])
def test_learned_positions_are_found(family, offset):
    subject, _, _ = tiny(family)
    table, first = position_table(subject)
    assert first == offset
    assert table is not subject.model.get_input_embeddings()


@pytest.mark.parametrize("family", ["llama", "bloom", "mixtral", "gpt_neox"])
def test_families_without_learned_positions_are_refused(family):
    subject, prompts, sites = tiny(family)
    with pytest.raises(Unsupported, match="no learned position embeddings"):
        position_table(subject)
    with pytest.raises(Unsupported):
        Engine(subject, prompts, sites).run([PositionRows("swap", 0, 3)])


def test_effective_position_embeddings_are_what_mlp_0_makes_of_them():
    subject, _, sites = tiny("gpt2")
    found = position_vectors(subject, sites, 3)
    block, rows = subject.model.transformer.h[0], subject.model.transformer.wpe.weight[:3]
    with torch.no_grad():
        expected = rows + block.mlp(block.ln_2(rows))
    torch.testing.assert_close(found.raw, rows.detach())
    torch.testing.assert_close(found.effective, expected, atol=1e-5, rtol=1e-5)
    size = expected[0].abs()
    high = size > size.mean() + 3 * size.std()
    assert found.massive == tuple(high.nonzero().flatten().tolist())


def shares_of(subject, prompts, sites):
    return Engine(subject, prompts, sites).intact.share


@pytest.mark.parametrize("family", ["gpt2", "llama", "mixtral"])
def test_key_columns_are_columns_of_the_key_weights(family):
    subject, prompts, sites = tiny(family)
    edited = Engine(subject, prompts, sites).run([KeyColumns((3, 40))])
    for block in subject.anatomy.modules(subject.model):
        if family == "gpt2":
            block.attn.c_attn.weight.data[[3, 40], 64:128] = 0.0
        else:
            block.self_attn.k_proj.weight.data[:, [3, 40]] = 0.0
    slow = shares_of(subject, prompts, sites)
    np.testing.assert_allclose(edited.share, slow, atol=1e-5)


def test_random_key_columns_differ_by_block_and_by_seed():
    edit = KeyColumns(count=3, seed=1)
    assert len(edit._chosen(0, 64)) == 3
    assert edit._chosen(0, 64) != edit._chosen(1, 64)
    assert edit._chosen(0, 64) != KeyColumns(count=3, seed=2)._chosen(0, 64)


def test_edits_of_gpt2_parts_equal_edits_of_its_weights():
    for edit, change in (
        (PositionRows("replace", 0, 1), lambda m: m.wpe.weight[0].copy_(m.wpe.weight[1])),
        (PositionRows("zero"), lambda m: m.wpe.weight.zero_()),
        (
            PositionRows("swap", 0, 3),
            lambda m: m.wpe.weight.copy_(m.wpe.weight[[3, 1, 2, 0, *range(4, 512)]]),
        ),
        (
            WithoutSublayers("mlp"),
            lambda m: [(b.mlp.c_proj.weight.zero_(), b.mlp.c_proj.bias.zero_()) for b in m.h],
        ),
        (
            NeuronsOff(1, (4, 9)),
            lambda m: (
                m.h[1].mlp.c_proj.weight[[4, 9]].zero_() is None
                or m.h[1].mlp.c_proj.weight.index_fill_(0, torch.tensor([4, 9]), 0.0)
            ),
        ),
    ):
        subject, prompts, sites = tiny("gpt2")
        engine = Engine(subject, prompts, sites)
        edited = engine.run([edit])
        assert np.abs(edited.share - engine.intact.share).max() > 1e-4, edit
        with torch.no_grad():
            change(subject.model.transformer)
        slow = shares_of(subject, prompts, sites)
        np.testing.assert_allclose(edited.share, slow, atol=1e-5, err_msg=str(edit))


def test_a_zero_token_embedding_leaves_the_position():
    subject, prompts, sites = tiny("gpt2")
    edited = Engine(subject, prompts, sites).run([ZeroEmbedding(0)])
    subject.model.transformer.wte.weight.data[120] = 0.0
    ids = prompts.input_ids.clone()
    ids[:, 0] = 120
    slow = shares_of(subject, Prompts(ids, prompts.lengths, "ids", "without"), sites)
    np.testing.assert_allclose(edited.share, slow, atol=1e-6)


def test_a_component_swap_moves_what_it_says():
    subject, prompts, sites = tiny("gpt2")
    vectors = position_vectors(subject, sites)
    seen = []
    mlp = subject.model.transformer.h[0].mlp
    engine = Engine(subject, prompts, sites)
    handle = mlp.register_forward_hook(lambda m, a, out: seen.append(out.clone()))
    engine.run([])
    handle.remove()
    handles = SwapAlong("raw", vectors).hooks(engine._batches[0].context)
    handle = mlp.register_forward_hook(lambda m, a, out: seen.append(out.clone()))
    with torch.no_grad():
        subject.model(prompts.input_ids)
    for one in (*handles, handle):
        one.remove()
    before, after = seen
    a, b = (row / row.norm() for row in vectors.raw)
    alpha = before[:, 0] @ a
    moved = alpha[:, None] * (b - a)
    torch.testing.assert_close(after[:, 0], before[:, 0] + moved, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(after[:, 1], before[:, 1] - moved, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(after[:, 2:], before[:, 2:])


def test_entries_are_set_where_they_are_large():
    subject, prompts, sites = tiny("llama")
    points = {}

    def keep(module, args, kwargs):
        points["x"] = args[0].clone() if args else kwargs["hidden_states"].clone()

    engine = Engine(subject, prompts, sites)
    context = engine._batches[0].context
    block = subject.anatomy.modules(subject.model)[2]

    def stream(*edits):
        handles = [handle for edit in edits for handle in edit.hooks(context)]
        handles.append(block.register_forward_pre_hook(keep, with_kwargs=True))
        with torch.no_grad():
            subject.model(prompts.input_ids)
        for handle in handles:
            handle.remove()
        return points["x"]

    plain = stream()
    bound = float(plain[..., 5].abs().median())
    everywhere = stream(SetEntries(2, (5,), (0.0,), None, bound))
    large = plain[..., 5].abs() > bound
    assert (everywhere[..., 5][large] == 0).all()
    assert torch.equal(everywhere[..., 5][~large], plain[..., 5][~large])
    at_zero = stream(SetEntries(2, (5, 7), (1.0, -2.0), 0))
    assert (at_zero[:, 0, [5, 7]] == torch.tensor([1.0, -2.0])).all()
    assert torch.equal(at_zero[:, 1:], plain[:, 1:])


def test_weights_are_restored_when_a_pass_breaks():
    subject, prompts, sites = tiny("gpt2")
    engine = Engine(subject, prompts, sites)
    before = subject.model.transformer.wpe.weight.detach().clone()
    with pytest.raises(InputError):
        engine.run([PositionRows("zero"), ZeroEmbedding(99)])
    with pytest.raises(InputError):
        engine.run([PositionRows("swap", 0, 10**6)])
    assert torch.equal(subject.model.transformer.wpe.weight, before)


def test_edits_are_read_back():
    for edit in (
        PositionRows("swap", 0, 3),
        ZeroEmbedding(2),
        WithoutSublayers("attention"),
        NeuronsOff(1, (2, 3)),
        KeyColumns((1, 2)),
        SetEntries(1, (2,), (0.0,), None, 5.0),
        SwapAlong("raw"),
    ):
        assert from_json(json.loads(json.dumps(edit.to_json()))) == edit
        assert str(edit)


# --- the other replications, on models whose answer is known ---


def test_sink_rates_are_those_of_the_map():
    subject, _ = built("p0-two-block", "llama")
    bench = Bench(subject, recipe_prompts(subject, "gu-2025"), {})
    alpha = bench.look(keys=(0, 7)).alpha
    reads, _, _ = observe(subject, bench.prompts, Want(maps=True))
    for read in reads:
        for i, key in enumerate((0, 7)):
            slow = read.map[:, :, key:, key].mean(-1)
            np.testing.assert_allclose(alpha[:, read.block, :, i], slow, atol=1e-6)
    per_head = (alpha[..., 0] > 0.3).mean((1, 2))
    np.testing.assert_allclose(rate(alpha[..., 0], 0.3), per_head)


def recipe_prompts(subject, name):
    from sinkscope.subject.prompts import build_prompts

    return build_prompts(subject, **(replication_of(name).prompts | {"n": 4}))


def test_gu_repeats_by_mechanism():
    rows, _ = ran("gu-2025", "query-bias", "gpt2")
    sink = rows["natural"]["Sink_1, %"]
    assert sink > 10
    assert rows["one token repeated"]["Sink_1, %"] == pytest.approx(sink)
    assert rows["replace 5"]["Sink_1, %"] == 0
    assert rows["swap 25"]["Sink_1, %"] == 0
    assert rows["swap 25"]["Sink_t, %"] == pytest.approx(sink)
    rows, _ = ran("gu-2025", "p0-two-block", "llama")
    assert rows["natural"]["Sink_1, %"] > 10
    assert rows["one token repeated"]["Sink_1, %"] == 0  # as in Llama: every copy is like the first
    assert "no learned" in rows["swap 5"]["refused"]


def test_queipo_finds_the_mlp_that_makes_the_norm():
    rows, _ = ran("queipo-2025", "p0-two-block", "llama")
    _, truth = built("p0-two-block", "llama")
    assert rows["strongest"]["block"] == truth.amplifying_blocks[0]
    assert rows["intact"]["sink rate"] > 0.1
    assert rows["strongest"]["sink rate"] == 0
    assert rows["control"]["sink rate"] == rows["intact"]["sink rate"]
    assert rows["strongest"]["least entropy, bits"] > 2 * rows["intact"]["least entropy, bits"]
    assert rows["strongest"]["norm of P0, ×"] < 2 < rows["intact"]["norm of P0, ×"]


def test_matrix_entropy_in_bits():
    assert entropy_bits(torch.eye(8)) == pytest.approx(3.0)
    assert entropy_bits(torch.ones(5, 3)) == pytest.approx(0.0, abs=1e-9)
    x = torch.diag(torch.tensor([1.0, 3.0]))  # squares 1 and 9
    expected = -(0.1 * math.log2(0.1) + 0.9 * math.log2(0.9))
    assert entropy_bits(x) == pytest.approx(expected)


def test_yona_finds_the_writing_neurons():
    rows, _ = ran("yona-2025", "p0-two-block", "llama")
    _, truth = built("p0-two-block", "llama")
    block = int(rows["place"]["block"])
    assert block == truth.amplifying_blocks[0]
    found = {(block, int(rows["place"][name])) for name in ("neuron 1", "neuron 2")}
    assert len(found & {tuple(one) for one in truth.writing_neurons}) == min(
        2, len(truth.writing_neurons)
    )
    norm, repeat = "norm of P0, ×", "norm of the last repeat, ×"
    assert rows["intact"][repeat] == pytest.approx(rows["intact"][norm], rel=0.1)
    for name in (norm, repeat):
        assert rows["off"][name] < 0.9 * rows["intact"][name]
        assert rows["random"][name] == pytest.approx(rows["intact"][name], rel=0.02)
    rows, _ = ran("yona-2025", "query-bias", "gpt2")  # there repeats are not like P0
    assert "repeats are not like P0" in rows["place"]["refused"]


def test_li_makes_a_sink_by_mask_and_by_variance_but_not_by_norm():
    rows, _ = ran("li-2026", "p0-two-block", "llama")
    gained = {key: row.get("margin gained, nats") for key, row in rows.items()}
    assert gained["intact"] == 0
    assert gained["A"] > 2
    assert gained["B′"] > 2
    assert abs(gained["C′"]) < 0.2
    _, truth = built("p0-two-block", "llama")
    assert rows["DomRatio"]["channel"] in truth.channels
    assert rows["DomRatio"]["DomRatio"] > 5


def test_sun_breaks_by_zero_and_not_by_the_mean():
    found, result = ran("sun-2024", "p0-two-block", "llama", spike=300.0)
    _, truth = built("p0-two-block", "llama", spike=300.0)
    assert found["place"]["block"] == truth.amplifying_blocks[0]
    assert found["place"]["channel 1"] in truth.channels
    assert found["place"]["largest"] > 100
    rows = {row["key"]: row for row in result.summary.replication["sun-2024"].rows}
    # in a constructed model nothing but the sink hangs on them
    sink = {key: found[key]["late share of P0, all heads"] for key in rows if key != "place"}
    assert sink["intact"] > 0.2
    assert sink["zero"] < 0.2 * sink["intact"]
    assert sink["mean"] == pytest.approx(sink["intact"], rel=0.01)
    assert sink["plain"] == pytest.approx(sink["intact"], rel=0.01)
    assert "zero at every position" in rows["zero"]["edits"][0]
    refused, _ = ran("sun-2024", "sink-without-massive", "llama")
    assert "no activation is massive" in refused["zero"]["refused"]
    assert refused["intact"]["perplexity"] > 1


def test_barbero_with_and_without_bos():
    rows, _ = ran("barbero-2025", "bos-token", "llama", noise=0.1)
    rates = {key: rows[key]["sink rate ε 0.3, %"] for key in ("with", "without")}
    assert rates["with"] > 10
    assert rates["without"] == 0
    # a change of one token spreads less where heads look at BOS
    assert 0 < rows["spread with"]["spread"] < rows["spread without"]["spread"] < 1


def test_every_recipe_runs_on_a_routed_model():
    for name in replications.REPLICATIONS:
        rows, result = ran(name, "p0-two-block", "mixtral", depth=4, from_block=2)
        assert any(not row["refused"] for row in rows.values())
        assert name in result.table()
        for row in replications.REPLICATIONS[name].rows:  # published is what the row measures
            published = {one.of for one in row.published} - {"perplexity (WikiText-2, T = 4,096)"}
            assert rows[row.key]["refused"] or published <= rows[row.key].keys()
        if name == "ran-milo-2026":
            assert rows["g"]["% of baseline"] < 25
        if name == "yona-2025":
            assert "experts" in rows["off"]["refused"]


# --- words and numbers ---


def test_numbers_of_the_design_are_there():
    def value(name, key, of, checkpoint):
        row = next(row for row in replications.REPLICATIONS[name].rows if row.key == key)
        wanted = of, MODELS[checkpoint]
        return [one.value for one in row.published if (one.of, one.checkpoint) == wanted]

    assert value("ran-milo-2026", "b", "% of baseline", "gpt2") == [44.7]
    assert value("ran-milo-2026", "c", "cross-entropy change", "gpt2") == [3.757]
    assert value("gu-2025", "swap 10", "Sink_t, %", "gpt2-xl") == [54.48]
    assert value("li-2026", "DomRatio", "DomRatio", "Llama-2-7b-hf") == [262.88]
    assert len(replications.REPLICATIONS["ran-milo-2026"].rows) == 10
    marks = {
        one.mark
        for r in replications.REPLICATIONS.values()
        for row in r.rows
        for one in row.published
    }
    assert marks <= {"[S]", "[2nd]", "[COMM]", "[CODE]", "[CODE, 2nd]"}


def test_published_numbers_belong_to_a_checkpoint_by_name_and_size():
    subject, _, _ = tiny("gpt2")
    subject.identity["id"] = "somewhere/gpt2"
    assert not MODELS["gpt2"].is_of(subject)  # the name, and another size
    same = PublishedModel("openai-community/GPT2", 4, 64)
    assert same.is_of(subject)
    replication = replications.REPLICATIONS["ran-milo-2026"]
    assert about(replication, subject).endswith("this is another model.")
    row = replication.rows[0]
    named = type(row)("a", "baseline", row.measure, (Published(0.5, "x", same, "[2nd]"),))
    own = type(replication)(**{**vars(replication), "rows": (named,)})
    assert (
        about(own, subject) == "Published for openai-community/GPT2: by name and size this model."
    )


def test_unknown_names_and_models_that_can_do_nothing():
    subject, _ = built("p0-two-block", "llama")
    with pytest.raises(InputError, match="is not one of ran-milo-2026"):
        replications.run("nobody-2020", subject)


def test_a_result_is_saved_read_and_merged(tmp_path):
    _, result = ran("queipo-2025", "p0-two-block", "llama")
    result.save(tmp_path / "one")
    again = load_result(tmp_path / "one")
    assert again.summary.replication["queipo-2025"].rows[0]["key"] == "intact"
    assert again.table() == result.table()
    page = (tmp_path / "one" / "report.html").read_text(encoding="utf-8")
    assert "Replication queipo-2025" in page
    assert "this is another model" in page
    assert "measured" in again.data["replication/queipo-2025"]
    both = again.merge(ran("queipo-2025", "p0-two-block", "llama")[1])
    assert list(both.summary.replication) == ["queipo-2025"]


def test_a_terminal_counts_the_rows_that_it_leaves_out():
    _, result = ran("queipo-2025", "p0-two-block", "llama")
    one = result.summary.replication["queipo-2025"]
    one.rows = one.rows[:1] * (MOST_ROWS + 2)
    assert findings(result, "").answers[-1] == ("Row", "2 more rows: --verbose.")


def test_command_line(tmp_path, capsys):
    build_model(draw_spec("p0-two-block", 0, family="llama"), tmp_path / "model")
    arguments = ["verify", str(tmp_path / "model"), "--n", "3", "--replication"]
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "queipo-2025", "--json", "--out", str(tmp_path / "run")])
    assert stop.value.code == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["replication"]["queipo-2025"]["prompts"] == 3
    assert "verify" not in shown
    assert (tmp_path / "run" / "report.html").is_file()
    for wrong in (["nobody-2020"], ["queipo-2025", "--expect", "p0-circuit"]):
        with pytest.raises(SystemExit) as stop:
            main([*arguments, *wrong])
        assert stop.value.code == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
