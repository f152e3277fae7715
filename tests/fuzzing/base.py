"""The sound inputs that are mutated: models, texts, a result, checkpoints, an experiment."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import pytest
import yaml

from sinkscope.cli import main
from sinkscope.lab.recipe import TrainingRecipe
from sinkscope.subject.tiny import tiny_model
from tests.conftest import WORDS, word_tokenizer

QUICK = ("--n", "2", "--length", "16", "--offline", "--no-untrained")
FAMILIES = ("llama", "gpt2", "mixtral")
RECIPE = {
    "data": "bigram-backcopy", "vocabulary": 40, "blocks": 1, "width": 16, "heads": 2, "hidden": 16,
    "context": 16, "lengths": [16], "tokens_per_step": 64, "steps": 3, "warmup": 2,
}  # fmt: skip
EXPERIMENT = {
    "question": "q", "source": "s", "differs": "d", "evaluate": ["with"], "control": "plain",
    "cells": {"plain": {}, "first": {"bos": True}},
    "sizes": {"smoke": {"seeds": 1, "windows": 4, "length": 8, "every": 3, "base": RECIPE}},
    "published": [{"cell": "first", "bos": "with", "sink_rate": 12.5, "mark": "[S]"}],
    "signs": [{"cell": "first", "than": "plain", "figure": "loss", "expected": "lower",
               "says": "2.7 to 2.5", "mark": "[S]"}],
}  # fmt: skip
assert set(RECIPE) <= set(TrainingRecipe.__dataclass_fields__)


def make_base(folder: Path) -> Path:
    """Everything that a case may mutate, in one folder."""
    folder.mkdir(parents=True)
    for family in FAMILIES:
        tiny_model(family).save_pretrained(folder / family)
        word_tokenizer(100).save_pretrained(folder / family)
    (folder / "text.txt").write_text(" ".join(WORDS * 40), encoding="utf-8")
    rows = [json.dumps({"text": " ".join(WORDS * 8)}) for _ in range(3)]
    (folder / "text.jsonl").write_text("\n".join(rows), encoding="utf-8")
    for step in (1, 2, 3):
        tiny_model("llama", seed=step).save_pretrained(folder / "series" / f"step{step}")
    log = [json.dumps({"step": step, "loss": 3.0 / step}) for step in (1, 2, 3)]
    (folder / "series" / "log.jsonl").write_text("\n".join(log))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    (folder / "experiment.yaml").write_text(yaml.safe_dump(EXPERIMENT))
    _run("scan", folder / "llama", "--prompts", "random", *QUICK, "--out", folder / "result")
    _run("lab", "run", folder / "experiment.yaml", "--out", folder / "study")
    return folder


def _run(*arguments: object) -> None:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit) as ended:
        main([str(each) for each in arguments])
    assert not ended.value.code, arguments
