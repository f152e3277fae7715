"""Mixing: attention with a key taken away, Jacobians, and the bound on them."""

import numpy as np
import pytest
import torch

from sinkscope.intervene.edits import (
    ClampAttention,
    RecordAttention,
    RemoveAttention,
    RemoveValue,
)
from sinkscope.mixing.conditions import (
    INTACT,
    REDISTRIBUTED,
    VALUE_ZEROED,
    Condition,
    earlier_keys,
    other_key,
    run,
)
from sinkscope.mixing.influence import PROBES
from sinkscope.mixing.jacobian import estimate_norms, interval, jacobian_norms
from sinkscope.observe.parity import plain_logits, token_prompts
from sinkscope.subject.load import Subject
from sinkscope.subject.tiny import tiny_model

FAMILIES = ["llama", "gpt2", "gemma2", "gpt_oss", "qwen3_next"]
KEYS = (3, 5)


def subject_of(name: str) -> Subject:
    return Subject.from_model(tiny_model(name), name=f"tiny {name}")


@pytest.mark.parametrize("name", FAMILIES)
def test_a_pass_that_takes_nothing_away_is_the_plain_pass(name, ids):
    subject, prompts = subject_of(name), token_prompts(ids)
    plain = plain_logits(subject, prompts)
    for condition in (
        INTACT,
        Condition("a", (RemoveAttention(dose=0.0),)),
        Condition("b", (RemoveAttention(KEYS, dose=0.0),)),
    ):
        logits = run(subject, prompts, condition, logits=True).logits
        torch.testing.assert_close(logits, plain, atol=2e-4, rtol=1e-4)


def hidden_key_logits(subject, prompts, keys):
    """Logits with a key closed in the mask itself, by the family's own eager attention."""
    from sinkscope.observe.registry import attention_functions
    from sinkscope.observe.tap import own_eager

    def attention(module, query, key, value, attention_mask, **kwargs):
        mask = attention_mask[..., : key.shape[2]].expand(len(keys), -1, -1, -1).clone()
        for row, p in enumerate(keys.tolist()):
            mask[row, :, p + 1 :, p] = torch.finfo(mask.dtype).min
        return own_eager(module, query, key, value, mask, kwargs)

    with torch.no_grad(), attention_functions(subject.model, attention, "eager"):
        return subject.model(input_ids=prompts.input_ids, use_cache=False).logits


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("own", [False, True])
def test_redistributed_mass_is_a_key_closed_in_the_mask(name, own, ids):
    subject, prompts = subject_of(name), token_prompts(ids)
    for condition, keys in ((REDISTRIBUTED, (0, 0)), (other_key(KEYS), KEYS)):
        found = run(subject, prompts, condition, logits=True, own=own)
        wanted = hidden_key_logits(subject, prompts, torch.tensor(keys))
        torch.testing.assert_close(found.logits, wanted, atol=2e-4, rtol=1e-4)
        assert found.shares().nan_to_num().abs().max() == 0  # NaN where no late query sees the key
        assert found.removed().nan_to_num().min() >= 0
        assert found.removed().nan_to_num().max() > 0.01


@pytest.mark.parametrize("remove", [RemoveAttention, RemoveValue])
def test_lean_and_own_agree_at_any_dose(remove, ids):
    subject, prompts = subject_of("llama"), token_prompts(ids)
    masses: tuple[dict, dict] = ({}, {})
    lean, own = (
        run(
            subject,
            prompts,
            Condition("some", (remove(KEYS, dose=0.4), RecordAttention(KEYS, kept))),
            logits=True,
            own=slow,
        )
        for slow, kept in enumerate(masses)
    )
    torch.testing.assert_close(lean.logits, own.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(lean.shares(), own.shares(), atol=1e-5, rtol=1e-4)
    for block, mass in masses[0].items():
        torch.testing.assert_close(mass, masses[1][block], atol=1e-5, rtol=1e-4)


def test_a_zeroed_value_is_subtracted_and_nothing_else(ids):
    """One block, so that the change of the output is that of attention alone."""
    subject, prompts = subject_of("llama"), token_prompts(ids)
    seen = {}

    def keep(condition):
        def consume(point, hidden):
            seen[condition.name, point] = hidden.clone()

        return run(subject, prompts, condition, consume=consume)

    keep(INTACT)
    one = Condition("one", (RemoveValue(heads=((0, 1), (0, 2))),))
    found = keep(one)
    assert torch.equal(seen["intact", 1][:, 0], seen["one", 1][:, 0])  # P0 keeps its own value
    assert not torch.equal(seen["intact", 1][:, 1:], seen["one", 1][:, 1:])
    assert found.shares()[:, 0].max() > 0.01  # the mass stays where it was
    assert found.removed().max() == 0


def test_heads_that_are_not_named_keep_their_mass(ids):
    subject, prompts = subject_of("llama"), token_prompts(ids)
    intact = run(subject, prompts).shares()
    for own in (False, True):
        condition = Condition("a", (RemoveAttention(heads=((0, 1), (3, 2))),))
        found = run(subject, prompts, condition, own=own)
        assert found.shares()[:, 0, 1].max() == 0
        assert found.shares()[:, 3, 2].max() == 0
        assert torch.allclose(found.shares()[:, 0, [0, 2, 3]], intact[:, 0, [0, 2, 3]])
        assert found.removed()[:, 1].max() == 0


def test_clamping_to_the_masses_of_another_pass_gives_its_output(ids):
    subject, prompts = subject_of("llama"), token_prompts(ids)
    masses: dict = {}
    edits = (RemoveAttention(dose=0.5), RecordAttention(masses=masses))
    half = run(subject, prompts, Condition("half", edits), logits=True)
    clamp = Condition("clamped", (ClampAttention(masses=masses),))
    clamped = run(subject, prompts, clamp, logits=True)
    torch.testing.assert_close(clamped.logits, half.logits, atol=1e-4, rtol=1e-4)


def test_everything_is_restored_after_an_error(ids):
    from transformers import AttentionInterface

    subject, prompts = subject_of("llama"), token_prompts(ids)
    before = plain_logits(subject, prompts)
    names = set(AttentionInterface._global_mapping)
    implementation = subject.model.config._attn_implementation_internal

    def fail(point, hidden):
        if point == 2:
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        run(subject, prompts, REDISTRIBUTED, consume=fail)
    assert set(AttentionInterface._global_mapping) == names
    assert subject.model.config._attn_implementation_internal == implementation
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in subject.model.modules())
    assert torch.equal(plain_logits(subject, prompts), before)


