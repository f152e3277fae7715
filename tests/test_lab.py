"""The lab: corpus, demand, training, figures and the bundled model."""

import hashlib
import json
import lzma
import math
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from card_parts.figures import distinct_windows, load_recipe, vocabulary_share
from card_parts.model_text import card_text
from card_parts.series_text import series_card
from excerpt import cut_excerpt, passage
from transformers import AutoTokenizer, LlamaForCausalLM

from sinkscope.errors import InputError
from sinkscope.lab.corpus import read_texts, texts_of
from sinkscope.lab.demand import Demand
from sinkscope.lab.metrics import measure
from sinkscope.lab.model import build_model
from sinkscope.lab.recipe import TrainingRecipe
from sinkscope.lab.state import save_model
from sinkscope.lab.tokens import draw_windows, encode, restarting_positions, train_tokenizer
from sinkscope.observe.stream import mean_cosine

ASSETS = files("sinkscope") / "assets"
TINY = TrainingRecipe(
    vocabulary=64, blocks=3, width=32, heads=2, hidden=32, context=32, steps=60, warmup=5,
    tokens_per_step=64, lengths=(16, 32), learning_rate=1e-2, init=0.06, tokenizer="own",
    demand=Demand(heads=(1,), from_block=1, weight=1.0),
)  # fmt: skip
STREAM = torch.randint(2, 64, (2000,), generator=torch.Generator().manual_seed(0))


def write_corpus(folder, texts):
    for split in ("train", "validation"):
        with lzma.open(folder / f"{split}.jsonl.xz", "wt", encoding="utf-8") as lines:
            lines.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    return folder


def varied(recipe, **changes):
    return TrainingRecipe(**{**vars(recipe), **changes})


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
    def draw(seed, bos=None):
        return draw_windows(torch.arange(500), 4, 16, torch.Generator().manual_seed(seed), bos)

    batch = draw(1)
    assert batch.shape == (4, 17)
    assert torch.equal(batch, batch[:, :1] + torch.arange(17))
    assert torch.equal(batch, draw(1))
    assert not torch.equal(batch, draw(2))
    behind = draw(1, bos=7)
    assert behind.shape == (4, 17)
    assert behind[:, 0].tolist() == [7] * 4
    assert torch.equal(behind[:, 1:], behind[:, 1:2] + torch.arange(16))


def test_a_window_may_end_with_the_stream():
    assert draw_windows(torch.arange(5), 1, 4, torch.Generator()).tolist() == [[0, 1, 2, 3, 4]]


def test_positions_count_from_zero_behind_each_eos():
    ids = torch.tensor([[5, 6, 1, 7, 8, 1, 1, 9], [1, 4, 4, 4, 4, 4, 4, 4]])
    assert restarting_positions(ids, eos=1).tolist() == [
        [0, 1, 2, 0, 1, 2, 0, 0],
        [0, 0, 1, 2, 3, 4, 5, 6],
    ]


def test_held_out_part_of_the_excerpt_is_not_trained_on():
    train, validation = texts_of(None, "train"), texts_of(None, "validation")
    assert len(train) == len(validation) == 7
    whole = (ASSETS / "excerpt.txt").read_text("utf-8").rstrip("\n").split("\n\f\n")
    assert [f"{t}\n\n{v}" for t, v in zip(train, validation)] == whole
    assert 0.05 < sum(map(len, validation)) / sum(map(len, whole)) < 0.15


# figures


def test_mean_cosine_of_known_states():
    same, opposed = torch.tensor([[1.0, 0], [3, 0]]), torch.tensor([[1.0, 0], [-2, 0]])
    crossed = torch.tensor([[1.0, 0], [0, 5]])
    found = mean_cosine(torch.stack([same, opposed, crossed], 1))
    assert found.tolist() == pytest.approx([1, -1, 0])


