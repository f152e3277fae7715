"""The first blocks alone are the first blocks of the whole, bit for bit."""

from __future__ import annotations

import io
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from sinkscope.errors import InputError, OutOfResources, Unsupported
from sinkscope.observe.attention import observe
from sinkscope.observe.p0_stream import p0_states
from sinkscope.observe.reads import Want
from sinkscope.observe.residual import residual_hooks
from sinkscope.subject.load import load
from sinkscope.subject.plan import plan_blocks
from sinkscope.subject.prompts import Prompts
from sinkscope.subject.tiny import tiny_model
from sinkscope.training_runs.partial import first_blocks, load_first_blocks
from sinkscope.training_runs.tensors import copy_tensors, hash_tensors

# a plain one, one without RoPE, two with experts, learned sinks, windows, and one that scales its
# residual stream by the number of blocks
FAMILIES = ["llama", "gpt2", "mixtral", "olmoe", "gpt_oss", "gemma3_text", "gpt_neox", "minicpm3"]
FAMILIES += ["opt", "qwen3", "olmo2", "bert", "bart"]
K = 2


def _prompts(ids):
    return Prompts(ids, torch.full((len(ids),), ids.shape[1]), "ids", "without")


def _look(subject, ids, blocks):
    points = {}

    def keep(point, hidden):
        points[point] = hidden.clone()

    reads, _, _ = observe(
        subject, _prompts(ids), Want(received=True), extra_hooks=residual_hooks(subject, keep)
    )
    return torch.stack([points[i] for i in range(blocks + 1)]), reads[:blocks]


@pytest.mark.parametrize("family", FAMILIES)
def test_first_blocks_equal_those_of_the_whole(family, tmp_path, ids):
    tiny_model(family).save_pretrained(tmp_path)
    whole, part = load(tmp_path), load_first_blocks(tmp_path, K)
    assert len(part.anatomy.blocks) == K
    assert part.identity["parameters"] == whole.identity["parameters"]
    assert part.identity["architecture"] == whole.identity["architecture"]
    expected, expected_reads = _look(whole, ids, K)
    states, reads = _look(part, ids, K)
    assert torch.equal(states, expected)
    assert [b.layer_type for b in part.anatomy.blocks] == [
        b.layer_type for b in whole.anatomy.blocks[:K]
    ]
    for mine, theirs in zip(reads, expected_reads, strict=True):
        assert torch.equal(mine.p0, theirs.p0)
        assert torch.equal(mine.received, theirs.received)
    assert torch.equal(p0_states(part, ids[:, 0]), p0_states(whole, ids[:, 0])[:, : K + 1])


@pytest.mark.parametrize("family", ["zamba2", "hrm_text"])
def test_families_whose_blocks_do_not_stand_alone(family, tmp_path):
    tiny_model(family).save_pretrained(tmp_path)
    with pytest.raises(Unsupported, match="load all"):
        load_first_blocks(tmp_path, K)


def test_view_of_a_whole_model_is_taken_back(llama, ids):
    before = llama.model(ids).logits
    expected, _ = _look(llama, ids, K)
    with first_blocks(llama, K) as part:
        states, _ = _look(part, ids, K)
    assert torch.equal(states, expected)
    with pytest.raises(ZeroDivisionError), first_blocks(llama, K):
        _ = 1 / 0
    assert torch.equal(llama.model(ids).logits, before)
    assert len(llama.anatomy.blocks) == 4


def test_sharded_folder(tmp_path, ids):
    model = tiny_model("llama")
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    states, _ = _look(load_first_blocks(tmp_path, 1), ids, 1)
    assert torch.equal(states, _look(load(tmp_path), ids, 1)[0])


def test_hash_sees_what_is_loaded_and_nothing_else(tmp_path):
    model = tiny_model("llama")
    model.save_pretrained(tmp_path)
    first = load_first_blocks(tmp_path, K).identity["weights_sha256"]
    with torch.no_grad():
        model.model.layers[3].mlp.up_proj.weight[0, 0] += 1
    model.save_pretrained(tmp_path)
    assert load_first_blocks(tmp_path, K).identity["weights_sha256"] == first
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] += 1
    model.save_pretrained(tmp_path)
    assert load_first_blocks(tmp_path, K).identity["weights_sha256"] != first