def test_earlier_keys_lie_between(ids):
    prompts = token_prompts(ids[:1].expand(500, -1))
    before = torch.full((500,), 6)
    keys = earlier_keys(prompts, before)
    assert sorted(keys.unique().tolist()) == [1, 2, 3, 4, 5]


def whole_jacobian(subject, ids):
    """The obvious way: one autograd Jacobian of the whole stack under its own eager attention."""
    from sinkscope.observe.registry import configurations
    from sinkscope.observe.residual import hidden_of

    model = subject.model
    for config in configurations(model):
        config._attn_implementation_internal = "eager"
    blocks = subject.anatomy.modules(model)
    ends = {}
    handle = blocks[0].register_forward_pre_hook(
        lambda m, a, k: ends.__setitem__("x", (a[0] if a else k["hidden_states"]).detach()),
        with_kwargs=True,
    )
    model(input_ids=ids[None], use_cache=False)
    handle.remove()

    def stack(x):
        def swap(m, a, k):
            return (x[None], *a[1:]), k

        def keep(m, a, o):
            ends["y"] = hidden_of(o)

        handles = [
            blocks[0].register_forward_pre_hook(swap, with_kwargs=True),
            blocks[-1].register_forward_hook(keep),
        ]
        model(input_ids=ids[None], use_cache=False)
        for one in handles:
            one.remove()
        return ends["y"][0]

    whole = torch.autograd.functional.jacobian(stack, ends["x"][0])  # [T, d, T, d]
    return whole.square().sum((1, 3)).sqrt()


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "qwen3_moe"])
def test_jacobian_by_vjp_against_autograd(name):
    subject = subject_of(name)
    if name == "qwen3_moe":  # grouped matrix products do not exist in double precision
        subject.model.set_experts_implementation("eager")
    subject.model.double()
    ids = torch.randint(3, 100, (6,), generator=torch.Generator().manual_seed(2))
    found = torch.from_numpy(jacobian_norms(subject, ids).norm)
    wanted = whole_jacobian(subject, ids)
    assert (found - wanted).abs().max() <= 1e-5 * wanted.max()
    seen = wanted > 1e-9
    assert ((found - wanted).abs()[seen] / wanted[seen]).max() <= 1e-5
    assert found.triu(1).abs().max() == 0


def test_hutchinson_intervals_hold_the_exact_norm():
    """As many probes as `mix` takes; bench/mixing.py coverage has more draws and families."""
    subject = subject_of("llama")
    ids = torch.randint(3, 100, (10,), generator=torch.Generator().manual_seed(3))
    exact = jacobian_norms(subject, ids, [5, 9]).norm
    seen = exact > 0
    held, ratio = [], []
    for seed in range(30):
        found = estimate_norms(subject, ids, [5, 9], probes=PROBES, seed=seed)
        held.append(((found.low <= exact) & (exact <= found.high))[seen].mean())
        ratio.append(found.norm[seen] / exact[seen])
        assert found.high[~seen].max() == 0
    assert 0.9 < np.mean(held) < 0.99
    assert abs(np.mean(np.square(ratio)) - 1) < 0.05  # the squares are unbiased


@pytest.mark.parametrize("rank", [1, 3, 40])
def test_the_interval_of_an_estimated_norm_has_its_coverage(rank):
    generator = np.random.default_rng(rank)
    matrix = generator.normal(size=(40, rank)) / rank
    signs = generator.choice([-1.0, 1.0], size=(2000, PROBES, 40))
    drawn = ((signs @ matrix) ** 2).sum(-1)[:, :, None]
    low, high = interval(drawn)
    truth = (matrix**2).sum()
    covered = ((low <= truth) & (truth <= high)).mean()
    assert 0.92 < covered < 0.985


def test_a_frozen_jacobian_lacks_the_part_through_the_scores(ids):
    subject = subject_of("llama")
    full = jacobian_norms(subject, ids[0, :6]).norm
    frozen = jacobian_norms(subject, ids[0, :6], frozen=True).norm
    assert abs(full - frozen).max() > 1e-3 * full.max()


def test_a_jacobian_under_a_condition_has_no_way_through_p0(ids):
    subject = subject_of("llama")
    found = jacobian_norms(subject, ids[0, :6], condition=REDISTRIBUTED).norm
    assert found[1:, 0].max() == 0
    assert found[0, 0] > 0
    zeroed = jacobian_norms(subject, ids[0, :6], condition=VALUE_ZEROED).norm
    assert zeroed[1:, 0].min() > 0  # the scores still depend on P0
