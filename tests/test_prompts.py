"""Prompts and the BOS policy."""

import json
import os

import pytest
import torch

from sinkscope.errors import InputError, OutOfResources
from sinkscope.settings import ScanSettings
from sinkscope.subject.load import load
from sinkscope.subject.prompts import Prompts, build_prompts, read_documents
from tests.conftest import WORDS, word_tokenizer


@pytest.fixture
def subject(folder):
    return load(folder)


def test_text_windows_start_with_different_tokens(subject, text_file):
    prompts = build_prompts(subject, text=str(text_file), n=16, length=32)
    assert prompts.input_ids.shape == (16, 32)
    assert prompts.input_ids[:, 0].unique().numel() > 3
    assert prompts.bos == "without"
    assert prompts.position_zero
    again = build_prompts(subject, text=str(text_file), n=16, length=32)
    assert again.sha256 == prompts.sha256
    other = build_prompts(subject, text=str(text_file), n=16, length=32, seed=1)
    assert other.sha256 != prompts.sha256


def test_windows_by_turns_come_from_as_many_documents_as_there_are(subject, tmp_path):
    (tmp_path / "a.txt").write_text(
        "\f".join(f"{WORDS[i]} " * n for i, n in enumerate((900, 40, 40)))
    )
    asked = {"text": str(tmp_path / "a.txt"), "n": 4, "length": 32}
    turns = build_prompts(subject, **asked, by_turns=True)
    assert sorted(turns.documents.tolist()) == [0, 0, 1, 2]
    assert set(build_prompts(subject, **asked).documents.tolist()) == {0}


def test_copies_of_a_document_are_one(subject, tmp_path):
    text = " ".join(WORDS * 40)
    (tmp_path / "a.txt").write_text("\f".join([text, text, f"{text} more"]))
    prompts = build_prompts(subject, text=str(tmp_path / "a.txt"), n=99, length=32)
    assert set(prompts.documents.tolist()) == {0, 2}


def test_with_bos_puts_it_first_and_keeps_the_length(subject, text_file):
    prompts = build_prompts(subject, text=str(text_file), n=4, length=32, bos="with")
    assert prompts.input_ids.shape == (4, 32)
    assert (prompts.input_ids[:, 0] == subject.tokenizer.bos_token_id).all()
    assert (prompts.input_ids[:, 1:] != subject.tokenizer.bos_token_id).all()
    assert prompts.position_zero == ["'<s>' × 4"]


def test_as_is_follows_the_tokenizer(subject, text_file):
    from tokenizers.processors import TemplateProcessing

    subject.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    assert build_prompts(subject, text=str(text_file), n=2, length=16).bos == "with"
    assert (
        build_prompts(subject, text=str(text_file), n=2, length=16, bos="without").bos == "without"
    )


def test_jsonl(subject, jsonl_file):
    prompts = build_prompts(subject, text=str(jsonl_file), n=4, length=16)
    assert prompts.source == "text.jsonl"


def test_short_texts_are_padded_on_the_right(subject, tmp_path):
    file = tmp_path / "short.txt"
    file.write_text("the sink of zero\fhead block key query value norm the a")
    prompts = build_prompts(subject, text=str(file), n=4, length=64)
    assert prompts.lengths.tolist() == [4, 8]
    assert prompts.attention_mask is None


def test_repeat_and_random(subject):
    repeat = build_prompts(subject, kind="repeat", n=5, length=20)
    assert (repeat.input_ids == repeat.input_ids[:, :1]).all()
    random = build_prompts(subject, kind="random", n=5, length=20)
    assert random.input_ids.unique().numel() > 20


def test_given_ids(subject):
    prompts = build_prompts(subject, kind="ids", ids=[[5, 6, 7], [0, 8, 9, 10]], length=10)
    assert prompts.lengths.tolist() == [3, 4]
    assert build_prompts(subject, kind="ids", ids=[[0, 8], [0, 9]], length=10).bos == "with"


@pytest.mark.parametrize(("lengths", "enough"), [([23], False), ([24], True), ([11, 15], True)])
def test_late_queries_are_counted_over_all_rows(lengths, enough):
    ids = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    assert Prompts(ids, torch.tensor(lengths), "ids", "without").enough == enough


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"n": 0}, "n is 0; the least is 1"),
        ({"length": 100_000}, "beyond this model's maximum"),
        ({"bos": "maybe"}, "BOS policy"),
        ({"bos": "both"}, "not one of as-is, with, without"),
        ({"kind": "poem"}, "prompt kind"),
        ({"text": "nowhere.txt"}, "No such text file"),
        ({"text": "the sink of a head " * 40}, "No such text file"),
        ({"kind": "ids", "ids": []}, "empty"),
        ({"kind": "ids", "ids": [[1, 10_000]]}, "do not belong together"),
        ({"text": "hub:none"}, "Hub data set|extra"),
    ],
)
def test_bad_input(subject, options, match):
    options = {"length": 16, "n": 2, **options}
    with pytest.raises(InputError, match=match):
        build_prompts(subject, **options)


