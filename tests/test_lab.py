"""The lab: corpus, demand, training, figures and the bundled model."""

import json
import lzma
import math
from importlib.resources import files

import pytest
import torch
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
)

from sinkscope.errors import InputError
from sinkscope.lab import card, cli
from sinkscope.lab.card_text import card_text
from sinkscope.lab.corpus import cut_excerpt, passage, read_texts
from sinkscope.lab.demand import Demand, asking
from sinkscope.lab.figures import distinct_windows, mean_cosine, measure, uniform_late_share
from sinkscope.lab.recipe import Recipe, build_model
from sinkscope.lab.tokens import encode, train_tokenizer, windows
from sinkscope.lab.train import finished_folder, fit, save_model

ASSETS = files("sinkscope") / "assets"
TINY = Recipe(
    vocabulary=64, blocks=3, width=32, heads=2, hidden=32, context=32, steps=60, warmup=5,
    tokens_per_step=64, lengths=(16, 32), precision="fp32", learning_rate=1e-2,
    demand=Demand(heads=(1,), from_block=1, weight=1.0),
)  # fmt: skip
STREAM = torch.randint(2, 64, (2000,), generator=torch.Generator().manual_seed(0))


def write_corpus(folder, texts):
    for split in ("train", "validation"):
        with lzma.open(folder / f"{split}.jsonl.xz", "wt", encoding="utf-8") as lines:
            lines.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    return folder


def varied(recipe, **changes):
    return Recipe(**{**vars(recipe), **changes})


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    text = (ASSETS / "excerpt.txt").read_text("utf-8")[:40_000]
    return write_corpus(tmp_path_factory.mktemp("corpus"), [text[:25_000], text[25_000:]])


# corpus


def test_reader_returns_the_documents_in_order(tmp_path):
    write_corpus(tmp_path, ["one\n\nBébée", "two"])
    assert list(read_texts(tmp_path, "train")) == ["one\n\nBébée", "two"]


def test_reader_names_a_missing_file_and_a_bad_line(tmp_path):
    with pytest.raises(InputError, match=r"No corpus at .*validation\.jsonl\.xz"):
        list(read_texts(tmp_path, "validation"))
    with lzma.open(tmp_path / "train.jsonl.xz", "wt") as lines:
        lines.write('{"text": "fine"}\n{"txt": "not"}\n')
    with pytest.raises(InputError, match="line 2"):
        list(read_texts(tmp_path, "train"))


def test_reader_answers_a_truncated_file(tmp_path):
    path = write_corpus(tmp_path, ["word " * 2000]) / "train.jsonl.xz"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match="cannot be read"):
        list(read_texts(tmp_path, "train"))


def test_passage_starts_at_a_paragraph_and_ends_with_one(tmp_path):
    text = "\n\n".join(f"paragraph {i:02d}" for i in range(20))
    assert passage(text, 0.5, 20) == "paragraph 11\n\nparagraph 12"
    write_corpus(tmp_path, [text, text])
    assert cut_excerpt(tmp_path, 0.5, 20).split("\n\f\n") == [passage(text, 0.5, 20)] * 2


def test_bundled_excerpt_has_seven_documents():
    documents = (ASSETS / "excerpt.txt").read_text("utf-8").split("\n\f\n")
    assert len(documents) == 7
    assert all(27_000 < len(document) < 32_000 for document in documents)


# tokens


def test_tokenizer_round_trips_and_adds_nothing(corpus):
    tokenizer = train_tokenizer(read_texts(corpus, "train"), 400)
    text = "CHAPTER I.\n\nBébée — “no”, said he."
    ids = tokenizer(text).input_ids
    assert tokenizer.decode(ids) == text
    assert not {tokenizer.bos_token_id, tokenizer.eos_token_id} & set(ids)
    assert encode([text, text], tokenizer).tolist() == [*ids, tokenizer.eos_token_id] * 2


def test_windows_are_contiguous_and_repeat_with_the_seed():
    def first(seed):
        return next(windows(torch.arange(500), (16,), 64, torch.Generator().manual_seed(seed)))

    batch = first(1)
    assert batch.shape == (4, 17)
    assert torch.equal(batch, batch[:, :1] + torch.arange(17))
    assert torch.equal(batch, first(1))
    assert not torch.equal(batch, first(2))


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
        with asking(model, demand) as share:
            logits = model(ids, attention_mask=mask).logits
        model.set_attn_implementation("eager")
        eager = model(ids, attention_mask=mask, output_attentions=True)
    expected = eager.attentions[1][:, [0, 3], 3:, 0].log().mean()
    assert share.mean().item() == pytest.approx(expected.item(), abs=1e-5)
    seen = mask.bool()
    assert torch.allclose(logits[seen], eager.logits[seen], atol=1e-5)


