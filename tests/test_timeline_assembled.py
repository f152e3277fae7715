"""Checkpoints that are no model folder yet: shards of torch.distributed, weights without config."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file

import sinkscope
from sinkscope.errors import InputError
from sinkscope.subject.memory import refuse_too_large
from sinkscope.subject.tiny import tiny_model
from sinkscope.training_runs.assembled import _read_index, assembled, needs_assembly

FEW = {"n": 2, "length": 16, "untrained": False, "kind": "random"}
SHARDS = "pytorch_model_fsdp_0"


def shards(folder, seed=0, prefix="model.", **more):
    """A model as torch.distributed.checkpoint saves it, beside the state of an optimiser."""
    state = {prefix + name: w for name, w in tiny_model("llama", seed=seed).state_dict().items()}
    dcp.save({**state, "optimizer.step": 3, "optimizer.x": torch.ones(2), **more},
             checkpoint_id=str(folder), no_dist=True)  # fmt: skip
    return folder


def plain(folder, seed):
    tiny_model("llama", seed=seed).save_pretrained(folder)


@pytest.fixture
def run(tmp_path):
    """10 is of FSDP, 20 bare shards, 30 weights alone, 40 a whole model; and all of them whole."""
    run = tmp_path / "run"
    shards(run / "checkpoint-10" / SHARDS, 10)
    shards(run / "checkpoint-10" / "optimizer_0", 1)
    shards(run / "checkpoint-20", 20, prefix="")
    held = {k: v.clone() for k, v in tiny_model("llama", seed=30).state_dict().items()}
    (run / "checkpoint-30").mkdir()
    save_file(held, run / "checkpoint-30" / "model.safetensors", metadata={"format": "pt"})
    plain(run / "checkpoint-40", 40)
    for step in (10, 20, 30, 40):
        plain(tmp_path / "whole" / f"checkpoint-{step}", step)
    return run


@pytest.mark.parametrize("first_blocks", ["auto", "2"])
def test_they_give_what_whole_checkpoints_give(run, tmp_path, first_blocks):
    options = {**FEW, "first_blocks": first_blocks, "cache": tmp_path / "cache"}
    result = sinkscope.timeline(run, **options)
    whole = sinkscope.timeline(run.parent / "whole", **options)
    for name, values in whole.data["timeline/whole"].data_vars.items():
        assert values.identical(result.data["timeline/run"][name]), name
    said = " ".join(result.summary.timeline.runs["run"].notes)
    of_shards = "(checkpoint-10, checkpoint-20): its weights were put together from shards, and its"
    assert f"2 of 4 checkpoints {of_shards} config" in said
    assert "1 of 4 checkpoints (checkpoint-30): its config.json is that of checkpoint-40" in said
    again = sinkscope.timeline(run, **options)  # nothing is measured again, and all is said again
    assert again.summary.timeline == result.summary.timeline


def test_the_configuration_of_the_run_folder_goes_first(run):
    shutil.copy(run / "checkpoint-40" / "config.json", run)
    with assembled(run / "checkpoint-10", None) as folder:
        assert (folder / "config.json").is_file()
    assert not folder.exists()
    shutil.rmtree(run / "checkpoint-40")
    (run / "config.json").unlink()
    assert not needs_assembly(run / "checkpoint-10")  # then it is named with its converter


class Harm:
    def __reduce__(self):
        return os.mkdir, ("harm",)


@pytest.mark.parametrize("content", [pickle.dumps(Harm()), b"", b"junk", pickle.dumps({"a": 1})])
def test_an_index_runs_no_code(run, tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    (run / "checkpoint-10" / SHARDS / ".metadata").write_bytes(content)
    result = sinkscope.timeline(run, cache=tmp_path / "cache", **FEW)
    assert "checkpoint-10" in result.summary.timeline.runs["run"].broken
    assert not Path("harm").exists()


def test_no_name_leads_out_of_the_classes_of_an_index(tmp_path):
    """A dotted name is looked up in what a module has imported."""
    module, name = b"torch.distributed.checkpoint.filesystem", b"os.path.Prefix"
    code = b"".join(b"\x8c" + bytes([len(each)]) + each for each in (module, name))
    (tmp_path / ".metadata").write_bytes(b"\x80\x04" + code + b"\x93.")
    with pytest.raises(InputError, match="no part of an index"):
        _read_index(tmp_path)


def refused(folder, match):
    with pytest.raises(InputError, match=match), assembled(folder, None):
        pass


def test_what_does_not_fit_is_told(run):
    first = run / "checkpoint-10" / SHARDS
    shutil.rmtree(first)
    name = "model.lm_head.weight"
    shards(first, 10, **{name: torch.ones(3, 64)})
    refused(first.parent, r"lm_head.weight is \[3, 64\], where config.json asks for \[128, 64\]")
    (first / "__0_0.distcp").write_bytes((first / "__0_0.distcp").read_bytes()[:2000])
    shutil.rmtree(first)
    shards(first, 10)
    (first / "__0_0.distcp").write_bytes((first / "__0_0.distcp").read_bytes()[:2000])
    refused(first.parent, "its shards cannot be read")
    (first / "__0_0.distcp").rename(first / "other.distcp")
    refused(first.parent, "its shards cannot be read")
    shutil.rmtree(first)
    state = {"model.embed_tokens.weight": torch.ones(128, 64)}
    dcp.save(state, checkpoint_id=str(first), no_dist=True)
    refused(first.parent, "lacks weights of its configuration, such as")


def test_an_index_names_no_other_files(run):
    file = run / "checkpoint-10" / SHARDS / ".metadata"
    index = pickle.loads(file.read_bytes())
    for about in index.storage_data.values():
        about.relative_path = "../../../secret"
    file.write_bytes(pickle.dumps(index))
    refused(run / "checkpoint-10", "names .../../../secret., which is no file beside it")


def test_the_first_blocks_of_a_large_model_are_no_incomplete_model():
    """A download of six blocks of eighty holds a tenth of the parameters."""
    shape = {"hidden_size": 8192, "num_hidden_layers": 80, "vocab_size": 32000}
    config = {**shape, "intermediate_size": 28672}
    held = {f"layers.{i}.w": {"shape": [8192 + 28672, 8192]} for i in range(6)}
    held["embed"] = {"shape": [32000, 8192]}
    refuse_too_large(config, held, None, "a folder", part=6)
    with pytest.raises(InputError, match=r"blocks, and the weights hold 6|lacks weights"):
        refuse_too_large(config, held, None, "a folder")