def test_empty_text(subject, tmp_path):
    file = tmp_path / "empty.txt"
    file.write_text("  \n ")
    with pytest.raises(InputError, match="is empty"):
        build_prompts(subject, text=str(file))


def test_not_text(subject, tmp_path):
    file = tmp_path / "noise.txt"
    file.write_bytes(bytes(range(128, 256)))
    with pytest.raises(InputError, match="not UTF-8"):
        build_prompts(subject, text=str(file))


def test_bad_jsonl(tmp_path):
    file = tmp_path / "bad.jsonl"
    file.write_text('{"text": "a"}\n{"other": 1}\n')
    with pytest.raises(InputError, match='line 2, has no "text"'):
        read_documents(str(file))
    file.write_text("nonsense\n")
    with pytest.raises(InputError, match="line 1, is not JSON"):
        read_documents(str(file))


def test_no_bos_token_to_put(subject, text_file):
    subject.tokenizer.bos_token = None
    subject.model.config.bos_token_id = None
    with pytest.raises(InputError, match="no BOS token"):
        build_prompts(subject, text=str(text_file), bos="with", length=16)


def test_text_needs_a_tokenizer(subject, text_file):
    subject.tokenizer = None
    with pytest.raises(InputError, match="no tokenizer"):
        build_prompts(subject, text=str(text_file), length=16)


def test_the_bundled_excerpt_is_there():
    documents, source = read_documents("builtin")
    assert source == "builtin"
    assert 150_000 < sum(map(len, documents)) < 260_000


def test_slices_keep_what_belongs_to_the_rows(subject):
    prompts = build_prompts(subject, kind="random", n=5, length=8)
    parts = list(prompts.batches(2))
    assert [len(part) for part in parts] == [2, 2, 1]
    assert torch.equal(torch.cat([p.input_ids for p in parts]), prompts.input_ids)


# --- files as people have them


def scanned(subject, path, **options):
    return build_prompts(subject, text=str(path), n=2, length=16, **options)


@pytest.mark.parametrize(
    ("name", "write"),
    [("list.json", lambda rows: json.dumps(rows)), ("one.json", lambda rows: json.dumps(rows[0])),
     ("lines.json", lambda rows: "\n".join(map(json.dumps, rows))),
     ("rows.ndjson", lambda rows: "\n".join(map(json.dumps, rows))),
     ("rows.jsonl", lambda rows: "\r\n".join(map(json.dumps, rows))),
     ("list.jsonl", lambda rows: json.dumps(rows)),
     ("indented.jsonl", lambda rows: json.dumps(rows[0], indent=2))],
)  # fmt: skip
def test_json_is_read_as_json_whatever_its_layout(subject, tmp_path, name, write):
    rows = [{"text": " ".join(WORDS * 8)}] * 3
    (tmp_path / name).write_text(write(rows), encoding="utf-8")
    (tmp_path / "plain.txt").write_text(rows[0]["text"], encoding="utf-8")
    plain = scanned(subject, tmp_path / "plain.txt", bos="without")
    found = scanned(subject, tmp_path / name, bos="without")
    tokens = {int(t) for t in plain.input_ids.unique()}
    assert {int(t) for t in found.input_ids.unique()} <= tokens  # no brace, no name of a field


def test_a_mark_of_byte_order_is_no_token(subject, tmp_path):
    text = " ".join(WORDS * 8)
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    (tmp_path / "b.txt").write_text(text, encoding="utf-8-sig")
    one, other = (scanned(subject, tmp_path / name) for name in ("a.txt", "b.txt"))
    assert torch.equal(one.input_ids, other.input_ids)


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.jsonl.gz", "a.pdf"])
def test_what_is_no_plain_text_is_refused(subject, tmp_path, name):
    (tmp_path / name).write_text("text\nthe of", encoding="utf-8")
    with pytest.raises(InputError, match="is no plain text; --text wants"):
        scanned(subject, tmp_path / name)


def test_a_line_in_another_layout_is_told_by_its_fields(subject, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"conversations": [], "id": 3}')
    with pytest.raises(InputError, match='line 1, has no "text" field, only conversations, id'):
        scanned(subject, tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [("a.txt", " ".join(WORDS).encode("utf-32"), "text in UTF-32, not UTF-8"),
     ("a.txt", " ".join(WORDS).encode("utf-16-le"), "full of NUL, as UTF-16"),
     ("a.txt", " ".join(WORDS).encode("utf-16"), "text in UTF-16, not UTF-8"),
     ("a.jsonl", b"\x1f\x8b\x08", "packed by gzip, not UTF-8"),
     ("a.txt", b"PAR1\x15\x04\x95\xff", "a Parquet file"),
     ("a.txt", b"PK\x03\x04 the", "an archive"),
     ("a.txt", b"GGUF\x03" + bytes(7), "not UTF-8 text: a GGUF file"),
     ("a.txt", b'{"text": "the"}\n\n{"text": "of"}\n', "an object of JSON a line: name it .jsonl"),
     ("a.ipynb", b'{\n "cells": [{"source": ["the of"]}]\n}', "holds JSON: name it .json"),
     ("a.jsonl", b'{"text": "the of"}\n{"text": null}', "line 2: its text is null, no string"),
     ("a.json", b'{"text": ["the of"]}', r'entry 1: its text is \["the of"\], no string'),
     ("a.jsonl", b'"the of"\n"the of"', "line 1, is no object with a field"),
     ("a.jsonl", b'{"prompt": "the"}\n', r'no "text" field, only prompt\.$')],
)  # fmt: skip
def test_a_file_that_is_something_else_is_told_as_what_it_is(tmp_path, name, content, match):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=match):
        read_documents(str(tmp_path / name))
    with pytest.raises(InputError, match="is a folder; --text wants a file"):
        read_documents(str(tmp_path))


