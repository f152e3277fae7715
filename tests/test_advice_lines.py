"""The lines that `advise` prints, given to the tools they are for.

A tool that is not installed is skipped: `pip install --no-deps` brings most of them.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import re
import shlex
from typing import Any

import pytest
import torch
from torch import nn

from sinkscope.advice.bos import bos_lines
from sinkscope.advice.lines import lines
from sinkscope.advice.maps import PURPOSES, lines_that_ignore
from sinkscope.advice.streaming import lines_that_keep
from sinkscope.known.constructed import build_in_memory, draw_spec

LEFT = ("model.layers.1.mlp.down_proj", "model.layers.4.mlp.down_proj")


@pytest.fixture(scope="module")
def built() -> tuple[Any, Any]:
    model, tokenizer, _ = build_in_memory(draw_spec("p0-two-block", 3, family="llama", noise=0.02))
    return model, tokenizer


def printed(found: list, tool: str) -> str:
    [line] = [one["line"] for one in found if one["tool"] == tool]
    return line


def evaluated(line: str, **names: Any) -> Any:
    """The line as a user pastes it; a warning, such as of an escape in a string, is an error."""
    return eval(compile(line, "line", "eval"), names)


def linear(model: nn.Module) -> set[str]:
    return {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}


def test_kvpress_keeps_the_first_tokens(built):
    kvpress = pytest.importorskip("kvpress", reason="pip install kvpress")
    from transformers import DynamicCache

    press = evaluated(printed(lines_that_keep(4, 64, "llama"), "kvpress"), **vars(kvpress))
    model, _ = built
    ids = torch.randint(3, 40, (1, 40), generator=torch.Generator().manual_seed(0))
    whole, short = DynamicCache(), DynamicCache()
    with torch.no_grad():
        model(ids, past_key_values=whole)
        with press(model):  # this version reads an argument that newer transformers do not pass
            model(ids, past_key_values=short, cache_position=torch.arange(40))
    kept, every = short.layers[0].keys, whole.layers[0].keys
    assert (kept.shape[2], every.shape[2]) == (20, 40)
    torch.testing.assert_close(kept[:, :, :4], every[:, :, :4])


def test_kvpress_calls_the_field_as_the_note_says():
    kvpress = pytest.importorskip("kvpress", reason="pip install kvpress")
    [note] = [one["note"] for one in lines_that_keep(4, 64, "llama") if one["tool"] == "kvpress"]
    named = {
        press: field
        for field, presses in re.findall(r"(\w+)\s\(([\w, ]+)\)", " ".join(note.split()))
        for press in presses.split(", ")
    }
    named |= {"StreamingLLMPress": "n_sink"}
    words = ("sink", "initial")
    known = {
        name: [f.name for f in dataclasses.fields(press) if f.init and has(f.name, words)]
        for name, press in vars(kvpress).items()
        if dataclasses.is_dataclass(press)
    }
    # of these the first comes from statistics that are loaded, the second has a start and an end
    del known["ExpectedAttentionStatsPress"]
    known["CompactorPress"].remove("sink_size_end")
    assert {name: fields for name, fields in known.items() if fields} == {
        press: [field] for press, field in named.items()
    }


def has(name: str, words: tuple[str, ...]) -> bool:
    return any(word in name for word in words)


def test_openvino_takes_the_cache_eviction():
    openvino = pytest.importorskip("openvino_genai", reason="pip install openvino-genai")
    assert evaluated(printed(lines_that_keep(4, 64, "llama"), "OpenVINO GenAI"), **vars(openvino))


@pytest.mark.parametrize("flag", [True, False])
def test_lm_eval_tokenises_with_and_without_bos(built, tmp_path, flag):
    hf = pytest.importorskip("lm_eval.models.huggingface", reason="pip install lm-eval")
    from lm_eval.utils import simple_parse_args_string

    model, tokenizer = built
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    name, value = shlex.split(
        printed(bos_lines({"model": str(tmp_path)}, flag), "lm-evaluation-harness")
    )
    assert name == "--model_args"
    harness = hf.HFLM(**simple_parse_args_string(value), device="cpu")
    first = harness.tok_encode("a b c")[0]
    assert (first == tokenizer.bos_token_id) == flag


def test_llm_compressor_leaves_the_maps_alone(built):
    modifiers = pytest.importorskip(
        "llmcompressor.modifiers.quantization", reason="pip install llmcompressor"
    )
    from compressed_tensors.utils import match_named_modules

    line = printed(lines_that_ignore(LEFT, PURPOSES), "llm-compressor")
    recipe = evaluated(f"dict({line})")
    modifier = modifiers.QuantizationModifier(targets="Linear", scheme="W8A8", **recipe)
    model, _ = built
    matched = match_named_modules(model, modifier.resolved_targets, modifier.ignore)
    assert linear(model) - {name for name, _ in matched} == set(LEFT)


def test_gptqmodel_leaves_the_maps_alone(built):
    gptqmodel = pytest.importorskip("gptqmodel", reason="pip install gptqmodel")
    line = printed(lines_that_ignore(LEFT, PURPOSES), "GPTQModel")
    config = evaluated(line, QuantizeConfig=gptqmodel.QuantizeConfig)
    left = {name for name in linear(built[0]) if config.dynamic_get(name) is False}
    assert left == set(LEFT)


def test_torchao_leaves_the_maps_alone(built):
    quantization = pytest.importorskip("torchao.quantization", reason="pip install torchao")
    model = copy.deepcopy(built[0])
    line = printed(lines_that_ignore(LEFT, PURPOSES), "torchao")
    config = quantization.Int8WeightOnlyConfig()
    evaluated(line, model=model, config=config, torch=torch, quantize_=quantization.quantize_)
    plain = {
        name for name in linear(model) if type(model.get_submodule(name).weight) is nn.Parameter
    }
    assert plain == set(LEFT)


def test_bitsandbytes_leaves_the_maps_alone(built):
    pytest.importorskip("bitsandbytes", reason="pip install bitsandbytes")
    from transformers import BitsAndBytesConfig
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear

    line = printed(lines_that_ignore(LEFT, PURPOSES), "bitsandbytes")
    config = evaluated(line, BitsAndBytesConfig=BitsAndBytesConfig)
    model = replace_with_bnb_linear(
        copy.deepcopy(built[0]),
        modules_to_not_convert=config.llm_int8_skip_modules,
        quantization_config=config,
    )
    assert {name for name in linear(model) if type(model.get_submodule(name)) is nn.Linear} == set(
        LEFT
    )


def test_quanto_leaves_the_maps_alone():
    from transformers import QuantoConfig

    found = [
        one["line"] for one in lines_that_ignore(LEFT, PURPOSES) if one["tool"] == "transformers"
    ]
    config = evaluated(*found, QuantoConfig=QuantoConfig)
    assert config.modules_to_not_convert == list(LEFT)


@pytest.mark.parametrize("flag", [True, False])
def test_llm_compressor_calibrates_as_the_line_says(built, flag):
    _, tokenizer = built
    line = printed(bos_lines({"model": "m"}, flag), "llm-compressor")
    ids = evaluated(line, tokenizer=tokenizer, text="a b c")["input_ids"]
    assert ids.count(tokenizer.bos_token_id) == int(flag)
    assert (ids[0] == tokenizer.bos_token_id) == flag


def test_transformers_knows_the_settings(built, tmp_path):
    import transformers

    model, _ = built
    model.save_pretrained(tmp_path)
    line = printed(lines("dtype", dtype="bfloat16", model=str(tmp_path)), "transformers")
    loaded = evaluated(line, torch=torch, AutoModelForCausalLM=transformers.AutoModelForCausalLM)
    assert loaded.dtype is torch.bfloat16

    def arguments(**given: Any) -> dict[str, Any]:
        return given

    class Named:
        generate = staticmethod(arguments)

    known = set(inspect.signature(transformers.GenerationMixin.generate).parameters)
    given = evaluated(
        printed(lines_that_keep(4, 64, "llama"), "transformers"), model=Named, inputs={}
    )  # window_length and num_sink_tokens are arguments of the code on the Hub
    assert set(given) - known == {"trust_remote_code", "window_length", "num_sink_tokens"}
    found = lines("cache_bits", vllm="", k="", bits=4, backend="quanto")
    given = evaluated(printed(found, "transformers"), model=Named, inputs={})
    config = transformers.GenerationConfig(**given)
    assert config.cache_implementation == "quantized"
    given["cache_config"].pop("backend")
    quantised = inspect.signature(transformers.QuantizedCache.__init__).parameters
    assert set(given["cache_config"]) <= set(quantised)
