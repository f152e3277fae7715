"""Formats and kinds of model that people bring: read, or refused for the right reason."""

from __future__ import annotations

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForImageTextToText

import sinkscope
from sinkscope.errors import InputError, NotFinite, Unsupported
from sinkscope.observe.attention import observe
from sinkscope.observe.reads import Want
from sinkscope.observe.tap import Tap
from sinkscope.subject import weights
from sinkscope.subject.load import Subject, load
from sinkscope.subject.prompts import build_prompts
from sinkscope.subject.tiny import tiny_config, tiny_model
from tests.test_folders import configure, rename

FEW = {"n": 3, "length": 32, "kind": "random", "untrained": False}


@pytest.mark.parametrize(
    ("method", "package"),
    [("bitsandbytes", "bitsandbytes"), ("compressed-tensors", "compressed-tensors")],
)  # fmt: skip
def test_a_quantised_folder_names_the_package_it_needs(folder, method, package):
    told = {"load_in_4bit": True} if method == "bitsandbytes" else {"bits": 4}
    configure(folder, quantization_config={"quant_method": method, **told})
    with pytest.raises(InputError, match=rf"is quantised \({method}\).*{package}"):
        load(folder)


@pytest.mark.parametrize(
    ("method", "there", "wanted"),
    [("gptq", "", "gptqmodel optimum"), ("gptq", "gptqmodel", "optimum"), ("awq", "", "gptqmodel")],
)
def test_every_package_that_gptq_and_awq_lack_is_named(folder, monkeypatch, method, there, wanted):
    """With one of two alone, transformers ends in a name that is not defined."""
    monkeypatch.setattr(weights, "find_spec", lambda name: True if name == there else None)
    configure(folder, quantization_config={"quant_method": method, "bits": 4})
    with pytest.raises(InputError, match=rf"\({method}\); .* not here: pip install {wanted}\.$"):
        load(folder)


def test_a_quantisation_that_nobody_knows_is_not_read_as_plain_weights(folder):
    configure(folder, quantization_config={"quant_method": "nonsense"})
    with pytest.raises(Unsupported, match="quantised by 'nonsense'"):
        load(folder)