def test_demand_raises_the_share_of_the_asked_heads_only():
    def late_shares(recipe):
        model = build_model(recipe)
        fit(model, STREAM, recipe)
        grid = measure(model, distinct_windows(STREAM, 16, 32), [])["late_share"]["heads"]
        return torch.tensor(grid)

    asked = late_shares(TINY)
    control = late_shares(varied(TINY, demand=None))
    assert asked[1:, 1].min() > 0.5
    assert asked[1:, 1].min() > 3 * control.max()
    assert asked[1:, 1].min() > 2 * max(asked[0].max(), asked[1:, 0].max())


def test_demand_names_its_heads_and_ends_when_withdrawn():
    demand = Demand(heads=(0, 2), from_block=1, weight=0.3, until=10)
    assert demand.asked(3) == [(1, 0), (1, 2), (2, 0), (2, 2)]
    assert [demand.weight_at(step) for step in (0, 9, 10, 99)] == [0.3, 0.3, 0.0, 0.0]
    assert Demand(weight=0.3).weight_at(10**9) == 0.3


def test_withdrawn_demand_leaves_the_weights_of_the_control():
    def weights(demand):
        recipe = varied(TINY, steps=2, demand=demand)
        model = build_model(recipe)
        fit(model, STREAM, recipe)
        return model.lm_head.weight

    assert torch.equal(weights(Demand(heads=(1,), until=0)), weights(None))
    assert not torch.equal(weights(Demand(heads=(1,), until=1)), weights(None))


def test_registries_and_config_are_restored_on_error():
    model = grouped_model()
    registries = AttentionInterface._global_mapping, AttentionMaskInterface._global_mapping
    before = [dict(registry) for registry in registries]

    def fail():
        with asking(model, Demand()):
            assert [dict(registry) for registry in registries] != before
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert [dict(registry) for registry in registries] == before
    assert model.config._attn_implementation == "sdpa"


def test_attention_it_cannot_train_is_refused():
    model, x = grouped_model(), torch.randn(1, 4, 5, 8)
    with (
        asking(model, Demand()) as share,
        pytest.raises(ValueError, match="softcap"),
    ):
        share(model.model.layers[0].self_attn, x, x, x, None, softcap=30.0)


# training


def test_same_seed_gives_the_same_weights():
    def weights(seed):
        recipe = varied(TINY, steps=3, seed=seed)
        model = build_model(recipe)
        fit(model, STREAM, recipe)
        return torch.cat([p.flatten() for p in model.parameters()])

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_learning_rate_warms_up_and_decays_to_the_floor():
    recipe = Recipe(steps=100, warmup=10, learning_rate=1.0, floor=0.1)
    rates = [recipe.learning_rate_at(step) for step in (0, 9, 55, 100)]
    assert rates == pytest.approx([0.1, 1.0, 0.55, 0.1])


