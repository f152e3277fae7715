"""Columns, column sums and entropy from the log-sum-exp, against the attention map itself."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sinkscope.observe import columns as c
from sinkscope.observe.flex import flex_attend, flex_received
from sinkscope.observe.fused import fused_attention, fused_works, split_summands
from sinkscope.observe.scores import Scores

TOLERANCE = 2e-5


def draw(seed, length, heads, key_heads, size, mask_kind, softcap=None):
    generator = torch.Generator().manual_seed(seed)
    q = 2 * torch.randn(2, heads, length, size, generator=generator)
    k = 2 * torch.randn(2, key_heads, length, size, generator=generator)
    v = torch.randn(2, key_heads, length, size, generator=generator)
    mask = None
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    if mask_kind == "window":
        mask = (causal & causal.triu(-3))[None, None]
    elif mask_kind == "padding":
        mask = causal.repeat(2, 1, 1, 1)
        mask[1, :, :, : length // 3] = False
        mask[1, :, : length // 3, 0] = True  # a padding row sees something, as transformers does
    return Scores(q, k, mask, mask is None, size**-0.5, softcap), v


def whole_map(s):
    """The attention map, the obvious way."""
    scores = s.q @ s.expand(s.k).transpose(-1, -2) * s.scale
    if s.softcap is not None:
        scores = s.softcap * torch.tanh(scores / s.softcap)
    length = scores.shape[-1]
    visible = s.mask if s.mask is not None else torch.ones(length, length).tril().bool()
    return scores.masked_fill(~visible, -torch.inf)


cases = st.builds(
    draw,
    seed=st.integers(0, 10_000),
    length=st.integers(2, 150),
    heads=st.just(4),
    key_heads=st.sampled_from([1, 2, 4]),
    size=st.sampled_from([4, 8, 17]),
    mask_kind=st.sampled_from(["causal", "window", "padding"]),
)


@given(cases)
@settings(max_examples=40, deadline=None)
def test_everything_equals_the_map(drawn):
    s, v = drawn
    scores = whole_map(s)
    attention = scores.softmax(-1)
    valid = torch.ones(2, s.q.shape[2], dtype=torch.bool)
    valid[1, -1] = False
    out, lse = fused_attention(s.q, s.k, v, s.mask, s.causal, s.scale)
    slow_out, slow_lse = c.chunked_attention(s, v)
    right = attention @ s.expand(v)
    for got, want in (
        (out, right),
        (slow_out, right),
        (lse, scores.logsumexp(-1)),
        (slow_lse, scores.logsumexp(-1)),
    ):
        torch.testing.assert_close(got, want, atol=TOLERANCE, rtol=1e-5)
    sums = (attention * valid[:, None, :, None]).sum(2)
    torch.testing.assert_close(c.key_sums(s, lse, valid), sums, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(c.chunked_key_sums(s, lse, valid), sums, atol=1e-4, rtol=1e-5)
    entropy = torch.special.entr(attention).sum(-1)
    torch.testing.assert_close(c.row_entropy(s, lse), entropy, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(c.chunked_row_entropy(s, lse), entropy, atol=1e-4, rtol=1e-4)


@given(cases)
@settings(max_examples=15, deadline=None)
def test_received_attention_adds_up_to_the_number_of_queries(drawn):
    s, v = drawn
    _, lse = fused_attention(s.q, s.k, v, s.mask, s.causal, s.scale)
    valid = torch.ones(2, s.q.shape[2], dtype=torch.bool)
    total = c.key_sums(s, lse, valid).sum(-1)
    torch.testing.assert_close(total, torch.full_like(total, s.q.shape[2]), atol=1e-3, rtol=1e-5)


def test_p0_column_follows_each_row():
    s, _v = draw(0, 20, 4, 2, 8, "causal")
    p0 = torch.zeros(2, 20, dtype=torch.long)
    p0[1, 7:] = 7  # a packed segment
    scores = c.p0_scores(s, p0)
    full = s.q @ s.expand(s.k).transpose(-1, -2) * s.scale
    want = full.gather(3, p0[:, None, :, None].expand(-1, 4, -1, -1)).squeeze(3)
    torch.testing.assert_close(scores, want)


def test_softcap_is_applied_before_the_mask():
    s, v = draw(3, 30, 4, 4, 8, "window", softcap=1.5)
    scores = whole_map(s)
    out, lse = c.chunked_attention(s, v)
    torch.testing.assert_close(lse, scores.logsumexp(-1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out, scores.softmax(-1) @ s.expand(v), atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:flex_attention called without")
@pytest.mark.parametrize(
    ("mask", "cap", "before"),
    [("window", None, 0), ("padding", 1.5, 0), ("causal", 1.5, 0), ("causal", 1.5, 20)],
)
def test_flex_attention_equals_chunks(mask, cap, before):
    """Windows, padding, caps; and a piece of a text, whose queries come after `before` keys."""
    s, v = draw(7, 60, 4, 2, 17, mask, softcap=cap)
    s.q = s.q[:, :, before:]
    valid = torch.ones(2, 60 - before, dtype=torch.bool)
    valid[1, -3:] = False
    right, right_lse = c.chunked_attention(s, v)
    out, lse = flex_attend(s, v)
    sums = flex_received(s, right_lse, valid)
    torch.testing.assert_close(out, right, atol=TOLERANCE, rtol=1e-5)
    torch.testing.assert_close(lse, right_lse, atol=TOLERANCE, rtol=1e-5)
    want = c.chunked_key_sums(s, right_lse, valid)
    torch.testing.assert_close(sums, want, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_loses_no_bits_of_the_log_sum_exp(dtype):
    """One summand instead of three would put the masses off by whole percents."""
    s, v = draw(5, 128, 4, 4, 16, "causal")
    s.q, s.k, v = s.q.to(dtype), s.k.to(dtype), v.to(dtype)
    _, lse = fused_attention(s.q, s.k, v, None, True, s.scale)
    valid = torch.ones(2, 128, dtype=torch.bool)
    fast = c.reversed_key_sums(s, lse, valid)
    slow = c.chunked_key_sums(s, lse, valid)
    assert ((fast - slow).abs() / slow).max() < 5e-4


@given(st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=8))
def test_summands_add_up(numbers):
    x = torch.tensor(numbers)
    parts = split_summands(x, torch.bfloat16)
    assert parts.shape[-1] == 3
    total = parts.double().sum(-1)
    assert ((total - x.double()).abs() <= 2.0**-22 * x.double().abs() + 1e-30).all()


def test_the_fused_kernel_is_checked_before_it_is_trusted(monkeypatch):
    from sinkscope.observe import fused

    assert fused_works("cpu", torch.float32) is None
    assert fused_works("tpu", torch.float32)
    real = fused._cpu

    def wrong(*args):
        out, lse = real(*args)
        return out, lse + 0.01

    monkeypatch.setitem(fused.OPERATORS, "cpu", wrong)
    fused.operator_problem.cache_clear()
    try:
        assert "off by" in fused.fused_works("cpu", torch.float32)
    finally:
        fused.operator_problem.cache_clear()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_queries_that_do_not_count_are_left_out_in_half_precision(dtype):
    s, v = draw(3, 40, 4, 2, 128, "causal")
    s.q, s.k = s.q.to(dtype), s.k.to(dtype)
    valid = torch.ones(2, 40, dtype=torch.bool)
    valid[1, -7:] = False
    _, lse = c.chunked_attention(s, v)
    right = c.chunked_key_sums(s, lse, valid)
    torch.testing.assert_close(c.reversed_key_sums(s, lse, valid), right, atol=2e-3, rtol=2e-3)


def test_the_kernel_is_left_aside_where_it_does_not_serve():
    assert "half precision on CUDA" in c.received_problem("cpu", torch.bfloat16)
    assert "half precision on CUDA" in c.received_problem("cuda", torch.float32)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_cuda_operators_and_the_kernel_are_right(dtype):
    from sinkscope.observe.flex import flex_problem
    from sinkscope.observe.fused import operator_problem

    assert operator_problem("efficient", "cuda", dtype) is None
    assert flex_problem("cuda", dtype) is None
    if dtype != torch.float32:
        assert operator_problem("flash", "cuda", dtype) is None
        assert c.received_problem("cuda", dtype) is None
