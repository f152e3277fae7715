"""Loading: what is refused, in one sentence, with the right exit code."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import sinkscope
from sinkscope.errors import InputError, Unsupported
from sinkscope.subject.load import Subject, load
from sinkscope.subject.tiny import tiny_config, tiny_model


def test_a_good_folder_loads_with_its_identity(folder):
    subject = load(folder)
    assert subject.identity["architecture"] == "LlamaForCausalLM"
    assert len(subject.identity["weights_sha256"]) == 64
    assert subject.identity["dtype"] == "float32"
    assert len(subject.anatomy.blocks) == 4
    assert subject.anatomy.query_heads == 4
    assert load(folder, dtype="bfloat16").dtype == torch.bfloat16


def test_in_memory_models_hash_their_weights():
    a, b = (Subject.from_model(tiny_model("llama", seed)) for seed in (0, 1))
    again = Subject.from_model(tiny_model("llama", 0))
    assert a.identity["weights_sha256"] == again.identity["weights_sha256"]
    assert a.identity["weights_sha256"] != b.identity["weights_sha256"]


def refused(path, match, kind=InputError, **options):
    with pytest.raises(kind, match=match) as caught:
        load(path, **options)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith((".", ")"))


def test_missing_folder(tmp_path):
    refused(tmp_path / "nowhere", "No such folder")


def test_not_an_id():
    refused("not//an id", "neither a folder nor a valid Hub id|No such folder")


def test_folder_without_config(tmp_path):
    refused(tmp_path, "no config.json")


def test_damaged_config(folder):
    (folder / "config.json").write_text("{")
    refused(folder, "cannot be read as JSON")


def test_folder_without_weights(folder):
    (folder / "model.safetensors").unlink()
    refused(folder, "holds no weights")


def test_truncated_safetensors(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    refused(folder, "corrupt|cannot be loaded")


def test_pickle_only_weights_are_not_opened(folder):
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    refused(folder, "only pickle weights")
    assert load(folder, allow_pickle=True).identity["parameters"] > 0


def test_nan_weights(folder):
    state = load_file(folder / "model.safetensors")
    name = next(iter(state))
    state[name].view(-1)[3] = float("nan")
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    refused(folder, "NaN")


def test_missing_weights_are_not_made_up(folder):
    state = load_file(folder / "model.safetensors")
    state.pop(next(name for name in state if "mlp" in name))
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    refused(folder, "lacks 1 weight, such as")


def test_encoder_only_model(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    refused(tmp_path, "not a causal language model", Unsupported)


def test_unknown_model_type(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no_such_family"}))
    (tmp_path / "model.safetensors").write_bytes(b"")
    refused(tmp_path, "not one this transformers knows", Unsupported)


def test_remote_code_is_not_run(tmp_path):
    marker = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(marker)!r}, 'w').write('x')\n")
    config = {
        "model_type": "evil",
        "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes(b"")
    refused(tmp_path, "own code|not one this transformers knows", (InputError, Unsupported))
    assert not marker.exists()


def test_damaged_tokenizer(folder):
    (folder / "tokenizer.json").write_text('{"version": "1.0", "model": {"type": "Nothing"}}')
    refused(folder, "tokenizer")


def test_no_tokenizer_still_loads(folder):
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).unlink(missing_ok=True)
    assert load(folder).tokenizer is None


def test_bad_dtype_and_device(folder):
    refused(folder, "dtype", dtype="int3")
    refused(folder, "Device", device="nonsense")


def test_sharded_weights_load(tmp_path, folder):
    model = tiny_model("llama")
    path = tmp_path / "sharded"
    model.save_pretrained(path, max_shard_size="100KB")
    assert len(list(path.glob("*.safetensors"))) > 1
    shutil.copy(folder / "tokenizer.json", path)
    assert load(path).identity["parameters"] == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("family", "types"),
    [
        ("gemma3_text", ["sliding", "sliding", "sliding", "full"]),
        ("qwen3_next", ["linear", "linear", "linear", "full"]),
        ("llama", ["full"] * 4),
    ],
)
def test_layer_types(family, types):
    anatomy = Subject.from_model(tiny_model(family)).anatomy
    assert [block.layer_type for block in anatomy.blocks] == types


def test_bundled_model_has_its_tokenizer():
    subject = load()
    assert subject.tokenizer is not None
    assert len(subject.tokenizer) <= tiny_or_embedding(subject)
    assert tiny_config("llama").model_type == "llama"


def tiny_or_embedding(subject):
    return subject.model.get_input_embeddings().weight.shape[0]


@pytest.mark.parametrize(
    ("given", "said"),
    [("gpt2", "not a str"), (None, "not a NoneType"), (torch.nn.Linear(3, 3), "not a Linear"),
     (torch.nn.DataParallel(torch.nn.Linear(3, 3)), "not a DataParallel: give its .module")],
)  # fmt: skip
def test_what_is_no_model_is_refused(given, said):
    with pytest.raises(InputError, match=said):
        Subject.from_model(given)


def test_a_tokenizers_name_and_a_model_without_weights_are_refused():
    with pytest.raises(InputError, match="the tokenizer itself, not a str"):
        Subject.from_model(tiny_model("llama"), "gpt2")
    for part in ("model", "model.layers.2", "lm_head"):
        model = tiny_model("llama")
        model.get_submodule(part).to("meta")
        with pytest.raises(InputError, match=rf"on the meta device, such as {part}"):
            Subject.from_model(model)


def test_a_block_that_stands_twice_is_refused():
    model = tiny_model("llama")
    model.model.layers[1] = model.model.layers[0]
    with pytest.raises(Unsupported, match="one module"):
        Subject.from_model(model)


def test_a_command_wants_a_subject(llama):
    with pytest.raises(InputError, match="a LlamaForCausalLM is no Subject; "):
        sinkscope.scan(llama.model, n=2, length=16, kind="random")


def test_a_compiled_model_and_its_hooks_are_left_as_they_are(llama):
    few = {"n": 2, "length": 16, "kind": "random", "untrained": False}
    before = sinkscope.scan(llama, **few).summary.scan["without"].late_share
    called = []
    llama.model.model.layers[0].register_forward_hook(lambda *given: called.append(1))
    compiled = torch.compile(llama.model, backend="eager")
    subject = Subject.from_model(compiled)
    assert sinkscope.scan(subject, **few).summary.scan["without"].late_share == before
    assert called
    assert len(llama.model.model.layers[0]._forward_hooks) == 1


def test_a_model_that_went_on_training_is_measured_without_dropout_and_checkpointing(llama):
    few = {"n": 2, "length": 16, "kind": "random", "untrained": False}
    before = sinkscope.scan(llama, **few).summary.scan["without"].late_share
    llama.model.gradient_checkpointing_enable()
    llama.model.train()
    for layer in llama.model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    assert sinkscope.scan(llama, **few).summary.scan["without"].late_share == before


def test_a_tokenizer_with_its_own_code_is_told_as_such(folder):
    (folder / "own.py").write_text("raise SystemExit('code of the model ran')")
    file = folder / "tokenizer_config.json"
    own = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}
    file.write_text(json.dumps(json.loads(file.read_text()) | own))
    refused(folder, "its tokenizer is code; pass --trust-remote-code")


def test_a_pickle_of_more_than_tensors_is_not_run(folder, tmp_path):
    (folder / "model.safetensors").unlink()
    torch.save({"x": _Touches(tmp_path / "ran")}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="holds more than tensors"):
        load(folder, allow_pickle=True)
    assert not (tmp_path / "ran").exists()


class _Touches:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return type(self.path).touch, (self.path,)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"stream": True, "device_map": "cpu"}, "--stream and --device-map exclude each other"),
     ({"stream": True, "tensor_parallel": True}, "--stream and --tensor-parallel exclude"),
     ({"device_map": "cpu", "tensor_parallel": True}, "--device-map and --tensor-parallel"),
     ({"device": "meta"}, "The meta device holds no numbers")],
)  # fmt: skip
def test_a_model_lies_in_one_place(folder, options, said):
    with pytest.raises(InputError, match=said):
        load(folder, **options)


def test_a_folder_has_no_revision_and_it_is_said(folder):
    found = load(folder, revision="v2").identity
    assert found["revision"] is None
    assert "no revision: 'v2' was not looked for" in found["note"]
