"""Where blocks write: sublayers, their last maps, heads, experts; and what they really add."""

import pytest
import torch

from sinkscope.errors import Unsupported
from sinkscope.observe.attention import observe
from sinkscope.observe.parity import token_prompts
from sinkscope.observe.reads import Want
from sinkscope.observe.residual import residual_hooks
from sinkscope.observe.sites import find_sites, write_hooks
from sinkscope.subject.load import Subject
from sinkscope.subject.tiny import tiny_model

# family -> (attention projection, MLP projection, layouts of both) of its last block
LAST = {
    "llama": ("self_attn.o_proj", "mlp.down_proj", "out_in", "out_in"),
    "gpt2": ("attn.c_proj", "mlp.c_proj", "in_out", "in_out"),
    "gpt_neox": ("attention.dense", "mlp.dense_4h_to_h", "out_in", "out_in"),
    "gemma2": ("self_attn.o_proj", "mlp.down_proj", "out_in", "out_in"),
    "qwen3": ("self_attn.o_proj", "mlp.down_proj", "out_in", "out_in"),
    "olmo2": ("self_attn.o_proj", "mlp.down_proj", "out_in", "out_in"),
    "granite": ("self_attn.o_proj", "mlp.down_proj", "out_in", "out_in"),
    "bloom": ("self_attention.dense", "mlp.dense_4h_to_h", "out_in", "out_in"),
    "falcon": ("self_attention.dense", "mlp.dense_4h_to_h", "out_in", "out_in"),
    "phi": ("self_attn.dense", "mlp.fc2", "out_in", "out_in"),
    "opt": ("self_attn.out_proj", "fc2", "out_in", "out_in"),
    "mixtral": ("self_attn.o_proj", "mlp.experts", "out_in", "expert_out_in"),
    "qwen3_moe": ("self_attn.o_proj", "mlp.experts", "out_in", "expert_out_in"),
    "deepseek_v3": ("self_attn.o_proj", "mlp.experts", "out_in", "expert_out_in"),
    "gpt_oss": ("self_attn.o_proj", "mlp.experts", "out_in", "expert_in_out"),
    "qwen3_next": ("self_attn.o_proj", "mlp.experts", "out_in", "expert_out_in"),
}
PARALLEL = ("gpt_neox", "phi", "falcon")


@pytest.fixture(scope="module")
def tokens():
    return torch.randint(3, 100, (2, 24), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("family", list(LAST))
def test_last_maps_are_found(family, tokens):
    subject = Subject.from_model(tiny_model(family))
    sites = find_sites(subject, token_prompts(tokens))
    last = len(sites.blocks) - 1
    attention, mlp = sites.attention(last), sites.mlp(last)
    found = (attention.projection.module, mlp.projection.module)
    layouts = (attention.projection.layout, mlp.projection.layout)
    assert (*found, *layouts) == LAST[family]
    assert attention.heads == 4
    assert sites.mid[last] == (family not in PARALLEL)
    block = subject.anatomy.modules(subject.model)[last]
    assert attention.projection.columns(block).shape == (64, 64)
    assert mlp.projection.columns(block).shape[-1] == 64
    assert (mlp.experts is not None) == mlp.projection.layout.startswith("expert")


@pytest.mark.parametrize("family", [*LAST, "mpt", "nemotron_h", "falcon_h1", "granitemoehybrid"])
def test_writes_are_what_is_really_added(family, tokens):
    subject = Subject.from_model(tiny_model(family))
    prompts = token_prompts(tokens)
    sites = find_sites(subject, prompts)
    stream, added = {}, {}

    def keep(point, hidden):
        stream[point] = hidden.clone()

    def write(block, index, delta):
        assert index == len(added.setdefault(block, []))
        added[block].append(delta)

    def taps():
        return residual_hooks(subject, keep)() + write_hooks(subject, sites, write)()

    observe(subject, prompts, Want(received=False), extra_hooks=taps)
    for block, deltas in added.items():
        total = stream[block] + sum(deltas)
        torch.testing.assert_close(total, stream[block + 1], atol=1e-5, rtol=1e-5)
    assert len(added) == len(sites.blocks)


def test_a_hybrid_has_writes_that_are_not_softmax_attention(tokens):
    sites = find_sites(Subject.from_model(tiny_model("qwen3_next")), token_prompts(tokens))
    assert [s.kind for s in sites.blocks[0]] == ["other", "mlp"]
    assert [s.kind for s in sites.blocks[3]] == ["attention", "mlp"]
    assert sites.attention(0) is None
    assert sites.mlp(3).shared.module == "mlp.shared_expert.down_proj"


def test_points_and_writes_have_names(tokens):
    sites = find_sites(Subject.from_model(tiny_model("llama")), token_prompts(tokens))
    assert sites.points[:3] == ("x0", "0.attention", "x1")
    assert sites.points[-1] == "x4"
    assert [name for _, _, name in sites.writes][:2] == ["0.attention", "0.mlp"]
    parallel = find_sites(Subject.from_model(tiny_model("gpt_neox")), token_prompts(tokens))
    assert parallel.points == ("x0", "x1", "x2", "x3", "x4")


def test_square_experts_are_told_apart(tokens):
    """Down projections of experts as wide as the stream: the layout shows on data only."""
    from transformers import GptOssConfig, GptOssForCausalLM

    config = tiny_model("gpt_oss").config.to_dict() | {"intermediate_size": 64}
    config["experts_implementation"] = None
    torch.manual_seed(0)
    subject = Subject.from_model(GptOssForCausalLM(GptOssConfig(**config)).eval())
    sites = find_sites(subject, token_prompts(tokens))
    assert sites.mlp(0).projection.layout == "expert_in_out"
    assert sites.mlp(0).projection.parameter == "down_proj"


@pytest.mark.parametrize("parameter", ["gate_up_proj", "down_proj"])
def test_experts_that_are_silent_are_found_beside_a_shared_one(parameter, tokens):
    model = tiny_model("qwen2_moe")
    torch.nn.init.zeros_(getattr(model.model.layers[-1].mlp.experts, parameter))
    mlp = find_sites(Subject.from_model(model), token_prompts(tokens)).mlp(-1)
    assert mlp.experts == mlp.projection.module == "mlp.experts"
    assert mlp.shared.module == "mlp.shared_expert.down_proj"


def test_a_block_that_does_something_else_is_refused(llama, tokens):
    block = llama.model.model.layers[1]
    block.register_forward_hook(lambda module, args, output: output * 1.5 + output**2)
    with pytest.raises(Unsupported, match="residual identity"):
        find_sites(llama, token_prompts(tokens))


def test_no_hook_is_left_behind(llama, tokens):
    before = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in llama.model.modules()]
    find_sites(llama, token_prompts(tokens))
    after = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in llama.model.modules()]
    assert before == after