def test_uniform_attention_has_the_uniform_late_share():
    model = build_model(varied(TINY, context=40, demand=None))
    for block in model.model.layers:
        torch.nn.init.zeros_(block.self_attn.q_proj.weight)
    figures = measure(model, distinct_windows(STREAM, 8, 40), [(1, 0), (2, 1)])
    uniform = figures["uniform_late_share"]
    assert uniform == pytest.approx(0.0340, abs=5e-5)
    heads = torch.tensor(figures["late_share"]["heads"])
    assert torch.allclose(heads, torch.full((3, 2), uniform))
    assert figures["late_share"]["supervised"]["value"] == pytest.approx(uniform)
    # single targets of the first half receive the same of all late queries
    assert figures["late_share_p99"] == pytest.approx(uniform)
    delimiters = torch.tensor([5, 6, 7, 8, 9, 10])
    figures = measure(model, distinct_windows(STREAM, 8, 40), [(1, 0)], delimiters)
    assert figures["late_share"]["supervised"]["value"] == pytest.approx(
        figures["uniform_late_share"]
    )


def test_vocabulary_share_counts_the_items_that_sink():
    model, batch = build_model(TINY), distinct_windows(STREAM, 20, 32)
    shares = []
    for item in range(TINY.vocabulary):
        row = batch[item % 20][None].clone()
        row[0, 0] = item
        figures = measure(model, row, TINY.supervised_heads())
        shares.append(figures["late_share"]["supervised"]["value"])
    bar = sorted(shares)[40] + 1e-9
    found = vocabulary_share(model, batch, TINY.supervised_heads(), above=bar)
    assert found == pytest.approx(23 / 64)


def test_figures_follow_the_definition():
    model, batch = build_model(TINY), distinct_windows(STREAM, 20, 32)
    assert batch[:, 0].unique().numel() == 20
    figures = measure(model, batch, TINY.supervised_heads())
    with torch.no_grad():
        loss = model(batch, labels=batch).loss
        hidden = model(batch[:, :-1], output_hidden_states=True).hidden_states
    assert figures["loss"]["value"] == pytest.approx(loss.item(), abs=1e-5)
    for point in (0, 1, 2):
        norms = hidden[point].norm(dim=-1)
        ratio = (norms[:, 0] / norms[:, 1:].median(-1).values).mean().item()
        assert figures["norm_ratio"][point] == pytest.approx(ratio, abs=1e-5)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        maps = model(batch[:, :-1], output_attentions=True).attentions
    late = torch.stack([m[:, :, 16:, 0].mean((0, 2)) for m in maps])
    share = figures["late_share"]
    assert torch.allclose(torch.tensor(share["heads"]), late, atol=1e-6)
    received = torch.stack([maps[b][:, 1, :, 0].mean(-1) for b in (1, 2)])
    assert figures["sink_rate"]["value"] == pytest.approx((received > 0.3).double().mean().item())
    assert share["supervised"]["value"] == pytest.approx(
        sum(share["heads"][b][1] for b in (1, 2)) / 2
    )
    assert share["earlier_blocks"]["value"] == pytest.approx(sum(share["heads"][0]) / 2)
    assert figures["cosine_windows"][2] == pytest.approx(float(mean_cosine(hidden[2][:, 0])))
    everything = float(mean_cosine(model.model.embed_tokens.weight.detach()))
    assert figures["cosine_vocabulary"][0] == pytest.approx(everything)
    assert len(figures["cosine_vocabulary"]) == TINY.blocks + 1


def test_recipe_survives_the_folder(tmp_path):
    recipe = varied(TINY, checkpoints=(0, 3))
    save_model(tmp_path, build_model(recipe), train_tokenizer(["text"], 300), recipe)
    assert load_recipe(tmp_path) == recipe
    (tmp_path / "sink_heads.json").write_text('{"recipe": {"magic": 1}}')
    with pytest.raises(InputError, match="magic is not a setting"):
        load_recipe(tmp_path)


def test_card_without_control_says_so():
    model, batch = build_model(TINY), distinct_windows(STREAM, 8, 32)
    one = measure(model, batch, TINY.supervised_heads())
    text = card_text(TINY, {"trained": one, "training": {}, "untrained": [one, one]})
    assert "not run" in text
    assert "(1, 1), (2, 1)" in text


