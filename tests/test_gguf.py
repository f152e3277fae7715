"""GGUF files: the bundled model written as one, and what is said of wrong ones."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sinkscope.errors import InputError, Unsupported
from sinkscope.job import run
from sinkscope.subject.folder import bundled_model
from sinkscope.subject.load import load

gguf = pytest.importorskip("gguf")


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of q and k as llama.cpp orders them: rotary pairs side by side."""
    rows = weight.reshape(heads, 2, weight.shape[0] // heads // 2, weight.shape[1])
    return rows.swapaxes(1, 2).reshape(weight.shape)


def write_gguf(path: Path, kind: str = "F32", architecture: str = "llama") -> Path:
    """The bundled model as a GGUF file whose matrices have the type `kind`."""
    model = load().model
    config = model.config
    tokenizer = json.loads((bundled_model() / "tokenizer.json").read_text(encoding="utf-8"))[
        "model"
    ]
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("bundled")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(sorted(tokenizer["vocab"], key=tokenizer["vocab"].get))
    merges = (pair if isinstance(pair, str) else " ".join(pair) for pair in tokenizer["merges"])
    writer.add_token_merges(list(merges))
    writer.add_bos_token_id(config.bos_token_id)
    writer.add_eos_token_id(config.eos_token_id)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":
            continue  # tied
        weight = tensor.float().numpy()
        if "q_proj" in name or "k_proj" in name:
            weight = interleaved(weight, config.num_attention_heads)
        found = names.get_name(name, (".weight",))
        if weight.ndim == 2 and kind != "F32":
            packed = gguf.GGMLQuantizationType[kind]
            writer.add_tensor(found, gguf.quants.quantize(weight, packed), raw_dtype=packed)
        else:
            writer.add_tensor(found, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def exact(tmp_path_factory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("exact") / "model.gguf")


def test_a_file_of_plain_numbers_is_the_model_it_was_written_from(exact):
    ours, bundled = load(exact), load()
    ids = torch.arange(3, 40).unsqueeze(0)
    with torch.no_grad():
        assert torch.equal(ours.model(ids).logits, bundled.model(ids).logits)
    text = "It was the best of times."
    assert ours.tokenizer(text).input_ids == bundled.tokenizer(text).input_ids


def test_a_packed_file_gives_what_its_unpacked_folder_gives_and_says_what_it_was(tmp_path):
    packed = load(write_gguf(tmp_path / "model-Q8_0.gguf", "Q8_0"))
    packed.model.save_pretrained(tmp_path / "folder")
    packed.tokenizer.save_pretrained(tmp_path / "folder")
    options = {"n": 7, "length": 32, "untrained": False}
    one, other = run(packed, **options), run(load(tmp_path / "folder"), **options)
    assert one.summary.model.weights.label == "Q8_0"
    assert one.summary.model.weights_sha256 != other.summary.model.weights_sha256
    assert "unpacked from GGUF (Q8_0)" in one.summary.scan["without"].notes[0]
    assert one.summary.verify["without"].verdict == "p0-circuit"
    for part in ("scan", "trace", "verify"):
        first, second = (
            getattr(each.summary, part)["without"].model_dump(exclude={"notes"})
            for each in (one, other)
        )
        assert first == second, part


def test_a_folder_with_one_file_is_that_file(exact):
    assert load(exact.parent).identity["weights"]["label"] == "F32"
    assert load(exact.parent, gguf_file=exact.name).identity["weights"]["label"] == "F32"


def test_which_file_is_meant_must_be_clear(exact, tmp_path):
    for name in ("a-Q4_0.gguf", "a-Q8_0.gguf"):
        (tmp_path / name).symlink_to(exact)
    with pytest.raises(InputError, match=r"say which: --gguf-file a-Q4_0\.gguf"):
        load(tmp_path)
    with pytest.raises(InputError, match="No such file"):
        load(tmp_path, gguf_file="b.gguf")


def test_another_file_is_not_a_model(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"weights")
    with pytest.raises(InputError, match="is a file: give the folder"):
        load(file)


def test_a_part_of_a_split_file_says_how_to_join_it(exact, tmp_path):
    part = tmp_path / "m-00001-of-00002.gguf"
    part.symlink_to(exact)
    for source in (part, tmp_path):
        with pytest.raises(InputError, match="llama-gguf-split --merge"):
            load(source)


@pytest.mark.parametrize("cut", [0, 3, 8, 200, 60_000])
def test_a_broken_file_is_named(exact, tmp_path, cut):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(exact.read_bytes()[:cut])
    with pytest.raises(InputError, match=r"broken\.gguf"):
        load(broken)


def test_an_architecture_that_transformers_cannot_unpack_is_not_supported(tmp_path):
    other = write_gguf(tmp_path / "other.gguf", architecture="chatglm")
    with pytest.raises(Unsupported, match="chatglm"):
        load(other)
