"""What a Python program hands over: models, settings, prompts; and what it has set in torch."""

from __future__ import annotations

import contextlib
import dataclasses

import numpy as np
import pytest
import torch

import sinkscope
from sinkscope.errors import InputError
from sinkscope.settings import MixSettings, TimelineSettings, VerifySettings
from sinkscope.subject.load import Subject, load
from sinkscope.subject.tiny import tiny_model


def test_blocks_of_several_dtypes_are_told_as_such():
    model = tiny_model("llama")
    model.model.layers[1].to(torch.bfloat16)
    with pytest.raises(InputError, match=r"several dtypes \(bfloat16, float32\).*model.to"):
        Subject.from_model(model)


def test_a_model_in_double_precision_is_told():
    with pytest.raises(InputError, match="takes the softmax in float32 all the same"):
        Subject.from_model(tiny_model("llama").double())


@contextlib.contextmanager
def default(setting, value, before):
    setting(value)
    try:
        yield
    finally:
        setting(before)


@pytest.mark.parametrize(
    "around",
    [
        lambda: default(torch.set_default_dtype, torch.float64, torch.float32),
        lambda: default(torch.set_default_device, "meta", None),
        lambda: torch.device("meta"),
        lambda: torch.autocast("cpu", torch.bfloat16),
    ],
)
def test_what_a_program_has_set_in_torch_changes_no_number(llama, around):
    few = {"n": 3, "length": 16, "kind": "random", "untrained": False}
    plain = sinkscope.scan(llama, **few).data["scan/without"]["p0_late"].values
    with around():
        dtype, device = torch.get_default_dtype(), torch.get_default_device()
        held = sinkscope.scan(llama, **few).data["scan/without"]["p0_late"].values
        assert (torch.get_default_dtype(), torch.get_default_device()) == (dtype, device)
    assert (plain == held).all()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"n": "3"}, "n is '3'; a whole number is expected"),
        ({"length": 16.0}, "length is 16.0; a whole number"),
        ({"n": True}, "n is True; a whole number"),
        ({"seed": None}, "seed is None; a whole number"),
        ({"text": ["a b"]}, "text is .*; a text"),
        ({"untrained": "no"}, "untrained is 'no'; True or False"),
        ({"reader": 3}, "reader is 3; a text"),
    ],
)
def test_a_setting_of_another_type_is_told(llama, changes, said):
    with pytest.raises(InputError, match=said):
        sinkscope.scan(llama, **{"n": 3, "length": 16, "kind": "random", **changes})


def test_settings_of_other_commands_are_checked_too():
    with pytest.raises(InputError, match=r"budget is nan; a number or None"):
        VerifySettings(budget=float("nan"))
    with pytest.raises(InputError, match="swaps is 'nearest'; a tuple of texts"):
        MixSettings(swaps="nearest")
    with pytest.raises(InputError, match="neither auto, all nor a number"):
        TimelineSettings(first_blocks=0)
    assert MixSettings(swaps=["nearest"]).swaps == ("nearest",)


def test_numbers_of_numpy_and_paths_are_saved_as_plain_ones(folder, text_file, tmp_path):
    asked = {"n": np.int64(3), "length": np.int32(16), "text": text_file, "untrained": False}
    result = sinkscope.scan(load(folder), **asked)
    result.save(tmp_path / "out")
    assert sinkscope.load_result(tmp_path / "out").summary.command["n"] == 3


def test_prompts_that_do_not_fit_are_told(llama):
    prompts = sinkscope.build_prompts(llama, kind="random", n=3, length=16)
    with pytest.raises(InputError, match=r"attention_mask is \[3, 9\], and input_ids \[3, 16\]"):
        dataclasses.replace(prompts, attention_mask=torch.ones(3, 9))
    other = dataclasses.replace(prompts, input_ids=prompts.input_ids + 200)
    with pytest.raises(InputError, match="outside the model's vocabulary"):
        sinkscope.scan(llama, prompts=other)
    for ids in ([3, 4, 5], [[3.5, 4.5]], 7):
        with pytest.raises(InputError, match="a list of lists of whole numbers"):
            sinkscope.build_prompts(llama, kind="ids", ids=ids)
    rows = torch.randint(3, 90, (2, 16))
    assert torch.equal(sinkscope.build_prompts(llama, kind="ids", ids=rows).input_ids, rows)


@pytest.mark.parametrize("command", ["verify", "mix"])
def test_a_loss_wants_a_head_over_the_vocabulary(folder, text_file, command):
    subject = load(folder)
    bare = Subject.from_model(subject.model.model, subject.tokenizer)
    asked = {"text": str(text_file), "n": 8, "length": 32}
    for read in ("scan", "trace"):
        getattr(sinkscope, read)(bare, **asked, untrained=False)
    with pytest.raises(InputError, match="LlamaModel has no head over the vocabulary"):
        getattr(sinkscope, command)(bare, **asked)


def test_a_printed_object_says_in_a_line_what_it_holds(llama):
    """Not every weight, id and token: this is what a notebook shows."""
    prompts = sinkscope.build_prompts(llama, kind="random", n=3, length=24)
    assert repr(prompts) == "<sinkscope.Prompts: 3 of 24 tokens, random, without BOS>"
    said = repr(Subject.from_model(llama.model, llama.tokenizer, "mine"))
    blocks = len(llama.anatomy.blocks)
    assert said == (f"<sinkscope.Subject mine: LlamaForCausalLM, {blocks} blocks, float32 on cpu>")
    found = sinkscope.find_circuit(llama, prompts, untrained=False)
    assert repr(found).startswith("<sinkscope Circuit without BOS: emerges ")
    assert repr(sinkscope.SinkMonitor(llama.model, prompts=prompts.input_ids)) == (
        "SinkMonitor(every=100, first_blocks=None, metrics=None, on_alarm=None, seed=0)"
    )
