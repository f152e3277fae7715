"""Every definition of `observe` beside a slow, obvious one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sinkscope.observe.late import (
    first_late,
    late_seeing,
    mean_by_p0,
    mean_over,
    uniform_late_share,
    uniform_shares,
)
from sinkscope.observe.layout import layout_of
from sinkscope.observe.loss import (
    log_probabilities,
    mean_by_prompt,
    predictions,
    token_kl,
    token_loss,
)
from sinkscope.observe.p0_stream import first_tokens, one_token_pass, p0_states
from sinkscope.observe.scores import NEVER, Scores
from sinkscope.observe.softmax import attend, attend_without, attend_without_first
from sinkscope.observe.stream import (
    OthersMean,
    mean_cosine,
    norm_ratio,
    put_hidden,
    sink_direction,
    with_hidden,
)
from sinkscope.ranks import rank
from sinkscope.stats import first_sustained, nan_mean
from sinkscope.subject.prompts import Prompts

WINDOW = 5
LENGTHS = (9, 7, 4)


@pytest.fixture
def rows():
    """Prompts of 9, 7 and 4 tokens, padded on the right, and what a window of 5 lets them see."""
    ids = torch.randint(3, 100, (3, 9), generator=torch.Generator().manual_seed(0))
    prompts = Prompts(ids, torch.tensor(LENGTHS), "ids", "without")
    steps = torch.arange(9)
    mask = (steps[:, None] >= steps) & (steps[:, None] - steps < WINDOW)
    layout = layout_of(prompts, torch.device("cpu"))
    return prompts, layout, layout.visibility(mask.expand(1, 1, 9, 9))


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def test_late_mean_and_its_uniform_value(rows):
    _, layout, visible = rows
    mass = noise(3, 2, 9).exp()
    counted = late_seeing(layout, visible)
    found, uniform = mean_over(mass, counted.unsqueeze(1)), uniform_shares(layout, visible)[1]
    for row, length in enumerate(LENGTHS):
        late = [t for t in range(length) if 2 * t >= length and t < WINDOW]
        if not late:  # a window of 5 keeps P0 from every late query of nine
            assert row == 0
            assert torch.isnan(found[row]).all()
            assert torch.isnan(uniform[row])
            continue
        torch.testing.assert_close(found[row], torch.stack([mass[row, :, t] for t in late]).mean(0))
        assert float(uniform[row]) == pytest.approx(np.mean([1 / (t + 1) for t in late]))
    torch.testing.assert_close(mean_by_p0(mass, counted, layout), found, equal_nan=True)


@pytest.mark.parametrize("length", [1, 2, 7, 40])
def test_first_late_query(length):
    late = [t for t in range(length) if 2 * t >= length]
    assert list(range(first_late(length), length)) == late
    if late:
        expected = sum(1 / (t + 1) for t in late) / len(late)
        assert uniform_late_share(length) == pytest.approx(expected)


def test_norm_ratio_is_over_the_lower_median_of_the_others(rows):
    _, layout, _ = rows
    x = noise(3, 9, 4)
    found = norm_ratio(x.norm(dim=-1), layout.valid & ~layout.is_p0)
    for row, length in enumerate(LENGTHS):
        norms = sorted(float(x[row, t].norm()) for t in range(1, length))
        middle = norms[(len(norms) - 1) // 2]
        assert float(found[row, 0]) == pytest.approx(float(x[row, 0].norm()) / middle)
    torch.testing.assert_close(norm_ratio(x.norm(dim=-1))[0], found[0])


def test_direction_cosine_and_mean_of_the_others(rows):
    _, layout, _ = rows
    x, p0 = noise(3, 9, 4), noise(6, 4)
    others = OthersMean()
    others.add(0, x[:1], layout_of(_first(rows, 1), torch.device("cpu")))
    others.add(0, x, layout)
    each = [x[0, t] / x[0, t].norm() for t in range(1, 9)]  # the first row was added twice
    each += [x[r, t] / x[r, t].norm() for r, n in enumerate(LENGTHS) for t in range(1, n)]
    torch.testing.assert_close(others.mean[0], torch.stack(each).mean(0))
    unit = torch.stack([row / row.norm() for row in p0])
    u = unit.mean(0) - others.mean[0]
    torch.testing.assert_close(sink_direction(p0, others.mean[0]), u / u.norm())
    pairs = [float(unit[a] @ unit[b]) for a in range(6) for b in range(6) if a != b]
    assert float(mean_cosine(p0)) == pytest.approx(np.mean(pairs), abs=1e-6)
    assert torch.isnan(mean_cosine(p0[:1]))


def _first(rows, count: int) -> Prompts:
    return rows[0].take(slice(0, count))


@pytest.mark.parametrize("softcap", [None, 3.0])
def test_softmax_with_and_without_a_key(softcap):
    q, k, v = noise(2, 2, 9, 8), noise(2, 1, 9, 8) + 1, noise(2, 1, 9, 8)
    s = Scores(q, k, None, True, 0.5, softcap)
    scores, _ = s.chunk(0, 9, s.expand(k))

    def slow(hidden: list[int] | None):
        left = scores.double().clone()
        for row, key in enumerate(hidden or []):
            left[row, :, :, key] = NEVER
        return left.softmax(-1) @ v.double(), left.logsumexp(-1)

    for hidden in (None, [0, 0], [3, 6]):
        out, lse = attend(s, v) if hidden is None else attend_without(s, v, torch.tensor(hidden))
        right, right_lse = slow(hidden)
        if hidden == [0, 0]:  # query 0 is left with nothing
            assert torch.isneginf(lse[:, :, 0]).all()
            assert not out[:, :, 0].any()
            torch.testing.assert_close(attend_without_first(s, v)[1], lse)
            out, lse, right, right_lse = (x[:, :, 1:] for x in (out, lse, right, right_lse))
        torch.testing.assert_close(out.double(), right, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(lse.double(), right_lse, atol=1e-5, rtol=1e-5)


def test_loss_and_kl_over_named_positions(rows):
    prompts, layout, _ = rows
    logits, other = noise(3, 9, 100), noise(3, 9, 100) * 0.5
    intact, changed = log_probabilities(logits[:, :-1]), log_probabilities(other[:, :-1])
    targets = prompts.input_ids[:, 1:]
    for first in (0, 1, 3):
        counted = predictions(layout, first)
        loss = mean_by_prompt(token_loss(intact, targets), counted)
        kl = mean_by_prompt(token_kl(intact, changed), counted)
        for row, length in enumerate(LENGTHS):
            at = range(first, length - 1)
            p, q = (x[row].double().softmax(-1) for x in (logits, other))
            each = [-float(p[t, prompts.input_ids[row, t + 1]].log()) for t in at]
            assert float(loss[row]) == pytest.approx(np.mean(each) if each else 0.0, abs=1e-5)
            each = [float((p[t] * (p[t] / q[t]).log()).sum()) for t in at]
            assert float(kl[row]) == pytest.approx(np.mean(each) if each else 0.0, abs=1e-5)


def test_predictions_do_not_cross_from_one_packed_segment_to_the_next():
    ids = torch.arange(3, 11).unsqueeze(0)
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4]])
    packed = Prompts(ids, torch.tensor([8]), "ids", "without", position_ids=positions)
    counted = predictions(layout_of(packed, torch.device("cpu")))
    assert counted[0].nonzero().flatten().tolist() == [1, 4, 5, 6]


def test_hidden_states_are_replaced_where_they_are():
    x, mask, new = torch.zeros(1, 2, 3), torch.ones(1, 2, dtype=torch.bool), torch.ones(1, 2, 3)
    args, kwargs = put_hidden((mask, x), {"use_cache": False}, new)
    assert args[0] is mask
    assert args[1] is new
    assert kwargs == {"use_cache": False}
    args, kwargs = put_hidden((mask,), {"hidden_states": x}, new)
    assert args == (mask,)
    assert kwargs["hidden_states"] is new
    assert with_hidden(x, new) is new
    assert with_hidden((x, mask), new) == (new, mask)


def test_the_one_token_pass_is_p0_within_a_prompt(llama):
    ids = torch.randint(3, 100, (4, 12), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        hidden = llama.model(ids, output_hidden_states=True).hidden_states[:-1]
    states = p0_states(llama, ids[:, 0])
    for point, whole in enumerate(hidden):
        torch.testing.assert_close(states[:, point], whole[:, 0], atol=1e-5, rtol=1e-5)
    stopped = p0_states(llama, ids[:, 0], stop=2)
    torch.testing.assert_close(stopped, states[:, :3], atol=0, rtol=0)
    seen: list[bool] = []

    def taps():
        block = llama.anatomy.modules(llama.model)[1]
        block.requires_grad_(True)
        hook = lambda module, args, out: seen.append(torch.is_grad_enabled())  # noqa: E731
        return [block.register_forward_hook(hook)]

    one_token_pass(llama, ids[:1, 0], taps)
    one_token_pass(llama, ids[:1, 0], taps, grad=True)
    assert seen == [False, True]
    assert all(p.requires_grad for p in llama.anatomy.modules(llama.model)[1].parameters())


def test_first_tokens_are_bos_alone_also_behind_left_padding(llama):
    ids = torch.tensor([[0, 7, 8, 9], [50, 0, 9, 8]])
    mask = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1]])
    prompts = Prompts(ids, torch.tensor([4, 3]), "ids", "with", attention_mask=mask)
    assert first_tokens(llama, prompts, 0).tolist() == [0]
    plain = Prompts(ids, torch.tensor([4, 4]), "ids", "without")
    assert len(first_tokens(llama, plain, 0)) > 90


def test_means_runs_and_ranks():
    values = np.array([[1.0, np.nan, 3.0], [np.nan, np.nan, 5.0]])
    np.testing.assert_array_equal(nan_mean(values), [1.0, np.nan, 4.0])
    np.testing.assert_array_equal(nan_mean(values, 1), [2.0, 5.0])
    assert nan_mean(values, None) == 3.0
    assert first_sustained(np.array([1, 0, 1, 1, 1], dtype=bool)) == 2
    assert rank() == 0