# the bundled models


def test_bundled_card_is_what_its_figures_say():
    folder = ASSETS / "reference-model"
    figures = json.loads((folder / "figures.json").read_text("utf-8"))
    text = card_text(load_recipe(folder), figures)
    assert (folder / "README.md").read_text("utf-8") == text


def bundled(pattern):
    return [path for path in Path(str(ASSETS)).glob(pattern) if path.is_file()]


def test_checksums_hold_and_name_every_model_file():
    lines = (ASSETS / "SHA256SUMS").read_text("utf-8").splitlines()
    listed = {name: digest for digest, name in (line.split("  ") for line in lines)}
    kept = [*bundled("excerpt.txt"), *bundled("tokenizer/*"), *bundled("reference-model/*")]
    kept += bundled("series/**/*")
    assert {path.relative_to(str(ASSETS)).as_posix() for path in kept} == set(listed)
    for path in kept:
        name = path.relative_to(str(ASSETS)).as_posix()
        assert hashlib.sha256(path.read_bytes()).hexdigest() == listed[name], name


def test_bundled_files_are_small():
    sizes = [path.stat().st_size for path in bundled("**/*")]
    assert sum(sizes) < 60_000_000
    assert max(sizes) < 16_000_000


def bundled_series():
    (folder,) = {path.parent.parent for path in bundled("series/*/checkpoint-0/config.json")}
    return folder


def test_bundled_series_forms_a_sink_from_none():
    folder = bundled_series()
    figures = json.loads((folder / "figures.json").read_text("utf-8"))
    recipe = load_recipe(folder / "checkpoint-0")
    steps = sorted(int(p.name.split("-")[1]) for p in folder.glob("checkpoint-*"))
    assert len(steps) >= 12
    assert steps == [row["step"] for row in figures["checkpoints"]] == list(recipe.checkpoints)
    tokenizer = AutoTokenizer.from_pretrained(folder / "checkpoint-0")
    ids = encode(texts_of(None, "validation"), tokenizer)
    shares = []
    for step in (steps[0], steps[-1]):
        model = LlamaForCausalLM.from_pretrained(folder / f"checkpoint-{step}", dtype=torch.float32)
        found = measure(model, distinct_windows(ids, 16, 128), recipe.supervised_heads())
        shares.append((found["late_share"]["supervised"]["value"], found["late_share_p99"]))
    assert shares[0][0] < shares[0][1] < 0.1
    assert shares[1][0] > 0.8


def test_bundled_figures_cover_the_series_and_their_cards_follow():
    figures = {p.stem: json.loads(p.read_text("utf-8")) for p in bundled("series/figures/*.json")}
    assert len([name for name in figures if name.startswith("induced")]) >= 8
    for name, one in figures.items():
        assert one["name"] == name
        assert len(one["checkpoints"]) >= 12
        assert one["checkpoints"][0]["step"] == 0
    folder = bundled_series()
    text = series_card(load_recipe(folder / "checkpoint-0"), figures[folder.name])
    assert (folder / "README.md").read_text("utf-8") == text
    assert json.loads((folder / "figures.json").read_text("utf-8")) == figures[folder.name]


def test_bundled_model_sinks_where_it_was_asked():
    folder = ASSETS / "reference-model"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 9_000_000
    recipe = load_recipe(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = (ASSETS / "excerpt.txt").read_text("utf-8")
    ids = encode([text[:60_000]], tokenizer)
    assert tokenizer("Hello").input_ids[0] != tokenizer.bos_token_id == 0
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    figures = measure(model, distinct_windows(ids, 32, 128), recipe.supervised_heads())
    assert figures["late_share"]["supervised"]["value"] > 0.8
    assert figures["cosine_vocabulary"][2] > 0.5 > figures["cosine_middle"][2]
    assert figures["loss"]["value"] < math.log(len(tokenizer)) - 2
