"""Collapse of the stream: figures of matrices whose answer is known, and the theorem."""

import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sinkscope.errors import Unsupported
from sinkscope.mixing import collapse as c
from sinkscope.mixing.conditions import REDISTRIBUTED
from sinkscope.mixing.entropy import map_curves, map_measures
from sinkscope.observe.parity import token_prompts
from sinkscope.subject.load import Subject
from sinkscope.subject.tiny import tiny_model


def test_known_matrices():
    found, _ = c.measures(3 * torch.eye(6))
    assert found["effective_rank"] == pytest.approx(6)
    assert found["anisotropy"] == pytest.approx(1 / 6)
    assert found["token_cosine"] == pytest.approx(0, abs=1e-12)
    same, _ = c.measures(torch.ones(5, 3))
    assert same["effective_rank"] == pytest.approx(1)
    assert same["rank_collapse"] == pytest.approx(0, abs=1e-7)
    assert same["representational_collapse"] == 0
    assert same["token_cosine"] == pytest.approx(1)


@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(3, 20),
    width=st.integers(2, 20),
    spike=st.sampled_from([0.01, 1.0, 30.0, 3000.0]),
    drift=st.sampled_from([0.0, 1.0, 20.0]),
)
@settings(max_examples=150, deadline=None)
def test_the_theorem_holds_on_any_matrix(seed, rows, width, spike, drift):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, width, generator=generator)
    x = x + drift * torch.randn(width, generator=generator)
    x[0] *= spike
    found = c.theorem(x)
    assert found.sigma >= -c.ROUNDING
    assert not found.entropy < -1e-9
    squares = torch.linalg.svdvals(x.double()).square()
    # a Gram matrix knows small values to the precision of its largest
    tolerance = max(1e-6, 1e-13 * float(squares[0]))
    torch.testing.assert_close(c.spectrum(x)[: len(squares)], squares, rtol=1e-6, atol=tolerance)


def test_the_theorem_is_tight_for_two_orthogonal_directions():
    x = torch.tensor([[5.0, 0.0], [0.0, 1.0], [0.0, 2.0]])
    found = c.theorem(x)
    assert found.sigma == pytest.approx(0, abs=1e-12)
    assert found.entropy == pytest.approx(0, abs=1e-12)
    # a spectrum that is too small is caught
    assert c.theorem(x, 0.9 * c.spectrum(x)).sigma < -c.ROUNDING


def matrix_sample() -> list[str]:
    """Families that the support matrix claims; all of them are checked by bench/mixing.py."""
    import json

    from sinkscope.cli.models import MATRIX
    from sinkscope.observe.matrix import verified

    rows = json.loads(MATRIX.read_text(encoding="utf-8"))["types"]
    names = sorted(n for n, row in rows.items() if verified(row)["lean"] and "residual" in row)
    return ["llama", "gpt2", "gpt_oss", *random.Random(0).sample(names, 4)]


@pytest.mark.parametrize("name", matrix_sample())
def test_the_theorem_on_models_of_the_matrix(name, ids):
    found = c.collapse(Subject.from_model(tiny_model(name)), token_prompts(ids))
    assert found.holds
    assert found.sigma.shape[0] == 2
    assert all(np.isfinite(v).all() for v in found.values.values())


def test_curves_by_read_point(llama, ids):
    found = c.collapse(llama, token_prompts(ids))
    other = c.collapse(llama, token_prompts(ids), REDISTRIBUTED)
    assert found.values["effective_rank"].shape == (2, 2, 5)
    np.testing.assert_allclose(
        found.values["effective_rank"][:, :, 0], other.values["effective_rank"][:, :, 0]
    )
    assert (found.values["effective_rank"] != other.values["effective_rank"])[:, :, 1:].all()


def test_padding_is_left_out(llama, ids):
    prompts = token_prompts(ids)
    prompts.lengths = torch.tensor([24, 10])
    whole, cut = c.collapse(llama, prompts), c.collapse(llama, token_prompts(ids[1:, :10]))
    for name in c.NAMES:
        np.testing.assert_allclose(whole.values[name][1], cut.values[name][0], rtol=1e-4)


def test_repeating_the_last_token_collapses_where_attention_is_even(ids):
    """With queries at zero every head averages, and one more equal token hardly changes a mean."""
    subject = Subject.from_model(tiny_model("llama"))
    with torch.no_grad():
        for name, parameter in subject.model.named_parameters():
            if "q_proj" in name:
                parameter.zero_()
    prompts = token_prompts(torch.cat([ids] * 6, 1))
    found = c.repeat_collapse(subject, prompts, [4, 140, 1000])
    assert (found[:, 1] < 0.3 * found[:, 0]).all()
    assert np.isnan(found[:, 2]).all()


def test_a_prompt_as_long_as_the_model_reaches_can_be_repeated(ids):
    """The repeated token takes the last place, so no position lies beyond learned ones."""
    subject = Subject.from_model(tiny_model("gpt2"))
    longest = subject.max_length
    prompts = token_prompts(ids[:1].repeat(1, longest)[:, :longest])
    found = c.repeat_collapse(subject, prompts, [8, longest], REDISTRIBUTED)
    assert np.isfinite(found).all()
    assert (found != c.repeat_collapse(subject, prompts, [8, longest])).all()


def test_families_outside_the_registry_have_a_stream_too(ids):
    subject = Subject.from_model(tiny_model("bloom"))
    assert c.collapse(subject, token_prompts(ids)).holds
    with pytest.raises(Unsupported, match="attention registry"):
        c.collapse(subject, token_prompts(ids), REDISTRIBUTED)
    with pytest.raises(Unsupported, match="several residual streams"):
        c.collapse(Subject.from_model(tiny_model("gemma3n_text")), token_prompts(ids))


def test_known_maps():
    length = 8
    even = torch.ones(1, length, length).tril()
    even = even / even.sum(-1, keepdim=True)
    found = map_measures(even)
    torch.testing.assert_close(found["row_entropy"], torch.ones(2, 1, dtype=torch.float64))
    torch.testing.assert_close(found["smoothness"], torch.ones(2, 1, dtype=torch.float64))
    sink = torch.zeros(1, length, length)
    sink[..., 0] = 1.0
    assert map_measures(sink)["row_entropy"][0].item() == 0
    assert map_measures(sink)["smoothness"][0].item() == 0.5
    spike = torch.zeros(1, length, length)
    spike[..., 2] = 1.0
    assert map_measures(spike)["smoothness"][0].item() == 0.0
    assert map_measures(0.5 * sink + 0.5 * even)["row_entropy"][1].item() == pytest.approx(1)


def test_map_curves(llama, ids):
    found = map_curves(llama, token_prompts(ids))
    assert found["row_entropy"].shape == (2, 2, 4)
    assert 0 < found["row_entropy"].min() <= found["row_entropy"].max() <= 1
    assert math.isfinite(found["smoothness"].sum())
