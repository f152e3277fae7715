"""Tiny models: they build, run, stay finite, are causal and repeat with their seed."""

import pytest
import torch

from sinkscope.subject.tiny import CannotBuild, causal_types, tiny_config, tiny_model
from tests.families import NAMED

FAMILIES = [*NAMED, "gemma3", "falcon", "bloom", "mpt", "gptj", "gpt_neo", "codegen", "xglm"]
HYBRID_OR_WINDOWED = ["cohere2", "gemma2", "gemma3_text", "gpt_oss", "qwen3_next"]


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _skip_if_absent(model_type):
    if model_type not in causal_types():
        pytest.skip(f"this transformers has no {model_type}")


def _logits(model, ids):
    with torch.no_grad():
        return model(input_ids=ids).logits


def _tokens():
    return torch.randint(4, 120, (2, 24), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("model_type", FAMILIES)
def test_runs_and_is_causal(model_type):
    _skip_if_absent(model_type)
    model, ids = tiny_model(model_type), _tokens()
    logits = _logits(model, ids)
    changed = ids.clone()
    changed[:, -1] += 1
    after = _logits(model, changed)
    assert logits.shape[:2] == (2, 24)
    assert logits.isfinite().all()
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    # Another split of the batch among experts may round differently, so not exactly equal.
    torch.testing.assert_close(after[:, :-1], logits[:, :-1], rtol=0, atol=1e-5)
    assert (after[:, -1] - logits[:, -1]).abs().max() > 1e-2


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "gemma2", "mpt"])
def test_attention_is_not_flat(model_type):
    model, ids = tiny_model(model_type), _tokens()
    model.set_attn_implementation("eager")
    with torch.no_grad():
        maps = model(input_ids=ids, output_attentions=True).attentions
    for attention in maps:
        last_row = attention[:, :, -1]
        assert last_row.amax(-1).mean() > 2 * last_row[last_row > 0].mean()


@pytest.mark.parametrize("model_type", HYBRID_OR_WINDOWED)
def test_mixed_families_keep_every_kind_of_layer(model_type):
    _skip_if_absent(model_type)
    kinds = set(tiny_config(model_type).layer_types)
    assert "full_attention" in kinds
    assert len(kinds) > 1


def test_seed_decides_the_weights_and_leaves_global_state():
    state = torch.random.get_rng_state()
    first, again, other = tiny_model("llama", 3), tiny_model("llama", 3), tiny_model("llama", 4)
    assert torch.equal(torch.random.get_rng_state(), state)
    pairs = list(zip(first.parameters(), again.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert not any(torch.equal(a, c) for a, _, c in pairs)


def test_unknown_type_cannot_be_built():
    with pytest.raises(CannotBuild, match="not a causal model type"):
        tiny_model("no_such_model")


def test_a_type_that_cannot_be_built_says_why():
    _skip_if_absent("musicgen")
    with pytest.raises(CannotBuild) as caught:
        tiny_config("musicgen")
    assert caught.value.model_type == "musicgen"
    assert "decoder's own config" in caught.value.reason


def test_types_are_sorted_and_hold_the_common_families():
    types = causal_types()
    assert types == sorted(types)
    assert {"llama", "gpt2", "opt"} <= set(types)
