"""LoRA adapters: merged into the base they name, with or without peft; else told what to do."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import sinkscope
from sinkscope.errors import InputError, Unsupported
from sinkscope.subject import adapters
from sinkscope.subject.load import load
from tests.conftest import word_tokenizer

TARGETS = ("self_attn.q_proj", "mlp.down_proj")
CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 12, "init_lora_weights": True,
          "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM"}  # fmt: skip


def adapter(path, base, seed=0, tensors=None, **changes):
    """An adapter folder as training leaves it: two files, no config.json."""
    path.mkdir(parents=True, exist_ok=True)
    config = {**CONFIG, "base_model_name_or_path": str(base), **changes}
    (path / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors or products(seed), path / "adapter_model.safetensors")
    return path


def products(seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"self_attn.q_proj": (64, 64), "mlp.down_proj": (96, 64)}
    found = {}
    for block in range(4):
        for name in TARGETS:
            inner, outer = shapes[name]
            key = f"base_model.model.model.layers.{block}.{name}.lora_"
            found[f"{key}A.weight"] = torch.randn(4, inner, generator=generator) / 8
            found[f"{key}B.weight"] = torch.randn(outer, 4, generator=generator) / 8
    return found


def test_an_adapter_is_merged_into_its_base_and_said(folder, tmp_path):
    path = adapter(tmp_path / "checkpoint-500", folder)
    base, merged = load(folder), load(path)
    name = "model.layers.2.self_attn.q_proj"
    held = load_file(path / "adapter_model.safetensors")
    a, b = (held[f"base_model.model.{name}.lora_{side}.weight"] for side in "AB")
    change = merged.model.get_submodule(name).weight - base.model.get_submodule(name).weight
    torch.testing.assert_close(change, 3.0 * b @ a, atol=1e-6, rtol=0)
    assert merged.identity["id"] == "checkpoint-500"
    assert "was merged in memory into" in merged.identity["note"]
    assert merged.identity["weights_sha256"] != base.identity["weights_sha256"]
    result = sinkscope.scan(merged, n=2, length=16, kind="random", untrained=False)
    assert result.summary.model.adapter_of == "model"
    assert any("merged in memory" in note for note in result.summary.scan["without"].notes)


@pytest.mark.parametrize(
    ("changes", "scale"),
    [({"use_rslora": True}, 6.0), ({"alpha_pattern": {"q_proj": 2}}, 0.5),
     ({"alpha_pattern": {"down_proj": 2}}, 3.0), ({"lora_alpha": 4}, 1.0)],
)  # fmt: skip
def test_scales(folder, tmp_path, changes, scale):
    path = adapter(tmp_path / "adapter", folder, **changes)
    name = "model.layers.1.self_attn.q_proj"
    held = load_file(path / "adapter_model.safetensors")
    a, b = (held[f"base_model.model.{name}.lora_{side}.weight"] for side in "AB")
    change = (
        load(path).model.get_submodule(name).weight - load(folder).model.get_submodule(name).weight
    )
    torch.testing.assert_close(change, scale * b @ a, atol=1e-6, rtol=0)


def test_it_is_what_peft_merges(folder, tmp_path):
    peft = pytest.importorskip("peft")
    base = load(folder).model
    config = peft.LoraConfig(
        r=4, lora_alpha=12, target_modules=["q_proj", "down_proj", "embed_tokens"],
        rank_pattern={"down_proj": 2}, modules_to_save=["lm_head"],
    )  # fmt: skip
    wrapped = peft.get_peft_model(base, config)
    for weight in wrapped.parameters():
        if weight.requires_grad:
            torch.nn.init.normal_(weight, std=0.1)
    wrapped.peft_config["default"].base_model_name_or_path = str(folder)
    wrapped.save_pretrained(tmp_path / "adapter")
    ours = load(tmp_path / "adapter").model.state_dict()
    for name, weight in wrapped.merge_and_unload().state_dict().items():
        torch.testing.assert_close(ours[name], weight, atol=1e-6, rtol=1e-6)


def test_weights_that_an_adapter_saves_whole_replace_the_bases(folder, tmp_path):
    head = torch.randn(128, 64)
    tensors = products() | {"base_model.model.lm_head.weight": head}
    merged = load(adapter(tmp_path / "adapter", folder, tensors=tensors))
    assert torch.equal(merged.model.lm_head.weight, head)


def test_its_own_tokenizer_goes_before_the_bases(folder, tmp_path):
    path = adapter(tmp_path / "adapter", folder)
    assert len(load(path).tokenizer) == 100
    word_tokenizer(90).save_pretrained(path)
    assert len(load(path).tokenizer) == 90


@pytest.mark.parametrize(
    ("changes", "match"),
    [({"base_model_name_or_path": "./gone"}, "is a PEFT adapter, and its base './gone' cannot be"),
     ({"base_model_name_or_path": None}, "does not name its base; merge it"),
     ({"peft_type": "IA3"}, r"of type IA3\); merge it"),
     ({"use_dora": True}, r"with use_dora\); merge it"),
     ({"init_lora_weights": "pissa"}, "begun with pissa, which changes the base"),
     ({"target_parameters": ["experts.down_proj"]}, "with target_parameters"),
     ({"lora_alpha": "x"}, "its lora_alpha is 'x', where a number is expected"),
     ({"lora_alpha": float("nan")}, "its lora_alpha is nan, where a number is expected"),
     ({"r": "4"}, "its r is '4', where a number is expected"),
     ({"alpha_pattern": [1]}, "its alpha_pattern is no JSON object"),
     ({"alpha_pattern": {"q_proj": None}}, "its q_proj is None"),
     ({"alpha_pattern": {"(": 1}}, r"alpha_pattern holds '\(', which is no pattern")],
)  # fmt: skip
def test_what_cannot_be_merged_is_told(folder, tmp_path, changes, match):
    path = adapter(tmp_path / "adapter", folder, **changes)
    with pytest.raises(InputError, match=match) as caught:
        load(path, offline=True)
    assert "merge_and_unload" in str(caught.value)


@pytest.mark.parametrize("bases", [["."], ["../b", "../a"]])
def test_an_adapter_that_rests_on_itself(folder, tmp_path, bases):
    for name, base in zip("ab", bases, strict=False):
        adapter(tmp_path / name, folder, base_model_name_or_path=base)
    with pytest.raises(InputError, match="names an adapter as base that rests on it"):
        load(tmp_path / "a")


def test_an_adapter_on_an_adapter_is_merged_into_both(folder, tmp_path):
    adapter(tmp_path / "a", folder, seed=1)
    both = load(adapter(tmp_path / "b", folder, seed=2, base_model_name_or_path="../a"))
    alone = [load(tmp_path / "a"), load(adapter(tmp_path / "c", folder, seed=2)), load(folder)]
    name = "model.layers.1.self_attn.q_proj.weight"
    first, second, base = (each.model.get_parameter(name) for each in alone)
    assert torch.allclose(both.model.get_parameter(name), first + second - base, atol=1e-6)


def test_names_with_the_adapters_own_name_in_them(folder, tmp_path):
    """A state dict that was saved by hand has `lora_A.default.weight`."""
    path = adapter(tmp_path / "adapter", folder)
    plain = load(path).model.state_dict()
    held = load_file(path / "adapter_model.safetensors")
    longer = {key.replace(".weight", ".default.weight"): value for key, value in held.items()}
    save_file(longer, path / "adapter_model.safetensors")
    assert all(torch.equal(plain[k], v) for k, v in load(path).model.state_dict().items())


def test_names_of_training_wrappers_are_taken_off_an_adapter_too(folder, tmp_path):
    plain = load(adapter(tmp_path / "plain", folder)).model.state_dict()
    longer = {f"module.{key}": value for key, value in products().items()}
    wrapped = load(adapter(tmp_path / "wrapped", folder, tensors=longer)).model.state_dict()
    assert all(torch.equal(plain[k], v) for k, v in wrapped.items())


def test_an_adapter_that_changes_nothing_is_said(folder, tmp_path):
    zero = {k: v * ("lora_A" in k) for k, v in products().items()}
    told = load(adapter(tmp_path / "zero", folder, tensors=zero)).identity["note"]
    assert "All its products are zero: this is the base, unchanged." in told
    assert "products are zero" not in load(adapter(tmp_path / "a", folder)).identity["note"]


@pytest.mark.parametrize("kind", ["PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING", "ADAPTION_PROMPT"])
def test_learned_vectors_before_the_text_are_not_merged(folder, tmp_path, kind):
    path = adapter(tmp_path / "adapter", folder, peft_type=kind)
    with pytest.raises(Unsupported, match=rf"of type {kind}: it learned vectors that are read bef"):
        load(path)


def test_an_adapter_is_not_merged_into_packed_weights(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("sinkscope.subject.load.is_packed", lambda module: True)
    with pytest.raises(InputError, match="is quantised, so that the sum would be rounded"):
        load(adapter(tmp_path / "adapter", folder))


def test_an_adapter_is_not_merged_into_spread_weights(folder, tmp_path):
    path = adapter(tmp_path / "A", folder)
    with pytest.raises(InputError, match="not merged into spread weights: merge it first"):
        load(path, tensor_parallel=True)


def test_a_pointer_in_the_place_of_an_adapters_weights_is_named(folder, tmp_path):
    path = adapter(tmp_path / "adapter", folder)
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    (path / "adapter_model.safetensors").write_bytes(pointer)
    with pytest.raises(InputError, match="is a Git-LFS pointer"):
        load(path)


def test_adapters_of_mlx_and_pickled_ones_are_named(folder, tmp_path):
    path = adapter(tmp_path / "adapter", folder)
    (path / "adapter_model.safetensors").rename(path / "adapter_model.bin")
    with pytest.raises(InputError, match=r"without adapter_model.safetensors but a pickle"):
        load(path)
    (path / "adapter_model.bin").rename(path / "adapters.safetensors")
    (path / "adapter_config.json").write_text('{"fine_tune_type": "lora", "model": "x/y"}')
    with pytest.raises(InputError, match=r"an adapter of MLX; fuse it with mlx_lm.fuse"):
        load(path)


@pytest.mark.parametrize(
    ("tensors", "match"),
    [({"base_model.model.model.layers.9.mlp.down_proj.lora_A.weight": torch.ones(4, 96),
       "base_model.model.model.layers.9.mlp.down_proj.lora_B.weight": torch.ones(64, 4)},
      "has no model.layers.9.mlp.down_proj to merge into"),
     ({"base_model.model.model.layers.0.mlp.up_proj.lora_A.weight": torch.ones(4, 64),
       "base_model.model.model.layers.0.mlp.up_proj.lora_B.weight": torch.ones(96, 4)},
      "a product for model.layers.0.mlp.up_proj, and adapter_config.json speaks of q_proj, down"),
     ({"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(2, 64),
       "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight": torch.ones(64, 2)},
      "of rank 2 for model.layers.0.self_attn.q_proj, and adapter_config.json speaks of 4"),
     ({"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(0, 64),
       "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight": torch.ones(64, 0)},
      r"holds \[0, 64\] and \[64, 0\] for .*no product of low rank"),
     ({"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(4, 64),
       "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight": torch.ones(64, 3)},
      "no product of low rank"),
     ({"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(4, 64),
       "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight": torch.ones(64, 4)},
      r"holds nothing for mlp.down_proj|holds nothing for down_proj"),
     ({"base_model.model.lm_head.weight": torch.ones(130, 64)}, r"is \[130, 64\] in the adapter"),
     ({"base_model.model.lm_head.lora_A.weight": torch.ones(4, 64)}, "only one half"),
     ({"base_model.model.lm_head.lora_magnitude_vector": torch.ones(64)}, "to merge into"),
     ({"base_model.model.lm_head.weight": torch.full((128, 64), torch.nan)}, "NaN")],
)  # fmt: skip
def test_an_adapter_that_does_not_fit(folder, tmp_path, tensors, match):
    with pytest.raises(InputError, match=match):
        load(adapter(tmp_path / "adapter", folder, tensors=tensors))


@pytest.mark.parametrize("importable", [True, False])
def test_beside_a_whole_model_neither_is_taken(folder, importable, monkeypatch):
    """The same answer whether peft can be imported or not: transformers would differ."""
    monkeypatch.setattr("transformers.utils.is_peft_available", lambda: importable)
    adapter(folder, "elsewhere")
    with pytest.raises(InputError, match=r"whole model .* and beside it an adapter"):
        load(folder)


def test_adapter_weights_without_their_configuration(folder, tmp_path):
    path = adapter(tmp_path / "adapter", folder)
    (path / "adapter_config.json").unlink()
    with pytest.raises(InputError, match="without the adapter_config"):
        load(path)
    assert adapters.find_adapter(folder) is None


def test_checkpoints_that_are_adapters_are_followed(folder, tmp_path):
    run = tmp_path / "run"
    for step in range(1, 6):
        adapter(run / f"checkpoint-{step}0", folder, seed=step)
    result = sinkscope.timeline(run, n=2, length=16, untrained=False, cache=tmp_path / "cache")
    assert result.summary.timeline.runs["run"].steps == [10, 20, 30, 40, 50]
    shares = result.data["timeline/run"]["sink_by_prompt"].values.mean(1)
    assert len(set(shares.round(6).tolist())) == 5
    notes = result.summary.timeline.runs["run"].notes
    assert [note for note in notes if "was merged" in note] == [
        f"An adapter was merged in memory into {folder}."
    ]


def test_adapters_whose_base_is_gone_are_all_named(tmp_path, folder):
    run = tmp_path / "run"
    for step in (10, 20):
        adapter(run / f"checkpoint-{step}", tmp_path / "gone", seed=step)
    with pytest.raises(InputError, match=r"checkpoint-10, checkpoint-20.*its base"):
        sinkscope.timeline(run, n=2, length=16, untrained=False, cache=tmp_path / "cache")