def test_a_broken_run_leaves_no_folder(tmp_path):
    def fail():
        with finished_folder(tmp_path / "out") as folder:
            (folder / "half").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_command_line_trains_and_writes_card(corpus, tmp_path, capsys):
    out = tmp_path / "model"
    train = ["--corpus", str(corpus), "--out", str(out), "--steps", "2"]
    assert cli.main([*train, "--checkpoints", "0", "1", "--demand-from", "4"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "model.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    assert {"loss", "demand_share", "lr", "tokens_per_second"} <= rows[0].keys()
    assert sorted(p.name for p in out.glob("checkpoint-*")) == ["checkpoint-0", "checkpoint-1"]
    assert json.loads((out / "sink_heads.json").read_text())["asked_heads"] == [
        [block, head] for block in (4, 5) for head in (0, 1)
    ]
    arguments = [str(out), "--corpus", str(corpus), "--windows", "4", "--length", "16"]
    assert card.main(arguments) == 0
    loss = json.loads((out / "figures.json").read_text())["trained"]["loss"]["value"]
    assert f"{loss:.3f} [" in (out / "README.md").read_text("utf-8")
    assert cli.main(train) == 2
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize("main", [cli.main, card.main])
def test_missing_input_is_answered_in_one_sentence(main, tmp_path, capsys):
    arguments = ["--corpus", str(tmp_path / "none")]
    arguments += ["--out", str(tmp_path / "out")] if main is cli.main else [str(tmp_path)]
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert error.count("\n") == 0
    assert error.endswith(".")
    assert list(tmp_path.glob("out*")) == []


# figures


def test_mean_cosine_of_known_states():
    same, opposed = torch.tensor([[1.0, 0], [3, 0]]), torch.tensor([[1.0, 0], [-2, 0]])
    crossed = torch.tensor([[1.0, 0], [0, 5]])
    assert mean_cosine(torch.stack([same, opposed, crossed])) == pytest.approx([1, -1, 0])


def test_uniform_attention_has_the_uniform_late_share():
    assert uniform_late_share(40) == pytest.approx(0.0340, abs=5e-5)
    model = build_model(varied(TINY, demand=None))
    for block in model.model.layers:
        torch.nn.init.zeros_(block.self_attn.q_proj.weight)
    figures = measure(model, distinct_windows(STREAM, 8, 32), [(1, 0), (2, 1)])
    assert figures["late_share"]["asked"]["value"] == pytest.approx(uniform_late_share(32))
    heads = torch.tensor(figures["late_share"]["heads"])
    assert torch.allclose(heads, torch.full((3, 2), uniform_late_share(32)))


def test_figures_follow_the_definition():
    model, batch = build_model(TINY), distinct_windows(STREAM, 20, 32)
    assert batch[:, 0].unique().numel() == 20
    figures = measure(model, batch, TINY.asked())
    with torch.no_grad():
        loss = model(batch, labels=batch).loss
        hidden = model(batch[:, :-1], output_hidden_states=True).hidden_states
    assert figures["loss"]["value"] == pytest.approx(loss.item(), abs=1e-5)
    for point in (0, 1, 2):
        norms = hidden[point].norm(dim=-1)
        ratio = (norms[:, 0] / norms[:, 1:].median(-1).values).mean().item()
        assert figures["norm_ratio"][point] == pytest.approx(ratio, abs=1e-5)
    share = figures["late_share"]
    assert share["asked"]["value"] == pytest.approx(sum(share["heads"][b][1] for b in (1, 2)) / 2)
    assert share["earlier_blocks"]["value"] == pytest.approx(sum(share["heads"][0]) / 2)
    assert figures["cosine_windows"][2] == pytest.approx(mean_cosine(hidden[2][None, :, 0])[0])
    everything = mean_cosine(model.model.embed_tokens.weight[None])[0]
    assert figures["cosine_vocabulary"][0] == pytest.approx(everything)
    assert len(figures["cosine_vocabulary"]) == TINY.blocks + 1


def test_recipe_survives_the_folder(tmp_path):
    recipe = varied(TINY, checkpoints=(0, 3))
    save_model(tmp_path, build_model(recipe), train_tokenizer(["text"], 300), recipe)
    assert card.load_recipe(tmp_path) == recipe
    (tmp_path / "sink_heads.json").write_text('{"recipe": {}}')
    with pytest.raises(InputError, match="no vocabulary"):
        card.load_recipe(tmp_path)


def test_card_without_control_says_so():
    model, batch = build_model(TINY), distinct_windows(STREAM, 8, 32)
    one = measure(model, batch, TINY.asked())
    text = card_text(TINY, {"trained": one, "training": {}, "untrained": [one, one]})
    assert "not run" in text
    assert "(1, 1), (2, 1)" in text


# the bundled model


def test_bundled_model_sinks_where_it_was_asked():
    folder = ASSETS / "reference-model"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 9_000_000
    recipe = card.load_recipe(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = (ASSETS / "excerpt.txt").read_text("utf-8")
    ids = encode([text[:60_000]], tokenizer)
    assert tokenizer("Hello").input_ids[0] != tokenizer.bos_token_id == 0
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    figures = measure(model, distinct_windows(ids, 32, 128), recipe.asked())
    assert figures["late_share"]["asked"]["value"] > 0.8
    assert figures["cosine_vocabulary"][2] > 0.5 > figures["cosine_middle"][2]
    assert figures["loss"]["value"] < math.log(len(tokenizer)) - 2