def test_the_head_is_not_needed(tmp_path):
    model = tiny_model("llama")
    model.save_pretrained(tmp_path)
    plan = plan_blocks(model.config, K)
    untied = not model.config.tie_word_embeddings
    assert untied
    assert not plan.keeps("lm_head.weight")
    assert plan.keeps("model.embed_tokens.weight")
    assert plan.keeps("model.layers.1.mlp.up_proj.weight")
    assert not plan.keeps("model.layers.2.mlp.up_proj.weight")
    assert plan.keeps("model.norm.weight")


def test_ranges_of_a_file(tmp_path):
    tensors = {
        "a": torch.arange(6.0).reshape(2, 3),
        "b": torch.ones(5, dtype=torch.bfloat16),
        "c": torch.arange(4),
        "d": torch.zeros(3),
    }
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    content = (tmp_path / "model.safetensors").read_bytes()

    class Counting(io.BytesIO):
        read_bytes = 0

        def read(self, size=-1):
            block = super().read(size)
            self.read_bytes += len(block)
            return block

    source, part = Counting(content), tmp_path / "part" / "model.safetensors"
    part.parent.mkdir()
    copied = copy_tensors(source, part, {"a", "d"}.__contains__)
    assert copied == 24 + 12
    assert source.read_bytes == copied + len(content) - sum(t.nbytes for t in tensors.values())
    loaded = load_file(part)
    assert sorted(loaded) == ["a", "d"]
    assert torch.equal(loaded["a"], tensors["a"])
    assert hash_tensors(part.parent, lambda name: True) == hash_tensors(
        tmp_path, {"a", "d"}.__contains__
    )


@pytest.mark.parametrize("damage", [b"", b"\x08", b"\x08\0\0\0\0\0\0\0not json"])
def test_damaged_file(tmp_path, damage):
    with pytest.raises(InputError, match="corrupt"):
        copy_tensors(io.BytesIO(damage), tmp_path / "out", lambda name: True)


def test_short_file(tmp_path):
    header = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    content = len(header).to_bytes(8, "little") + header + b"\0" * 4
    with pytest.raises(InputError, match="cut short"):
        copy_tensors(io.BytesIO(content), tmp_path / "out", lambda name: True)


def test_hub_checkpoint_comes_by_ranges(tmp_path, ids):
    from fsspec.implementations.dirfs import DirFileSystem
    from fsspec.implementations.local import LocalFileSystem

    from sinkscope.training_runs.checkpoint import Checkpoint
    from sinkscope.training_runs.hub import fetch_first_blocks

    hub, here = tmp_path / "hub", tmp_path / "here"
    place = hub / "org/name@c0ffee/step-10"
    tiny_model("llama").save_pretrained(place, max_shard_size="40KB")
    one = Checkpoint("step-10", 10, "org/name", "c0ffee", "step-10")
    fs = DirFileSystem(hub, LocalFileSystem())
    with pytest.raises(OutOfResources, match="--disk-budget"):
        fetch_first_blocks(one, 1, here, 1000, fs=fs)
    assert not list(here.glob("*.safetensors"))
    fetch_first_blocks(one, 1, here, 10**7, fs=fs)
    got = sum(f.stat().st_size for f in here.glob("*.safetensors"))
    assert got < 0.6 * sum(f.stat().st_size for f in place.glob("*.safetensors"))
    states, _ = _look(load_first_blocks(here, 1), ids, 1)
    assert torch.equal(states, _look(load(place), ids, 1)[0])
    for file in place.glob("*.safetensors"):
        file.unlink()
    (place / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(InputError, match="only pickle"):
        fetch_first_blocks(one, 1, tmp_path / "again", fs=fs)
