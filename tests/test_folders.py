"""Model folders as people have them: used, told in a note, or refused with the reason."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import sinkscope
from sinkscope.errors import InputError, Unsupported
from sinkscope.subject.load import load
from sinkscope.subject.probe import try_out
from sinkscope.subject.tiny import tiny_model
from sinkscope.training_runs.partial import load_first_blocks
from tests.conftest import word_tokenizer


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


def test_wrappers_inside_wrappers_are_taken_off(folder):
    plain = load(folder).model.state_dict()
    inner = "layers.0._fsdp_wrapped_module._checkpoint_wrapped_module."
    rename(folder, lambda held: {k.replace("layers.0.", inner): v for k, v in held.items()})
    for name, tensor in load(folder).model.state_dict().items():
        assert torch.equal(tensor, plain[name])


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


@pytest.mark.parametrize("name", ["model.safetensors.index.json", "sink_heads.json", "config.json"])
def test_json_that_is_too_deep_is_told(folder, name):
    (folder / name).write_text("[" * 3000 + "]" * 3000)
    if "index" in name:  # beside a whole file nobody reads it
        (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=name):
        load(folder)


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


# --- what lies in a folder beside, below or instead of a model


@pytest.mark.parametrize(
    ("file", "match"),
    [("model.onnx", "a model of ONNX"), ("tf_model.h5", "a model of TensorFlow"),
     ("openvino_model.xml", "of OpenVINO"), ("rank0.engine", "compiled by TensorRT"),
     ("ggml-model.bin", "in the format before GGUF"), ("model.tar.gz", "in an archive"),
     ("flax_model.msgpack", "a model of Flax"), ("tokenizer.json", "a tokenizer and no model"),
     ("", "is empty")],
)  # fmt: skip
def test_weights_of_other_tools_are_named(tmp_path, file, match):
    if file:
        (tmp_path / file).write_bytes(b"x")
    refused(tmp_path, match)


def test_weights_of_other_tools_beside_a_configuration(folder):
    (folder / "model.safetensors").rename(folder / "model.onnx")
    refused(folder, "holds no weights .* a model of ONNX")


@pytest.mark.parametrize("below", ["snapshots/0a1b", "model"])
def test_a_model_further_down_is_named(folder, tmp_path, below):
    """The cache of the Hub keeps a model two folders below its name."""
    shutil.copytree(folder, tmp_path / "up" / below)
    refused(tmp_path / "up", f"lies below it: give .*{below}")


def test_a_run_in_the_place_of_a_model_names_its_checkpoints(folder, tmp_path):
    for name in ("checkpoint-1", "checkpoint-2"):
        shutil.copytree(folder, tmp_path / "run" / name)
    refused(tmp_path / "run", "holds 2 models: .*checkpoint-1, .*sinkscope timeline")


@pytest.mark.parametrize(
    ("name", "match"),
    [("consolidated.safetensors", "Mistral's own layout"), ("weights.safetensors", "neither")],
)
def test_weights_under_a_name_that_is_not_read(folder, name, match):
    (folder / "model.safetensors").rename(folder / name)
    refused(folder, match)


# --- configurations that say what is not so


@pytest.mark.parametrize(
    ("changes", "match"),
    [({"num_attention_heads": 8}, r"another shape .*o_proj.weight: \[64, 64\], where \[64, 128\]"),
     ({"vocab_size": 50}, r"another shape .*lm_head.weight: \[128, 64\], where \[50, 64\]"),
     ({"hidden_act": "nosuch"}, "hidden_act is 'nosuch'"),
     ({"dtype": "float99"}, "dtype is 'float99'"),
     ({"rms_norm_eps": -1.0}, "not finite, though no weight is beyond .*config.json"),
     ({"rope_parameters": {"rope_type": "nosuch", "rope_theta": 1.0}}, "rope_type is 'nosuch'"),
     ({"rope_parameters": {"rope_type": "default", "rope_theta": "x"}}, "rope_theta is 'x'"),
     ({"rope_parameters": {"rope_type": "default", "rope_theta": 0}}, "rope_theta is 0"),
     ({"rope_scaling": [1]}, "rope_scaling is .* no JSON object"),
     ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan; a finite number"),
     ({"rope_parameters": {"rope_type": "default", "rope_theta": float("inf")}}, "theta is inf"),
     ({"model_type": ["llama"]}, r"model_type is \['llama'\], no text"),
     ({"sliding_window": 0}, "sliding_window is 0"),
     ({"layers": [{"window": 10**400}]}, "layers.0.window is a whole number beyond 64 bits"),
     ({"quantization_config": {"bits": 4}}, "no quant_method"),
     ({"quantization_config": "awq"}, "quantization_config is 'awq'")],
)  # fmt: skip
def test_a_wrong_value_is_told_with_its_entry(folder, changes, match):
    configure(folder, **changes)
    with pytest.raises(InputError, match=match) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_a_window_of_zero_that_is_not_used_is_none(tmp_path):
    model = tiny_model("qwen2_moe")
    model.config.use_sliding_window, model.config.sliding_window = False, 0  # as it saves itself
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["sliding_window"] == 0
    assert {block.layer_type for block in load(tmp_path).anatomy.blocks} == {"full"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"architectures": ["MistralForCausalLM"]}, "config.json names MistralForCausalLM as its cla"),
     ({"tie_word_embeddings": True}, "the files hold another head, which was used"),
     ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 0.5}},
      "factor field must be a float or int >= 1, got 0.5"),
     ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "factor": 8.0}},
      "Unrecognized keys in rope_parameters"),
     ({"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4, "factor": 4.0,
                           "short_factor": [1.0], "long_factor": [1.0],
                           "original_max_position_embeddings": 64}},
      "short_factor field must have length 8, got 1")],
)  # fmt: skip
def test_a_configuration_that_is_not_taken_as_it_stands_is_said(folder, changes, said, capfd):
    configure(folder, architectures=3)
    load(folder)
    configure(folder, **changes)
    assert said in load(folder).identity["note"]
    assert "rope" not in capfd.readouterr().err


def test_a_model_without_a_head_over_the_vocabulary(folder):
    configure(folder, architectures=["LlamaForSequenceClassification"])
    rename(folder, lambda held: {k: v for k, v in held.items() if k != "lm_head.weight"})
    with pytest.raises(InputError, match="saved as LlamaForSequenceClassification, without a head"):
        load(folder)


def test_an_encoder_with_its_decoder_is_no_causal_model(tmp_path):
    from transformers import BartConfig, BartForConditionalGeneration

    shape = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 60}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    wide = {"encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "max_position_embeddings": 64}
    config = BartConfig(**shape, **heads, **wide)
    BartForConditionalGeneration(config).save_pretrained(tmp_path)
    with pytest.raises(Unsupported, match="an encoder and a decoder"):
        load(tmp_path)


def test_blocks_that_carry_further_positions_are_refused(llama, monkeypatch):
    """ProphetNet puts streams for further tokens behind the others."""
    block = type(llama.anatomy.modules(llama.model)[0])
    plain = block.forward

    def longer(self, hidden_states, *args, **kwargs):
        out = plain(self, hidden_states, *args, **kwargs)
        return torch.cat([out, out], 1) if self is last else out

    last = llama.anatomy.modules(llama.model)[-1]
    monkeypatch.setattr(block, "forward", longer)
    with pytest.raises(Unsupported, match="carries 4 positions for two tokens"):
        try_out(llama.model, llama.anatomy, "a model")


# --- how weights are stored


def test_weights_packed_by_mlx_or_modelopt_are_named(folder, tmp_path):
    other = shutil.copytree(folder, tmp_path / "other")
    configure(folder, quantization={"group_size": 64, "bits": 4})
    refused(folder, "quantised by MLX", Unsupported)
    (other / "hf_quant_config.json").write_text("{}")
    refused(other, "quantised by ModelOpt", Unsupported)


def test_a_quantisation_that_is_not_there_is_not_claimed(folder):
    configure(folder, quantization_config={"quant_method": "fp8"})
    assert "its files hold plain numbers" in load(folder).identity["note"].lower()


def test_eight_bits_without_a_scale_are_said(folder):
    rename(folder, lambda held: {
        k: v.to(torch.float8_e4m3fn) if "down_proj" in k else v for k, v in held.items()
    })  # fmt: skip
    assert "4 of its weights are stored in eight bits" in load(folder).identity["note"]


@pytest.mark.parametrize(("dtype", "most"), [("float16", "6.6e.04"), ("float32", "3.4e.38")])
def test_numbers_beyond_a_dtype_are_no_fault_of_the_file(folder, dtype, most):
    large = torch.tensor(1e5 if dtype == "float16" else 1e60, dtype=torch.float64)
    name = "model.layers.1.mlp.down_proj.weight"
    rename(folder, lambda held: held | {name: held[name].sign().double() * large})
    with pytest.raises(InputError, match=f"{name} holds NaN, infinity or numbers beyond {most}"):
        load(folder, dtype=dtype)


@pytest.mark.parametrize("tokenizer", [True, False])
def test_an_encoder_is_refused_as_such_at_once(tmp_path, tokenizer):
    """Not first for the tokenizer that it lacks, as the next refusal would not be mended by it."""
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=64,
    )  # fmt: skip
    BertForMaskedLM(config).save_pretrained(tmp_path)
    if tokenizer:
        word_tokenizer(100).save_pretrained(tmp_path)
    with pytest.raises(Unsupported, match="bert without is_decoder: its attention is not causal"):
        load(tmp_path)


def test_an_index_of_shards_beside_a_whole_file_is_not_read_and_said(folder):
    (folder / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "gone.safetensors"}}'
    )
    assert "which was read, lies an index of shards" in load(folder).identity["note"]


def test_shards_that_are_cut_or_have_no_metadata_are_named(tmp_path):
    tiny_model("llama").save_pretrained(tmp_path, max_shard_size="100KB")
    shard = sorted(tmp_path.glob("*.safetensors"))[1]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-8])
    refused(tmp_path, f"{shard.name}: the safetensors file is corrupt, or cut short")
    shard.write_bytes(whole + b"\0" * 8)
    refused(tmp_path, f"{shard.name}: the safetensors file is corrupt: 8 bytes too long")
    shard.write_bytes(whole)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": json.loads(index.read_text())["weight_map"]}))
    refused(tmp_path, 'has no "metadata", which transformers wants')


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_link_to_nothing_is_named(folder, name):
    (folder / name).unlink()
    (folder / name).symlink_to("../blobs/3f")
    refused(folder, rf"{name} is a link to \.\./blobs/3f, which is not there")


def test_a_name_that_is_no_utf8_is_no_fault_of_the_weights(folder, tmp_path):
    place = tmp_path / os.fsdecode(b"m\xff")
    folder.rename(place)
    refused(place, "is not UTF-8: rename it")


def test_a_second_model_among_the_weights_is_refused(folder):
    rename(folder, lambda held: held | {f"ema.{name}": held[name] + 1 for name in held})
    refused(folder, r"a second time under other names, such as ema\..*which of the two models")


def test_a_limit_may_be_infinite(folder):
    configure(folder, time_step_limit=[0.0, float("inf")])
    assert load(folder)
