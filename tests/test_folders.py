"""Model folders as people have them: used, told in a note, or refused with the reason."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import sinkscope
from sinkscope.errors import InputError
from sinkscope.subject.load import load
from sinkscope.subject.tiny import tiny_model
from sinkscope.training_runs.partial import load_first_blocks


def rename(folder, change):
    """Rewrite the tensors of a folder."""
    file = folder / "model.safetensors"
    save_file(change(dict(load_file(file))), file, metadata={"format": "pt"})


def configure(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def both_ways(folder):
    """A folder loaded whole, and its first two blocks alone, as `timeline` does."""
    return load(folder), load_first_blocks(folder, 2)


def refused(folder, match, kind=InputError):
    for way in (load, lambda path: load_first_blocks(path, 2)):
        with pytest.raises(kind, match=match) as caught:
            way(folder)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("prefix", "infix"),
    [("module.", ""), ("_orig_mod.", ""), ("base_model.model.", ""), ("module._orig_mod.", ""),
     ("anything.", ""), ("", "_fsdp_wrapped_module."), ("module.", "_checkpoint_wrapped_module.")],
)  # fmt: skip
def test_names_of_training_wrappers_are_taken_off(folder, prefix, infix):
    plain = load(folder)
    rename(folder, lambda held: {
        prefix + k.replace("self_attn.", f"self_attn.{infix}"): v for k, v in held.items()
    })  # fmt: skip
    for subject in both_ways(folder):
        assert "wrappers were taken off" in subject.identity["note"]
        for name, tensor in subject.model.base_model.state_dict().items():
            assert torch.equal(tensor, plain.model.base_model.state_dict()[name])


def test_a_good_folder_needs_no_word(folder):
    assert all("note" not in subject.identity for subject in both_ways(folder))


def test_weights_of_more_blocks_than_the_configuration(folder):
    configure(folder, num_hidden_layers=3)
    refused(folder, "weights of 4 blocks and its config.json speaks of 3")


@pytest.mark.parametrize("depth", [3, 4])
def test_layers_that_predict_further_tokens_are_no_blocks(tmp_path, depth):
    """Deepseek-like folders keep one behind the last block; transformers knows only depth 61."""
    model = tiny_model("deepseek_v3")
    model.save_pretrained(tmp_path)
    extra = f"model.layers.{depth}."
    last = {"eh_proj.weight": torch.ones(64, 128), "enorm.weight": torch.ones(64)}
    rename(tmp_path, lambda held: held | {extra + k: v for k, v in last.items()})
    if depth == 3:  # then block 3 is such a layer, and the model has three
        configure(tmp_path, num_hidden_layers=3)
    for subject in both_ways(tmp_path):
        assert "note" not in subject.identity


def test_an_ordinary_block_too_many_is_refused_in_the_same_family(tmp_path):
    tiny_model("deepseek_v3").save_pretrained(tmp_path)
    configure(tmp_path, num_hidden_layers=3)
    refused(tmp_path, "weights of 4 blocks and its config.json speaks of 3")


@pytest.mark.parametrize(
    "name",
    ["self_attn.q_proj.lora_A.weight", "self_attn.q_proj.lora_embedding_A", "mlp.ia3_l",
     "mlp.up_proj.base_layer.weight"],
)  # fmt: skip
def test_an_adapter_inside_the_weights_is_not_left_out(folder, name):
    rename(folder, lambda held: held | {f"model.layers.0.{name}": torch.zeros(4, 64)})
    refused(folder, "of an adapter that was not merged, such as model.layers.0")


def test_weights_that_a_block_has_no_place_for(folder):
    rename(folder, lambda held: held | {"model.layers.1.self_attn.q_proj.bias": torch.ones(64)})
    refused(folder, "inside its blocks for which .*Llama.* has no place, such as .*q_proj.bias")


@pytest.mark.parametrize("name", ["self_attn.rotary_emb.inv_freq", "self_attn.k_scale"])
def test_old_buffers_and_cache_scales_need_no_word(folder, name):
    rename(folder, lambda held: held | {f"model.layers.1.{name}": torch.ones(8)})
    assert all("note" not in subject.identity for subject in both_ways(folder))


def test_other_weights_that_are_not_used_are_said(folder):
    rename(folder, lambda held: held | {"v_head.summary.weight": torch.ones(1, 64)})
    said = "1 tensor of its files is not used, such as v_head.summary.weight."
    assert load(folder).identity["note"] == said


def test_quantised_weights_without_their_configuration(folder):
    rename(folder, lambda held: held | {"model.layers.0.mlp.up_proj.weight_scale": torch.ones(1)})
    refused(folder, "of quantised weights, such as .*weight_scale; and its config.json has no")


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4976698672\n"


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_git_lfs_pointer_is_named(folder, name):
    (folder / name).write_text(POINTER)
    refused(folder, f"{name} is a Git-LFS pointer, not the file itself; fetch it with git lfs")


def test_a_pointer_to_a_gguf_file_is_named(tmp_path):
    (tmp_path / "model.gguf").write_text(POINTER)
    with pytest.raises(InputError, match="is a Git-LFS pointer"):
        load(tmp_path / "model.gguf")


def test_a_shard_that_is_missing_is_named(tmp_path):
    tiny_model("llama").save_pretrained(tmp_path, max_shard_size="100KB")
    shards = sorted(tmp_path.glob("*.safetensors"))
    shards[2].unlink()
    refused(tmp_path, f"lacks 1 of {len(shards)} shards that .*, such as {shards[2].name}: the")


def test_a_file_in_the_place_of_a_folder(folder):
    with pytest.raises(InputError, match="is a file: give the folder it lies in"):
        load(folder / "model.safetensors")


LEFT = {
    "checkpoint-10": ("pytorch_model_fsdp_0/__0_0.distcp", "accelerate merge-weights"),
    "checkpoint-20": ("global_step20/mp_rank_00_model_states.pt", "zero_to_fp32.py"),
    "checkpoint-30": ("mp_rank_00/model_optim_rng.pt", "Megatron"),
    "checkpoint-35": ("dcp/__0_0.distcp", "dcp_to_torch"),
}


def test_what_training_frameworks_leave_is_named_with_its_converter(folder, tmp_path):
    """Two good checkpoints are measured, the others are named, each with its reason."""
    run = tmp_path / "run"
    for name, (file, _) in LEFT.items():
        (run / name / file).parent.mkdir(parents=True)
        (run / name / file).write_bytes(b"x")
        (run / name / "rng_state_0.pth").write_bytes(b"x")
    (run / "checkpoint-40").mkdir()
    shutil.copy(folder / "config.json", run / "checkpoint-40")
    for name in ("checkpoint-50", "checkpoint-60"):
        shutil.copytree(folder, run / name)
    options = {"n": 2, "length": 16, "untrained": False, "kind": "random"}
    result = sinkscope.timeline(run, cache=tmp_path / "cache", **options)
    found = result.summary.timeline.runs["run"]
    assert found.steps == [50, 60]
    for name, (_, converter) in LEFT.items():
        assert any(f"{name} was skipped" in n and converter in n for n in found.notes)
    assert any("checkpoint-40 was skipped" in n and "no weights" in n for n in found.notes)
    with pytest.raises(InputError, match="accelerate merge-weights"):
        load(run / "checkpoint-10")
