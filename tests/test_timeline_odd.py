"""Checkpoints that do not go with the others of their run: rows that say why, or remarks."""

from __future__ import annotations

import shutil

import pytest
import torch
from transformers import LlamaForCausalLM

from sinkscope.errors import InputError
from sinkscope.subject.tiny import tiny_config, tiny_model
from sinkscope.training_runs.timeline import timeline
from tests.test_folders import rename

ASKED = {"kind": "random", "n": 2, "length": 16, "untrained": False}


@pytest.fixture
def run(tmp_path):
    """Three checkpoints of one training."""
    for step in (1, 2, 3):
        tiny_model("llama", seed=step).save_pretrained(tmp_path / "run" / f"step{step}")
    return tmp_path / "run"


def followed(run, **changes):
    [row] = timeline(
        run, cache=run.parent / "cache", **ASKED, **changes
    ).summary.timeline.runs.values()
    return row


def shallow(place):
    config = tiny_config("llama")
    config.num_hidden_layers = 2
    LlamaForCausalLM(config).save_pretrained(place)


def other_family(place):
    tiny_model("gpt2").save_pretrained(place)


@pytest.mark.parametrize(
    ("make", "first_blocks", "kind"),
    [(other_family, "all", "a GPT2LMHeadModel of 4"), (other_family, 1, "a GPT2LMHeadModel of 4"),
     (shallow, "all", "a LlamaForCausalLM of 2 blocks"),
     (shallow, 1, "a LlamaForCausalLM of 2 blocks")],
)  # fmt: skip
def test_a_checkpoint_of_another_model_is_no_point_of_the_curve(run, make, first_blocks, kind):
    shutil.rmtree(run / "step2")
    make(run / "step2")
    found = followed(run, first_blocks=first_blocks)
    assert found.steps == [1, 3]
    assert kind in found.broken["step2"]
    assert "not of one training" in found.broken["step2"]


def test_what_is_said_of_one_checkpoint_is_said_of_that_one(run):
    rename(run / "step2", lambda held: {**held, "v_head.weight": torch.ones(1, 64)})
    for _ in range(2):  # measured, and read back
        notes = followed(run, first_blocks="all").notes
        assert (
            "1 of 3 checkpoints (step2): 1 tensor of its files is not used, such as v_head.weight."
            in notes
        )
    for step in ("step1", "step3"):
        rename(run / step, lambda held: {**held, "v_head.weight": torch.ones(1, 64)})
    notes = followed(run, first_blocks="all").notes
    assert "1 tensor of its files is not used, such as v_head.weight." in notes
    assert not any("of 3 checkpoints" in note for note in notes)


def test_checkpoints_that_are_the_same_are_said(run):
    shutil.rmtree(run / "step3")
    shutil.copytree(run / "step2", run / "step3")
    told = "1 of 3 checkpoints (step3): What is looked at there is the same as in step2."
    assert told in followed(run).notes


def test_one_checkpoint_that_is_left_is_no_timeline(run):
    for step in ("step1", "step2"):
        (run / step / "model.safetensors").write_bytes(b"x")
    with pytest.raises(InputError, match=r"only step3 of 3 checkpoints of run .* step1: .*step2: "):
        followed(run)


def test_what_is_said_is_said_of_a_checkpoint_by_whatever_name(run):
    """A name may be a word of what is said of it."""
    for step, name in (("step1", "of"), ("step2", "its"), ("step3", "tensor")):
        (run / step).rename(run / name)
    for name in ("of", "its"):
        rename(run / name, lambda held: {**held, "v_head.weight": torch.ones(1, 64)})
    [row] = timeline(
        [run / name for name in ("of", "its", "tensor")], cache=run.parent / "cache", **ASKED
    ).summary.timeline.runs.values()
    said = "1 tensor of its files is not used, such as v_head.weight."
    assert [note for note in row.notes if "v_head" in note] == [
        f"2 of 3 checkpoints (of, its): {said}"
    ]


def test_a_cache_that_cannot_be_one_is_no_fault_of_the_checkpoints(run, tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(InputError, match=r"^Cannot write to .*cache"):
        timeline(run, kind="random", n=2, length=16, cache=tmp_path / "cache")