@pytest.fixture
def packed(tmp_path):
    """A tiny gpt_oss whose experts are stored in four bits, as on the Hub."""
    config = tiny_config("gpt_oss")
    config.intermediate_size = 64
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    generator = torch.Generator().manual_seed(0)

    def pack(held):
        for name in [name for name in held if name.endswith("_proj") and "experts" in name]:
            experts, inner, outer = held.pop(name).shape
            shape = (experts, outer, inner // 32)
            held[f"{name}_blocks"] = torch.randint(
                256, (*shape, 16), generator=generator, dtype=torch.uint8
            )
            held[f"{name}_scales"] = torch.randint(
                118, 122, shape, generator=generator, dtype=torch.uint8
            )
        return held

    rename(tmp_path, pack)
    kept = [
        "model.layers.*.self_attn",
        "model.layers.*.mlp.router",
        "model.embed_tokens",
        "lm_head",
    ]
    stored = {"quant_method": "mxfp4", "modules_to_not_convert": kept}
    configure(tmp_path, quantization_config=stored)
    return tmp_path


def test_four_bit_experts_are_unpacked_and_said(packed):
    subject = load(packed)
    weight = subject.model.model.layers[0].mlp.experts.gate_up_proj
    assert weight.dtype == torch.float32
    assert float(weight.abs().max()) > 0
    assert "stored as mxfp4 and compute in float32" in subject.identity["note"]
    assert sinkscope.scan(subject, **FEW).summary.scan["without"].late_share.value > 0


def test_four_bit_experts_without_their_configuration_are_not_made_up(packed):
    configure(packed, quantization_config=None)
    with pytest.raises(InputError, match=r"of quantised weights, such as .*_blocks"):
        load(packed)


def test_eight_bit_weights_can_be_asked_whether_they_are_finite(llama):
    from sinkscope.subject.probe import refuse_no_finite

    weight = torch.nn.Parameter(torch.ones(2).to(torch.float8_e4m3fn), requires_grad=False)
    llama.model.register_parameter("small", weight)
    refuse_no_finite(llama.model, "here")
    weight.data = torch.tensor([1.0, torch.nan]).to(torch.float8_e4m3fn)
    with pytest.raises(InputError, match="weight small holds NaN"):
        refuse_no_finite(llama.model, "here")


def test_mistrals_own_tokenizer_file_names_its_package(folder, monkeypatch):
    monkeypatch.setattr("transformers.utils.is_mistral_common_available", lambda: False)
    for file in folder.glob("*token*"):
        file.unlink()
    (folder / "tekken.json").write_text("{}")
    with pytest.raises(InputError, match=r"tekken.json is Mistral's own .* mistral-common"):
        load(folder)


TEXT = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 128, "max_position_embeddings": 512,
}  # fmt: skip
EYE = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "image_size": 28, "patch_size": 14,
}  # fmt: skip
ROPE = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4}
SEEING = {
    "llava": {
        "text_config": {"model_type": "llama", **TEXT}, "image_token_index": 127,
        "vision_config": {"model_type": "clip_vision_model", **EYE},
    },
    "qwen2_vl": {
        "text_config": {**TEXT, "rope_parameters": ROPE},
        "vision_config": {"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2},
    },
}  # fmt: skip


@pytest.mark.parametrize("family", SEEING)
def test_the_text_decoder_of_a_model_that_sees_images(tmp_path, family):
    """Its numbers are those of the decoder on text, and its logits those of the whole."""
    model = AutoModelForImageTextToText.from_config(CONFIG_MAPPING[family](**SEEING[family])).eval()
    model.save_pretrained(tmp_path)
    subject = load(tmp_path)
    assert len(subject.anatomy.blocks) == 4
    assert "its text decoder is looked at, on text alone" in subject.identity["note"]
    prompts = build_prompts(subject, kind="random", n=2, length=24)
    _, _, logits = observe(subject, prompts, Want(), "exact", logits=True)
    with torch.no_grad():
        whole = model(input_ids=prompts.input_ids).logits
    torch.testing.assert_close(logits, whole, atol=1e-5, rtol=0)
    bare = Subject.from_model(model.model.language_model)
    found = [sinkscope.scan(each, **FEW) for each in (subject, bare)]
    shares = [next(iter(one.summary.scan.values())).late_share.value for one in found]
    assert shares[0] == pytest.approx(shares[1], abs=1e-6)


@pytest.mark.parametrize(
    ("family", "entry"),
    [("llama", {"is_causal": False}), ("gpt2", {"is_causal": False}),
     ("gemma3_text", {"use_bidirectional_attention": True})],
)  # fmt: skip
def test_a_decoder_that_looks_ahead_is_refused_for_that_reason(tmp_path, family, entry):
    tiny_model(family).save_pretrained(tmp_path)
    configure(tmp_path, **entry)
    with pytest.raises(Unsupported, match="its attention is not causal"):
        load(tmp_path)


def test_attention_that_looks_ahead_without_saying_so_is_refused(llama):
    """A module that turned causality off, and a mask that lets the future in."""
    for layer in llama.model.model.layers:
        layer.self_attn.is_causal = False
    with pytest.raises(Unsupported, match="llama, block 0: its attention is not causal"):
        sinkscope.scan(llama, **FEW)


def test_a_mask_that_lets_the_future_in_is_refused(llama, monkeypatch):
    def open_mask(inputs_embeds, **kwargs):
        length = inputs_embeds.shape[1]
        return torch.ones(len(inputs_embeds), 1, length, length, dtype=torch.bool)

    monkeypatch.setattr("transformers.models.llama.modeling_llama.create_causal_mask", (
        lambda config, inputs_embeds, *args, **kwargs: open_mask(inputs_embeds)
    ))  # fmt: skip
    with pytest.raises(Unsupported, match="its attention is not causal"):
        sinkscope.scan(llama, **FEW)


def test_no_causal_triangle_is_put_on_a_call_that_is_not_causal(llama, ids):
    """A sub-module beside the decoder that attends both ways keeps its own attention."""
    attention = llama.model.model.layers[0].self_attn
    q = torch.randn(2, 4, 24, 16)
    k, v = torch.randn(2, 2, 24, 16), torch.randn(2, 2, 24, 16)
    tap = Tap(None, Want(), "lean")
    out, _ = tap.attention(attention, q, k, v, None, scaling=0.25, is_causal=False)
    both = torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=0.25, enable_gqa=True)
    attention.is_causal = False
    again, _ = tap.attention(attention, q, k, v, None, scaling=0.25)
    torch.testing.assert_close(out, both.transpose(1, 2), atol=1e-5, rtol=0)
    torch.testing.assert_close(again, out)


