"""Encoded text kept on disk: the same tokens as in memory, made once, whole or not at all."""

import json
import lzma
import shutil
from dataclasses import replace

import pytest
import torch

from sinkscope import files
from sinkscope.errors import InputError, OutOfResources
from sinkscope.lab import encoded, ranks
from sinkscope.lab.corpus import SPLITS, texts_of
from sinkscope.lab.data import prepare
from sinkscope.lab.encoded import encode_in_memory, encode_on_disk
from sinkscope.lab.recipe import TrainingRecipe

RECIPE = TrainingRecipe(
    vocabulary=300, blocks=1, width=16, heads=2, hidden=16, context=32, lengths=(16, 32),
    tokens_per_step=128, tokenizer="own",
)  # fmt: skip
RECIPES = {
    "windows": RECIPE,
    "bos": replace(RECIPE, bos=True),
    "paragraphs": replace(RECIPE, bos=True, packing="paragraphs"),
    "paragraphs-causal": replace(RECIPE, bos=True, packing="paragraphs-causal"),
    "bundled": replace(RECIPE, tokenizer="bundled", vocabulary=2048),
}


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    for split in SPLITS:
        with lzma.open(folder / f"{split}.jsonl.xz", "wt", encoding="utf-8") as lines:
            for text in list(texts_of(None, split))[:2]:
                lines.write(json.dumps({"text": text[:3000]}) + "\n")
    return folder


@pytest.mark.parametrize("name", RECIPES)
def test_the_tokens_on_disk_are_those_in_memory(name, corpus, tmp_path):
    recipe = RECIPES[name]
    memory, disk = encode_in_memory(recipe, corpus), encode_on_disk(recipe, corpus, tmp_path / "t")
    for split in SPLITS:
        assert torch.equal(memory.streams[split], disk.streams[split])
    assert memory.sha256 == disk.sha256
    assert memory.tokenizer.get_vocab() == disk.tokenizer.get_vocab()
    one, two = prepare(recipe, corpus), prepare(recipe, corpus, tmp_path / "t")
    for _ in range(3):
        batches = [data.batch(recipe, torch.Generator().manual_seed(5)) for data in (one, two)]
        assert torch.equal(*batches)
    assert torch.equal(one.validation(4, 16), two.validation(4, 16))
    assert one.sha256 == two.sha256
    assert one.tokenizer.model_max_length == two.tokenizer.model_max_length
    assert one.tokenizer.bos_token_id == two.tokenizer.bos_token_id == 0


def test_a_second_start_does_not_read_the_corpus(corpus, tmp_path):
    first = encode_on_disk(RECIPE, corpus, tmp_path / "t")
    shutil.rmtree(corpus)
    again = encode_on_disk(replace(RECIPE, seed=3, lengths=(8,)), corpus, tmp_path / "t")
    assert torch.equal(first.streams["train"], again.streams["train"])
    with pytest.raises(InputError, match="No corpus"):
        encode_on_disk(RECIPES["paragraphs"], corpus, tmp_path / "t")


def test_what_the_tokens_depend_on_has_a_folder_each(corpus, tmp_path):
    for recipe in [*RECIPES.values(), replace(RECIPE, vocabulary=310)]:
        encode_on_disk(recipe, corpus, tmp_path)
    made = {p.name for p in tmp_path.iterdir()} - {"corpus"}
    assert made == {
        "own-300-texts", "own-300-paragraphs-bos", "own-300-paragraphs", "own-310-texts",
        "bundled-2048-texts",
    }  # fmt: skip


def test_the_mapped_tokens_cannot_be_changed_on_disk(corpus, tmp_path):
    stream = encode_on_disk(RECIPE, corpus, tmp_path).streams["train"]
    before = stream.clone()
    stream[:10] = 7
    assert torch.equal(encode_on_disk(RECIPE, corpus, tmp_path).streams["train"], before)


def test_another_process_waits_and_writes_nothing(corpus, tmp_path, monkeypatch):
    waited = []

    def wait():  # the first process writes meanwhile
        waited.append(list(tmp_path.glob("t/*")))
        monkeypatch.setattr(ranks, "first", lambda: True)
        monkeypatch.setattr(ranks, "wait", lambda: None)
        encode_on_disk(RECIPE, corpus, tmp_path / "t")

    monkeypatch.setattr(ranks, "first", lambda: False)
    monkeypatch.setattr(ranks, "wait", wait)
    found = encode_on_disk(RECIPE, corpus, tmp_path / "t")
    assert waited == [[]]
    assert len(found.streams["train"]) > 1000


def test_what_was_cut_short_is_made_again(corpus, tmp_path, monkeypatch):
    pieces = encoded.encoded_pieces

    def cut(*arguments):
        for count, piece in enumerate(pieces(*arguments)):
            if count == 4:
                raise KeyboardInterrupt
            yield piece

    monkeypatch.setattr(encoded, "encoded_pieces", cut)
    with pytest.raises(KeyboardInterrupt):
        encode_on_disk(RECIPE, corpus, tmp_path / "t")
    assert not [p for p in tmp_path.glob("t/*/*") if p.is_file()]
    monkeypatch.undo()
    whole = encode_in_memory(RECIPE, corpus)
    assert torch.equal(
        encode_on_disk(RECIPE, corpus, tmp_path / "t").streams["train"], whole.streams["train"]
    )


def test_a_damaged_file_and_a_full_disk_are_one_sentence(corpus, tmp_path, monkeypatch):
    encode_on_disk(RECIPE, corpus, tmp_path / "t")
    file = tmp_path / "t" / "own-300-texts" / "train.bin"
    whole = file.read_bytes()
    for damaged in (whole[:-4], whole + whole[:4]):
        file.write_bytes(damaged)
        with pytest.raises(InputError, match="own-300-texts is damaged: remove it"):
            encode_on_disk(RECIPE, corpus, tmp_path / "t")
    shutil.rmtree(file.parent)
    encode_on_disk(RECIPE, corpus, tmp_path / "t")
    (file.parent / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="own-300-texts is damaged: remove it"):
        encode_on_disk(RECIPE, corpus, tmp_path / "t")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OutOfResources, match=r"[Tt]he disk is full"):
        encode_on_disk(RECIPE, corpus, tmp_path / "u")
    assert not list(tmp_path.glob("u/*/*.bin"))
