"""Weights of eight and four bits, as quantisers keep them in memory and in folders."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM

import sinkscope
from sinkscope.errors import InputError, Unsupported
from sinkscope.subject.at_hand import (
    NO_GRADIENTS,
    is_packed,
    no_gradients,
    plain_weight,
    refuse_edit,
    rounds_input,
)
from sinkscope.subject.identity import stored_as
from sinkscope.subject.load import Subject, load
from sinkscope.subject.probe import refuse_no_finite
from sinkscope.subject.tiny import tiny_config, tiny_model
from tests.conftest import word_tokenizer
from tests.test_folders import configure

FEW = {"n": 4, "length": 24, "kind": "random"}


class Held(torch.Tensor):
    """A quantiser's weight: a class of its own that knows few operations and says it is float."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function in (torch.aminmax, torch.Tensor.float, torch.Tensor.abs):
            raise NotImplementedError(function)
        return super().__torch_function__(function, types, args, kwargs)

    def dequantize(self):
        return self.as_subclass(torch.Tensor)


class Kernel(nn.Linear):
    """A packed map whose kernel for single rows leaves the graph without a word."""

    def forward(self, x):
        weight = self.weight.dequantize()
        return (
            nn.functional.linear(x if x.numel() > x.shape[-1] else x.detach(), weight)
            + 0 * x[..., :1]
        )


def test_a_weight_of_a_quantisers_own_class_is_packed(llama):
    linear = llama.model.model.layers[0].mlp.up_proj
    assert not is_packed(linear)
    plain = linear.weight.detach().clone()
    linear.weight = nn.Parameter(plain.as_subclass(Held), requires_grad=False)
    assert is_packed(linear)
    refuse_no_finite(llama.model, "here")
    linear.weight.data[0, 0] = torch.inf
    with pytest.raises(InputError, match=r"up_proj.weight holds NaN, infinity"):
        refuse_no_finite(llama.model, "here")


def test_eight_bit_floats_under_a_scale_are_packed():
    linear = nn.Linear(4, 4)
    linear.weight = nn.Parameter(torch.ones(4, 4).to(torch.float8_e4m3fn), requires_grad=False)
    assert is_packed(linear)


def test_maps_that_lose_the_gradient_are_found(llama):
    layer = llama.model.model.layers[0].mlp
    assert no_gradients(llama.model) == ""
    layer.up_proj.__class__ = Kernel
    layer.up_proj.weight = nn.Parameter(
        layer.up_proj.weight.detach().as_subclass(Held), requires_grad=False
    )
    assert no_gradients(llama.model) == NO_GRADIENTS
    (found,) = sinkscope.mix(llama, **FEW).summary.mix.values()
    assert found.path_bound["reason"] == NO_GRADIENTS


def compressed(place, activations):
    """A folder of compressed-tensors: weights of eight bits a row, activations as told."""
    pytest.importorskip("compressed_tensors", reason="make tools")
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import (
        QuantizationArgs,
        QuantizationConfig,
        QuantizationScheme,
        QuantizationStatus,
        apply_quantization_config,
    )

    weights = QuantizationArgs(num_bits=8, strategy="channel")
    told = QuantizationArgs(num_bits=8, strategy="token", dynamic=True) if activations else None
    scheme = QuantizationScheme(targets=["Linear"], weights=weights, input_activations=told)
    config = QuantizationConfig(config_groups={"group": scheme}, ignore=["lm_head"])
    model = tiny_model("llama")
    model.save_pretrained(place / "plain")
    apply_quantization_config(model, config)
    for module in model.modules():
        if getattr(module, "quantization_scheme", None) is not None:
            module.weight_scale.data = module.weight.detach().abs().amax(1, keepdim=True) / 127
            module.quantization_status = QuantizationStatus.FROZEN
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(place / "packed")
    compressor.update_config(place / "packed")
    return place / "packed"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("activations", [False, True])
def test_a_folder_of_compressed_tensors_is_read_and_not_edited(tmp_path, activations):
    """Its maps are unpacked at the first pass, and round what goes through them ever after."""
    subject = load(compressed(tmp_path, activations))
    whole = load(tmp_path / "plain")
    assert "stored as compressed-tensors" in subject.identity["note"]
    assert subject.identity["parameters"] == whole.identity["parameters"]
    both = [s.model.model.layers[0].mlp.up_proj for s in (subject, whole)]
    assert is_packed(both[0])
    weights = [plain_weight(each) for each in both]
    assert float((weights[0] - weights[1]).norm() / weights[1].norm()) < 0.02
    assert no_gradients(subject.model) == (NO_GRADIENTS if activations else "")
    with pytest.raises(Unsupported, match="packed"):
        refuse_edit(subject.model.model.layers[0], "block 0")
    found = [
        next(iter(sinkscope.scan(s, untrained=False, **FEW).summary.scan.values())).late_share.value
        for s in (subject, whole)
    ]
    assert found[0] == pytest.approx(found[1], rel=0.02)