@pytest.mark.parametrize("text", ["GGUF is a file format.", "BZh, the of", "PAR1 the of PAR1"])
def test_a_text_may_begin_as_another_file_does(tmp_path, text):
    (tmp_path / "a.txt").write_text(text)
    assert read_documents(str(tmp_path / "a.txt"))[0] == [text]


def test_a_text_that_the_tokenizer_does_not_know_is_said(subject, tmp_path):
    known, unknown = tmp_path / "known.txt", tmp_path / "unknown.txt"
    known.write_text(" ".join(WORDS * 8))
    unknown.write_text(" ".join([*WORDS, *["xyzzy"] * 20] * 8))
    told = [" ".join(scanned(subject, file).notes) for file in (known, unknown)]
    assert "<unk>" not in told[0]
    assert "% of the tokens are '<unk>': the tokenizer does not know" in told[1]
    subject.tokenizer.unk_token = ""  # its id is looked up for ever
    assert "<unk>" not in " ".join(scanned(subject, known).notes)


def test_a_tokenizer_whose_files_do_not_belong_together_is_said(subject, tmp_path, monkeypatch):
    file = tmp_path / "a.txt"
    file.write_text(" ".join(WORDS * 8))
    assert "do not belong together" not in " ".join(scanned(subject, file).notes)
    monkeypatch.setattr(subject.tokenizer, "decode", lambda ids, **more: "aaaa " * len(ids))
    assert "its files do not belong together" in " ".join(scanned(subject, file).notes)


def test_a_chat_whose_special_tokens_are_most_of_it_is_given_back(subject, tmp_path):
    turn = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    subject.tokenizer.add_special_tokens({"additional_special_tokens": turn})
    subject.tokenizer.chat_template = (
        "<s>{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>"
        "{{ m.content }}<|eot_id|>{% endfor %}"
    )
    file = tmp_path / "chat.jsonl"
    chat = [{"role": "the", "content": word} for word in WORDS[:8]]
    file.write_text(json.dumps({"messages": chat}))
    notes = scanned(subject, file, chat_template=True).notes
    assert "do not belong together" not in " ".join(notes)


def test_a_tokenizer_that_is_larger_than_the_model_is_said(subject, text_file):
    assert "may be another model's" not in " ".join(scanned(subject, text_file).notes)
    subject.tokenizer = word_tokenizer(300)
    assert "knows 300 tokens and the model 128" in " ".join(scanned(subject, text_file).notes)


def test_a_chat_template_over_what_is_no_chat_is_refused(subject, text_file):
    subject.tokenizer.chat_template = "{{ messages }}"
    with pytest.raises(InputError, match=r"--chat-template: .* holds no chats"):
        build_prompts(subject, text=str(text_file), chat_template=True, length=16)
    with pytest.raises(InputError, match=r"--chat-template renders chats .* prompts are random"):
        build_prompts(subject, kind="random", chat_template=True, length=16)


def test_rows_beyond_the_memory_there_is_are_refused_before_they_are_drawn(subject, monkeypatch):
    subject.model.config.max_position_embeddings = 10**12
    monkeypatch.setattr("sinkscope.subject.memory.available", lambda: 10**9)
    monkeypatch.setattr("torch.randint", None)
    with pytest.raises(OutOfResources, match=r"2 × 100,000,000 tokens need at least .* GB"):
        build_prompts(subject, kind="random", n=2, length=10**8)


def test_a_text_that_cannot_be_read_is_told(subject):
    with pytest.raises(InputError, match="/proc/self/mem cannot be read: "):
        scanned(subject, "/proc/self/mem")


def test_numbers_beyond_64_bits_are_refused():
    with pytest.raises(InputError, match="seed is a whole number beyond 64 bits"):
        ScanSettings(seed=10**30)


def test_a_template_that_does_not_end_is_refused(subject, tmp_path, monkeypatch):
    monkeypatch.setattr("sinkscope.subject.documents.RENDERING", 0.2)
    loop = "{% for i in range(99999) %}"
    subject.tokenizer.chat_template = f"{loop}{loop}{{% endfor %}}{{% endfor %}}"
    (tmp_path / "a.jsonl").write_text('{"messages": [{"role": "user", "content": "the"}]}')
    with pytest.raises(InputError, match=r"the chat template refuses it .it does not end within"):
        scanned(subject, tmp_path / "a.jsonl", chat_template=True)


def test_a_pipe_is_told_as_such(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in (tmp_path / "pipe", "/dev/null"):
        with pytest.raises(InputError, match="is a pipe or a device"):
            read_documents(str(name))