@pytest.fixture
def overflowing(folder):
    """Finite weights whose products overflow float16 in block 1, and no other format."""

    def large(held):
        for name in ("up_proj", "down_proj"):
            held[f"model.layers.1.mlp.{name}.weight"] *= 3000.0
        return held

    rename(folder, large)
    return folder


@pytest.mark.parametrize("command", ["scan", "trace", "verify", "mix"])
def test_overflow_is_named_with_the_block_in_which_it_begins(overflowing, command):
    subject = load(overflowing, dtype="float16")
    with pytest.raises(NotFinite, match=r"not finite in float16 from block 1 .*bfloat16") as caught:
        getattr(sinkscope, command)(subject, n=3, length=32, kind="random")
    assert caught.value.block == 1


def test_a_pass_that_stands_but_once_is_said_to_overflow_all_the_same(llama, ids):
    """What is hooked to a pass may be used up by the first: the reason stays the overflow."""
    from sinkscope.observe.attention import call_model

    used = iter([None])
    blocks = llama.model.model.layers
    blocks[0].register_forward_hook(lambda module, args, out: next(used))
    blocks[1].register_forward_hook(lambda module, args, out: out * torch.nan)
    with pytest.raises(NotFinite, match="not finite in float32 in this pass"):
        call_model(llama, {"input_ids": ids}, False)


def test_the_same_weights_are_read_in_formats_of_more_range(overflowing):
    found = [
        sinkscope.scan(load(overflowing, dtype=dtype), **FEW).summary.scan["without"]
        for dtype in ("float32", "bfloat16")
    ]
    assert found[0].p0_sink == found[1].p0_sink


def test_a_weight_in_memory_that_is_no_number_is_named(llama):
    llama.model.model.layers[1].mlp.down_proj.weight.data[0, 0] = torch.nan
    with pytest.raises(NotFinite, match=r"layers\.1\.mlp\.down_proj\.weight holds NaN"):
        sinkscope.scan(llama, **FEW)


def test_sums_that_overflow_float32_are_named_too(llama):
    llama.model.model.layers[2].mlp.down_proj.weight.data.fill_(3e38)
    with pytest.raises(
        NotFinite, match=r"float32 from block 2 on; .* its weights reach .* too large"
    ):
        sinkscope.scan(llama, **FEW)


def test_padding_that_sees_nothing_is_no_overflow(llama, ids):
    from sinkscope.observe.attention import refuse_overflow

    class Out:
        last_hidden_state = torch.zeros(2, 24, 64)

    Out.last_hidden_state[0, :3] = torch.nan
    mask = torch.ones(2, 24, dtype=torch.long)
    mask[0, :3] = 0
    inputs = {"input_ids": ids, "attention_mask": mask}
    refuse_overflow(llama, llama.model.model, lambda: inputs, Out())
    with pytest.raises(NotFinite, match="behind the last block"):
        refuse_overflow(llama, llama.model.model, lambda: {"input_ids": ids}, Out())