def held_by(linear, kind):
    """A linear map made one of a quantiser's, whose weight is of a class of its own."""
    linear.__class__ = kind
    linear.weight = nn.Parameter(linear.weight.detach().as_subclass(Held), requires_grad=False)


class Sound(nn.Linear):
    """A packed map that computes in the dtype of its weight, and has a derivative."""

    def forward(self, x):
        return nn.functional.linear(x, self.weight.dequantize())


class Stepped(nn.Linear):
    """A packed map that rounds what it is given, so that only zero has a derivative."""

    def forward(self, x):
        step = x.detach().abs().amax(-1, keepdim=True)
        rounded = torch.where(step > 0, (x / step * 127).round() * step / 127, x)
        return nn.functional.linear(rounded, self.weight.dequantize())


class NaNs(nn.Linear):
    """A packed map whose derivative is no number."""

    def forward(self, x):
        return nn.functional.linear(x, self.weight.dequantize()) + (0 * x[..., :1]).sqrt()


@pytest.mark.parametrize("kind", [Stepped, NaNs])
def test_maps_whose_gradient_is_another_are_found(llama, kind):
    layer = llama.model.model.layers[0]
    held_by(layer.self_attn.o_proj, Sound)
    assert no_gradients(llama.model) == ""
    held_by(layer.mlp.down_proj, kind)  # not the first packed map
    assert no_gradients(llama.model) == NO_GRADIENTS


def test_packed_maps_are_asked_in_the_dtype_that_they_compute_in():
    llama = Subject.from_model(tiny_model("llama").to(torch.bfloat16))
    linear = llama.model.model.layers[0].mlp.up_proj
    plain = linear.weight.detach().float()
    held_by(linear, Sound)
    assert torch.equal(plain_weight(linear), plain)
    assert no_gradients(llama.model) == ""


def test_quantised_weights_that_do_not_run_are_no_fault_of_the_configuration(llama, monkeypatch):
    from sinkscope.subject.probe import try_out

    def fail(*args, **kwargs):
        raise RuntimeError("shape is invalid")

    llama.model.config.quantization_config = {"quant_method": "bitsandbytes"}
    monkeypatch.setattr(llama.model.model.layers[0].mlp, "forward", fail)
    with pytest.raises(Unsupported, match=r"quantised \(bitsandbytes\), and its weights cannot"):
        try_out(llama.model, llama.anatomy, "here")


def _bitsandbytes(**told):
    pytest.importorskip("bitsandbytes", reason="make tools")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(**told)


def _torchao():
    pytest.importorskip("torchao", reason="make tools")
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    return TorchAoConfig(Int8WeightOnlyConfig())


PACKAGES = {
    "bitsandbytes, 8 bits": lambda: _bitsandbytes(load_in_8bit=True),
    "bitsandbytes, 4 bits": lambda: _bitsandbytes(load_in_4bit=True),
    "torchao, 8 bits": _torchao,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PACKAGES)
def test_a_folder_of_its_package_is_read_where_that_is_installed(tmp_path, name):
    told = PACKAGES[name]()
    config = tiny_config("llama")
    config.intermediate_size = 128  # a multiple of the block of 64 that four bits are scaled by
    plain = tmp_path / "plain"
    AutoModelForCausalLM.from_config(config).save_pretrained(plain)
    word_tokenizer(100).save_pretrained(plain)
    packed = AutoModelForCausalLM.from_pretrained(plain, quantization_config=told)
    packed.save_pretrained(tmp_path / "packed")
    subject = load(tmp_path / "packed")
    assert is_packed(subject.model.model.layers[0].mlp.up_proj)
    whole = load(plain)
    assert subject.identity["parameters"] == whole.identity["parameters"]
    assert "Its weights are stored as" in subject.identity["note"]
    both = [plain_weight(s.model.model.layers[0].mlp.up_proj) for s in (subject, whole)]
    assert float((both[0] - both[1]).norm() / both[1].norm()) < 0.15
    found = [
        next(iter(sinkscope.scan(s, untrained=False, **FEW).summary.scan.values())).late_share.value
        for s in (subject, whole)
    ]
    assert found[0] == pytest.approx(found[1], rel=0.1)
    for command in (sinkscope.trace, sinkscope.mix, sinkscope.advise):
        command(Subject.from_model(subject.model, subject.tokenizer), **FEW)


