"""The residual identity and the one-token P0 stream."""

import pytest
import torch
import transformers

from sinkscope.observe.p0_stream import p0_identity, p0_states
from sinkscope.observe.parity import token_prompts
from sinkscope.observe.residual import prove_residual
from sinkscope.subject.load import Subject
from sinkscope.subject.tiny import tiny_model

WRITES = {
    "llama": ("self_attn", "mlp"),
    "gpt_neox": ("attention", "mlp"),  # parallel blocks
    "olmo2": ("post_attention_layernorm", "post_feedforward_layernorm"),  # norm after the sublayer
    "gemma2": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "bloom": ("self_attention", "mlp"),  # residual added inside
    "mixtral": ("self_attn", "mlp"),
}


@pytest.mark.parametrize("family", list(WRITES))
def test_contributions_add_up(family, ids):
    proof = prove_residual(Subject.from_model(tiny_model(family)), token_prompts(ids))
    assert proof.verified
    assert proof.largest_error < 1e-6
    assert tuple(name for name, _ in proof.blocks[1].writes) == WRITES[family]


def test_the_residual_multiplier_is_found(ids):
    subject = Subject.from_model(tiny_model("granite"))
    proof = prove_residual(subject, token_prompts(ids))
    scales = [scale for _, scale in proof.blocks[0].writes]
    assert scales == pytest.approx([subject.model.config.residual_multiplier] * 2, abs=1e-5)


def test_a_block_that_does_something_else_fails_the_proof(llama, ids):
    block = llama.model.model.layers[2]
    block.register_forward_hook(lambda module, args, output: output * 1.5 + output**2)
    proof = prove_residual(llama, token_prompts(ids))
    assert not proof.verified
    assert proof.blocks[0] is not None
    assert proof.blocks[2] is None
    assert "block 2" in proof.reason()


def test_several_streams_are_refused(ids):
    subject = Subject.from_model(tiny_model("gemma3n_text"))
    assert not prove_residual(subject, token_prompts(ids)).verified


@pytest.mark.parametrize(
    "family",
    ["llama", "gpt2", "mixtral", "gemma3_text", "bloom", "qwen3_next", "deepseek_v3", "gpt_oss"],
)
def test_p0_is_a_function_of_one_token(family, ids):
    if family == "qwen3_next" and transformers.__version__.startswith("5.0."):
        pytest.skip("transformers 5.0 restarts linear attention when several tokens meet a cache")
    stream, logits = p0_identity(Subject.from_model(tiny_model(family)), ids)
    assert stream < 1e-4
    assert logits < 1e-4


def test_p0_states_do_not_depend_on_the_batch(llama):
    tokens = torch.arange(3, 40)
    together = p0_states(llama, tokens)
    alone = p0_states(llama, tokens[5:6])
    torch.testing.assert_close(together[5:6], alone, atol=1e-5, rtol=1e-5)
    assert together.shape == (37, 5, 64)
