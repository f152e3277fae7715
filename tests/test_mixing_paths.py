"""The path-sum bound truly bounds the frozen-attention Jacobian."""

import numpy as np
import pytest
import torch

from sinkscope.errors import Unsupported
from sinkscope.mixing.jacobian import jacobian_norms
from sinkscope.mixing.paths import path_bound
from sinkscope.subject.load import Subject
from sinkscope.subject.tiny import tiny_model

MODELS = 60


# kinds of block that a random model is drawn from, in turn
KINDS = {
    "gpt2": "LayerNorm, learned positions",
    "gpt_neox": "attention and MLP side by side",
    "llama": "RMSNorm, rotary positions, shared key heads",
    "gemma2": "norms behind the sublayers too, soft caps",
    "qwen3_moe": "routed experts, normed queries and keys",
    "gpt_oss": "routed experts, learned sinks, sliding windows",
}


def random_subject(seed: int) -> tuple[Subject, torch.Tensor]:
    """A random small model of one of KINDS in double precision, and a random prompt."""
    from transformers import AutoConfig, AutoModelForCausalLM

    generator = torch.Generator().manual_seed(seed)

    def pick(*choices):
        return choices[int(torch.randint(len(choices), (), generator=generator))]

    heads, depth = pick(1, 2, 4), pick(1, 2, 3)
    size = pick(4, 8)
    length = pick(3, 5, 8)
    kind = list(KINDS)[seed % len(KINDS)]
    sizes: dict = {
        "vocab_size": 30, "hidden_size": heads * size, "num_hidden_layers": depth,
        "num_attention_heads": heads, "intermediate_size": 2 * heads * size, "pad_token_id": 0,
    }  # fmt: skip
    if kind == "gpt2":
        sizes = {"vocab_size": 30, "n_embd": heads * size, "n_layer": depth, "n_head": heads}
        sizes["n_positions"] = 16
    elif kind != "gpt_neox":
        sizes |= {"num_key_value_heads": pick(1, heads), "head_dim": size}
    if kind in ("qwen3_moe", "gpt_oss"):
        experts = pick(2, 4)
        sizes |= {"num_local_experts": experts, "num_experts": experts, "num_experts_per_tok": 2}
        sizes |= {"moe_intermediate_size": 2 * size, "sliding_window": 3}
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes))
    if "num_experts" in sizes:  # grouped matrix products are single precision only
        model.set_experts_implementation("eager")
    gain = pick(0.3, 1.0, 3.0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(gain * torch.randn_like(parameter) / parameter.shape[-1] ** 0.5)
            else:
                parameter.add_(0.3 * torch.randn_like(parameter))
    ids = torch.randint(30, (length,), generator=generator)
    subject = Subject.from_model(model)
    subject.model.double()
    return subject, ids


def slack(subject: Subject, ids: torch.Tensor) -> np.ndarray:
    """Frozen norms over their bounds, where there is a path; elsewhere both must be zero."""
    bound = path_bound(subject, ids).bound
    frozen = jacobian_norms(subject, ids, frozen=True).norm
    causal = np.tril(np.ones_like(bound, dtype=bool))
    assert not frozen[bound == 0].any()  # windows leave some pairs without a path
    assert frozen[~causal].max(initial=0) == 0
    seen = causal & (bound > 0)
    assert seen[-1, -2:].all()
    return frozen[seen] / bound[seen]


@pytest.mark.parametrize("start", range(0, MODELS, 12))
def test_the_bound_holds_on_random_models(start):
    for seed in range(start, start + 12):
        ratio = slack(*random_subject(seed))
        assert ratio.max() <= 1 + 1e-9, seed


def test_the_bound_is_exact_where_there_is_one_path_of_rank_one():
    """Position zero of a single block: only the way through itself; its factor is Φ's and v's."""
    subject, ids = random_subject(2)
    found = path_bound(subject, ids)
    first = found.factors[0]
    alone = first.carry_f[0] + (first.read[:, 0] * first.value_f[:, 0]).sum()
    if len(found.factors) == 1:
        assert found.bound[0, 0] == pytest.approx(float(alone))
    assert slack(subject, ids).max() > 0.05  # not vacuous


def test_a_bound_with_a_factor_left_out_fails():
    """The test can fail: without the values' factor the bound is broken somewhere."""
    broken = 0
    for seed in range(20):
        subject, ids = random_subject(seed)
        found = path_bound(subject, ids)
        product = None
        for factors in found.factors:
            factors.value, factors.value_f = factors.value * 0, factors.value_f * 0
            step = factors.bound(frobenius=product is None)
            product = step if product is None else step @ product
        frozen = jacobian_norms(subject, ids, frozen=True).norm
        broken += bool((frozen > product.numpy() * (1 + 1e-9)).any())
    assert broken > 10


@pytest.mark.parametrize("name", ["qwen3_moe", "gpt_oss", "qwen3"])
def test_families_with_experts_and_learned_sinks(name):
    subject = Subject.from_model(tiny_model(name))
    if name != "qwen3":
        subject.model.set_experts_implementation("eager")
    subject.model.double()
    ids = torch.randint(3, 100, (5,), generator=torch.Generator().manual_seed(0))
    assert slack(subject, ids).max() <= 1 + 1e-9


def test_what_mixes_positions_elsewhere_is_refused():
    subject = Subject.from_model(tiny_model("qwen3_next"))
    with pytest.raises(Unsupported, match="mixes positions outside attention"):
        path_bound(subject, torch.arange(3, 9))