def nibbles(numbers, dim, order=range(8)):
    """Eight numbers of four bits of a dimension in each integer of 32."""
    groups = numbers.long().movedim(dim, -1).unflatten(-1, (-1, 8))
    whole = sum(groups[..., at] << 4 * place for place, at in enumerate(order))
    return (
        torch.where(whole >= 1 << 31, whole - (1 << 32), whole).int().movedim(-1, dim).contiguous()
    )


def packed_by(method, weight, group=32):
    """The tensors that GPTQ or AWQ keep of a map [out, in], and the map that they stand for."""
    grouped = weight.T.unflatten(0, (-1, group)).float()  # [groups, in a group, out]
    scales = (grouped.abs().amax(1) / 7).half()
    numbers = (grouped / scales.float()[:, None]).round().clamp(-8, 7) + 8
    stands = ((numbers - 8).half() * scales[:, None]).float().flatten(0, 1).T.contiguous()
    zeros, numbers = torch.full_like(scales, 8), numbers.flatten(0, 1)
    if method == "awq":
        order = (0, 2, 4, 6, 1, 3, 5, 7)
        kept = {"qweight": nibbles(numbers, 1, order), "qzeros": nibbles(zeros, 1, order)}
    else:
        kept = {"qweight": nibbles(numbers, 0), "qzeros": nibbles(zeros - 1, 1)}
        kept["g_idx"] = torch.arange(len(numbers)).int() // group
    return {**kept, "scales": scales}, stands


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_gptq_and_awq_give_the_numbers_of_the_maps_that_they_stand_for(tmp_path, method):
    pytest.importorskip("gptqmodel", reason="make tools")
    pytest.importorskip("optimum", reason="make tools")
    plain, packed = tiny_model("llama"), {}
    for name, module in plain.named_modules():
        if isinstance(module, nn.Linear) and name != "lm_head":
            kept, module.weight.data = packed_by(method, module.weight.data)
            packed |= {f"{name}.{key}": value for key, value in kept.items()}
    plain.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    maps = {key.rpartition(".")[0] for key in packed}
    rest = {k: v for k, v in load_file(file).items() if k.rpartition(".")[0] not in maps}
    save_file(rest | packed, file, {"format": "pt"})
    told = {"quant_method": method, "bits": 4, "group_size": 32, "sym": True, "desc_act": False}
    configure(tmp_path, quantization_config=told | ({"version": "gemm"} if method == "awq" else {}))
    with torch._dynamo.config.patch(disable=True):  # gptqmodel compiles what unpacks
        subject, whole = load(tmp_path), Subject.from_model(plain)
        both = [s.model.model.layers[0].mlp.up_proj for s in (subject, whole)]
        assert is_packed(both[0])
        close = {"rtol": 1e-3, "atol": 1e-3} if method == "awq" else {"rtol": 1e-5, "atol": 1e-6}
        torch.testing.assert_close(*map(plain_weight, both), **close)
        assert ("half precision" in subject.identity["note"]) == (method == "awq")
        assert subject.identity["parameters"] == sum(p.numel() for p in plain.parameters())
        with pytest.raises(Unsupported, match="packed"):
            refuse_edit(subject.model.model.layers[0], "block 0")
        found = [
            sinkscope.trace(s, **FEW).data["trace/without"]["margin"] for s in (subject, whole)
        ]
        close = 2e-2 if method == "awq" else 1e-5
        assert found[0].values == pytest.approx(found[1].values, rel=close, abs=close)


class Halved(nn.Linear):
    """A packed map that takes no more than half precision, whatever it is given."""

    def forward(self, x):
        return nn.functional.linear(x.half().float(), self.weight.dequantize())


def test_packed_maps_that_compute_in_half_precision_are_found(llama):
    layer = llama.model.model.layers[0]
    held_by(layer.self_attn.o_proj, Sound)
    assert not rounds_input(llama.model)
    held_by(layer.mlp.down_proj, Halved)
    assert rounds_input(llama.model)
    assert "packed maps in half precision" in stored_as("awq", {}, "float32", True)
