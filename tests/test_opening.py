"""What a text says about BOS wins: "with" and "without" mean what stands at position zero."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

import sinkscope
from sinkscope.cli import main
from sinkscope.errors import InputError
from sinkscope.subject.load import Subject, load
from sinkscope.subject.opening import Opening
from sinkscope.subject.prompts import Prompts, build_prompts
from sinkscope.subject.tiny import tiny_model
from tests.conftest import WORDS, word_tokenizer

BODY = " ".join(WORDS[:8] * 4)
TEMPLATE = "{{ bos_token }}{% for m in messages %} {{ m['content'] }}{% endfor %}"


@pytest.fixture
def subject(folder):
    return load(folder)


def test_every_bos_that_a_row_begins_with_is_taken_off():
    assert Opening((3,), "<s>", True, True).without([3, 3, 5, 3]) == [5, 3]
    assert Opening((3, 4), "<s> <t>", True, True).without([3, 4, 3, 7, 4]) == [7, 4]


def puts_first(subject, *tokens):
    """Let the tokenizer put special tokens before every text."""
    ids = [(token, subject.tokenizer.convert_tokens_to_ids(token)) for token in tokens]
    subject.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=" ".join([*tokens, "$A"]), special_tokens=ids
    )
    return [number for _, number in ids]


def lines(path, *entries):
    path.write_text("\n".join(json.dumps(entry) for entry in entries), encoding="utf-8")
    return str(path)


@pytest.fixture
def chat(tmp_path):
    """Ten texts that begin with a literal BOS, as a template leaves them."""
    return lines(tmp_path / "chat.jsonl", *({"text": f"<s> {BODY} w{i}"} for i in range(30, 40)))


def bos_of(prompts, subject):
    return (prompts.input_ids == subject.tokenizer.bos_token_id).sum(1).tolist()


@pytest.mark.parametrize("bos", ["as-is", "with"])
@pytest.mark.parametrize("adds", [True, False])
def test_a_text_with_its_own_bos_has_it_once(subject, chat, bos, adds):
    if adds:
        puts_first(subject, "<s>")
    prompts = build_prompts(subject, text=chat, n=10, length=16, bos=bos)
    assert prompts.bos == "with"
    assert (prompts.input_ids[:, 0] == 0).all()
    assert bos_of(prompts, subject) == [1] * 10
    assert any("10 of 10 documents begin with '<s>' of their own" in n for n in prompts.notes)
    assert prompts.positions[0] == ["'<s>' × 10"]
    assert prompts.positions[1][0].startswith("'")


def test_without_never_stands_over_a_bos(subject, chat):
    puts_first(subject, "<s>")
    prompts = build_prompts(subject, text=chat, n=10, length=16, bos="without")
    assert prompts.bos == "without"
    assert bos_of(prompts, subject) == [0] * 10
    assert any("it was taken off" in note for note in prompts.notes)
    assert int(prompts.lengths.min()) == 16


def test_where_only_some_documents_bring_it_all_rows_are_alike(subject, tmp_path):
    file = lines(tmp_path / "some.jsonl", {"text": f"<s> {BODY}"}, {"text": BODY})
    prompts = build_prompts(subject, text=file, n=2, length=16)
    assert (prompts.bos, bos_of(prompts, subject)) == ("without", [0, 0])
    assert any("1 of 2 documents" in note for note in prompts.notes)
    plain = lines(tmp_path / "plain.jsonl", {"text": BODY}, {"text": BODY})
    assert build_prompts(subject, text=plain, n=2, length=16).notes == []


def test_bos_inside_a_row_is_said_and_is_not_position_zero(subject, tmp_path):
    """A text with BOS before every sentence; a window must not begin with one of them either."""
    sentence = " ".join(["<s>", *WORDS[:3]])
    file = tmp_path / "sentences.txt"
    file.write_text(" ".join([sentence] * 64), encoding="utf-8")
    prompts = build_prompts(subject, text=str(file), n=16, length=16, bos="without")
    assert (prompts.input_ids[:, 0] != 0).all()
    assert min(bos_of(prompts, subject)) >= 3
    [inside] = [note for note in prompts.notes if "also stands inside" in note]
    assert inside.startswith("'<s>' also stands inside 15 of 15 prompts, 4.0 times")
    assert "not position zero" in inside


def test_tokens_that_a_tokenizer_puts_first_stay_together(folder):
    tokenizer = word_tokenizer(100)
    tokenizer.add_special_tokens({"additional_special_tokens": ["w97", "w98"]})
    tokenizer.bos_token = None
    tokenizer.save_pretrained(folder)
    subject = load(folder)
    opening = puts_first(subject, "w97", "w98")
    for bos in ("as-is", "with"):
        prompts = build_prompts(subject, kind="random", n=3, length=12, bos=bos)
        assert prompts.bos == "with"
        assert prompts.input_ids[:, :2].tolist() == [opening] * 3
        assert prompts.length == 12
        assert prompts.positions[:2] == [["'w97' × 3"], ["'w98' × 3"]]
        assert any("'w97' 'w98'" in note for note in prompts.notes)
    bare = build_prompts(subject, kind="random", n=3, length=12, bos="without")
    assert bare.input_ids[:, 0].tolist() != [opening[0]] * 3


def test_a_bos_that_only_the_configuration_names(subject, text_file):
    """As with Qwen: the tokenizer never puts one, so as-is is without, and with is labelled."""
    subject.tokenizer.bos_token = None
    subject.model.config.bos_token_id = 5
    text = str(text_file)
    assert build_prompts(subject, text=text, n=2, length=16).bos == "without"
    prompts = build_prompts(subject, text=text, n=2, length=16, bos="with")
    assert (prompts.input_ids[:, 0] == 5).all()
    assert any("which the configuration names" in note for note in prompts.notes)


def test_drawn_ids_do_not_begin_with_bos_by_chance(subject):
    prompts = build_prompts(subject, kind="random", n=2000, length=2, bos="without")
    assert not (prompts.input_ids[:, 0] == 0).any()


def test_chats_need_to_be_asked_for_and_then_have_one_bos(subject, tmp_path):
    talk = [{"role": "user", "content": BODY}, {"role": "assistant", "content": BODY}]
    file = lines(tmp_path / "talk.jsonl", *[{"messages": talk}] * 4)
    with pytest.raises(InputError, match="line 1, is a chat: --chat-template"):
        build_prompts(subject, text=file, n=4, length=16)
    with pytest.raises(InputError, match="no chat template"):
        build_prompts(subject, text=file, n=4, length=16, chat_template=True)
    subject.tokenizer.chat_template = TEMPLATE
    prompts = build_prompts(subject, text=file, n=4, length=16, chat_template=True)
    assert (prompts.bos, bos_of(prompts, subject)) == ("with", [1] * 4)
    subject.tokenizer.chat_template = "{{ messages[0].nothing.at_all }}"
    with pytest.raises(InputError, match=r"line 1: the chat template refuses it"):
        build_prompts(subject, text=file, n=4, length=16, chat_template=True)


@pytest.mark.parametrize("messages", [[[]], [[{"role": "user", "content": BODY}]], "hello", None])
def test_chats_that_are_no_list_of_turns_are_told(subject, tmp_path, messages):
    """A library would take a list of lists for several chats, and give a list of texts."""
    subject.tokenizer.chat_template = TEMPLATE
    file = lines(tmp_path / "talk.jsonl", {"messages": messages})
    with pytest.raises(InputError, match="line 1: its messages are no list of objects"):
        build_prompts(subject, text=file, n=4, length=16, chat_template=True)


def test_every_command_says_it(subject, chat):
    """Notes and first tokens reach the summary, the terminal and the page."""
    puts_first(subject, "<s>")
    options = {"text": chat, "n": 4, "length": 16}
    result = sinkscope.scan(subject, bos="both", untrained=False, **options)
    told = result.summary.prompts.positions
    assert told["with"][0] == ["'<s>' × 4"]
    assert "'<s>'" not in str(told["without"])
    for bos, words in (("with", "every prompt has it once"), ("without", "it was taken off")):
        assert any(words in note for note in result.summary.scan[bos].notes)
    assert "With BOS, most often at position 0 '<s>' × 4, 1 " in result.table()
    traced = sinkscope.trace(subject, bos="without", vocabulary=False, untrained=False, **options)
    assert any("it was taken off" in note for note in traced.summary.trace["without"].notes)
    merged = result.merge(traced)
    assert set(merged.summary.prompts.positions) == {"with", "without"}


@pytest.mark.parametrize("many", [0, 1])
def test_short_documents_are_used_or_told(subject, tmp_path, many):
    """99 texts of 20 tokens; with one long text among them they do not vanish."""
    short = [{"text": " ".join(WORDS[:10] * 2)}] * 99
    long = [{"text": " ".join(WORDS[:10] * 7)}] * many
    file = lines(tmp_path / "chats.jsonl", *short, *long)
    prompts = build_prompts(subject, text=file, n=64, length=64)
    assert sorted(prompts.lengths.tolist()) == [20] * (64 - many) + [64] * many
    said = " ".join(prompts.notes)
    assert f"{64 - many} of 64 prompts are whole documents shorter than 64 tokens (20 " in said
    assert f"{35 + many} of {99 + many} documents are too short for a prompt of 64 tokens" in said
    alone = lines(tmp_path / "one.jsonl", *short[:1])
    said = " ".join(build_prompts(subject, text=alone, n=1, length=64).notes)
    assert "The prompt is a whole document shorter than 64 tokens (20 tokens of text)." in said


def test_fewer_prompts_than_asked_is_said_by_every_command(subject, jsonl_file):
    prompts = build_prompts(subject, text=str(jsonl_file), n=500, length=16)
    assert f"The text gave {len(prompts)} prompts, not 500." in prompts.notes
    verified = sinkscope.mix(subject, prompts=prompts.take(slice(0, 4)), n=4, circuit=False)
    assert any("not 500" in note for note in verified.summary.mix["without"].notes)


def test_one_short_sentence_decides_nothing(tmp_path):
    """Six tokens under an untrained GPT-2 may look like a sink; uniform is shown beside it."""
    tiny_model("gpt2").save_pretrained(tmp_path)
    word_tokenizer(100).save_pretrained(tmp_path)
    file = tmp_path / "one.txt"
    file.write_text("the sink of head block key")
    result = sinkscope.scan(load(tmp_path), text=str(file), untrained=False)
    scan = result.summary.scan["without"]
    assert scan.p0_sink is None
    assert (scan.late_share.low, scan.late_share.high) == (None, None)
    assert scan.null["uniform_alpha"] == pytest.approx(0.4083, abs=1e-4)
    assert any("One prompt only, of 6 tokens" in note for note in scan.notes)
    text = " ".join(result.table().split())
    assert "cannot say whether position zero is a sink" in text
    assert "heads are sinks" not in text


@pytest.mark.parametrize("family", ["llama", "lfm2"])
def test_a_row_padded_on_the_left_begins_at_its_first_visible_token(family):
    """Padded with eos, with a real eos first: P0 is that one; the row reads as it does alone."""
    subject = Subject.from_model(tiny_model(family))
    eos = 1
    row = torch.tensor([[eos, *range(20, 43)]])
    padded = torch.cat([torch.full((1, 8), eos), row], 1)
    mask = (torch.arange(32) >= 8).long().unsqueeze(0)
    whole = torch.arange(40, 72).unsqueeze(0)
    both = Prompts(
        torch.cat([padded, whole]), torch.tensor([32, 32]), "ids", "without",
        attention_mask=torch.cat([mask, torch.ones_like(mask)]),
    )  # fmt: skip
    alone = Prompts(row, torch.tensor([24]), "ids", "without")
    found = [sinkscope.scan(subject, prompts=p, n=2, untrained=False) for p in (both, alone)]
    assert found[0].summary.prompts.positions["without"][0] == ["'1' × 1", "'40' × 1"]
    leaks = any("padding on the left" in n for n in found[0].summary.scan["without"].notes)
    assert leaks == (family == "lfm2")
    if family == "llama":
        shares = [one.data["scan/without"]["p0_late"].values[0] for one in found]
        np.testing.assert_allclose(*shares, atol=1e-6)


def test_a_tokenizer_of_other_letters_puts_its_bos_first_all_the_same(folder, tmp_path):
    """Of bases and amino acids, say, which makes no token of "a"."""
    core = Tokenizer(models.BPE({"<s>": 0, "</s>": 1, "A": 2, "C": 3, "G": 4, "T": 5}, []))
    core.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
    text = tmp_path / "bases.txt"
    text.write_text("ACGGTTCA" * 40)
    prompts = build_prompts(load(folder), text=str(text), n=4, length=16)
    assert prompts.bos == "with"
    assert prompts.input_ids[:, 0].tolist() == [0] * 4


def test_position_zero_that_no_late_query_sees_is_not_called_no_sink(tmp_path, text_file, capsys):
    model = tiny_model("mistral")
    assert model.config.sliding_window == 8
    model.save_pretrained(tmp_path / "model")
    word_tokenizer(100).save_pretrained(tmp_path / "model")
    subject = load(tmp_path / "model")
    for command in ("scan", "trace"):
        found = getattr(sinkscope, command)(subject, text=str(text_file), n=2, length=64)
        assert getattr(found.summary, command)["without"].p0_sink is None
    asked = ("--text", str(text_file), "--n", "2", "--length", "64", "--expect", "no-sink")
    with pytest.raises(SystemExit) as ended:
        main(["scan", str(tmp_path / "model"), *asked])
    assert ended.value.code == 1
    assert "found undecided" in capsys.readouterr().err
