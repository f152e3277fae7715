"""The sound inputs that are mutated: models, texts, a result, checkpoints, an experiment."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from sinkscope.cli import main
from sinkscope.lab.recipe import TrainingRecipe
from sinkscope.subject.tiny import tiny_model
from tests.conftest import WORDS, word_tokenizer

QUICK = ("--n", "2", "--length", "16", "--offline", "--no-untrained")
FAMILIES = ("llama", "gpt2", "mixtral")
TEMPLATE = (
    "{% for message in messages %}{{ bos_token if loop.first }}{{ message['content'] }}{% endfor %}"
)
ADAPTER = {
    "peft_type": "LORA", "base_model_name_or_path": "../llama", "r": 2, "lora_alpha": 4,
    "target_modules": ["q_proj"], "alpha_pattern": {"q_proj": 3}, "use_rslora": False,
    "use_dora": False, "init_lora_weights": True, "modules_to_save": None,
}  # fmt: skip
RECIPE = {
    "data": "bigram-backcopy", "vocabulary": 40, "blocks": 1, "width": 16, "heads": 2, "hidden": 16,
    "context": 16, "seed": 0, "lengths": [16], "tokens_per_step": 64, "steps": 3, "warmup": 2,
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
    _further(folder)
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


def _further(folder: Path) -> None:
    """An adapter, shards, chats and a GGUF file, where the package for it is installed."""
    tiny_model("llama").save_pretrained(folder / "shards", max_shard_size="150KB")
    word_tokenizer(100).save_pretrained(folder / "shards")
    tokenizer = word_tokenizer(100)
    tokenizer.chat_template = TEMPLATE
    tiny_model("llama").save_pretrained(folder / "chat")
    tokenizer.save_pretrained(folder / "chat")
    turns = [{"role": "user", "content": " ".join(WORDS * 2)}] * 2
    (folder / "chat.jsonl").write_text("\n".join([json.dumps({"messages": turns})] * 2))
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(ADAPTER))
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    low = {f"{key}A.weight": torch.ones(2, 64), f"{key}B.weight": torch.ones(64, 2)}
    save_file(low, folder / "adapter" / "adapter_model.safetensors")
    with contextlib.suppress(pytest.skip.Exception):
        from tests.test_gguf import write_gguf

        (folder / "packed").mkdir()
        write_gguf(folder / "packed" / "model.gguf")


def _run(*arguments: object) -> None:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit) as ended:
        main([str(each) for each in arguments])
    assert not ended.value.code, arguments
