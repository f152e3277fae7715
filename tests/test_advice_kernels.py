"""Simulated int8 against torchao's own, on the same layers."""

from __future__ import annotations

import pytest
import torch

import sinkscope
from sinkscope.advice.kernels import SIMULATED, quantised
from sinkscope.intervene.edits.rounding import linear_maps
from sinkscope.intervene.rounding import rounded, rounded_rows
from sinkscope.known.constructed import build_in_memory, draw_spec
from sinkscope.subject.load import Subject

torchao = pytest.importorskip("torchao.quantization", reason="pip install torchao")


@pytest.fixture(scope="module")
def subject() -> Subject:
    model, tokenizer, _ = build_in_memory(draw_spec("p0-two-block", 3, family="llama", noise=0.02))
    return Subject.from_model(model, tokenizer, "p0-two-block")


@pytest.fixture(scope="module")
def given(subject) -> dict[str, tuple[torch.nn.Linear, torch.Tensor]]:
    """Path -> map, and what it is given on a text."""
    ids = sinkscope.build_prompts(subject, n=1, length=64).input_ids
    found: dict[str, tuple[torch.nn.Linear, torch.Tensor]] = {}
    handles = [
        module.register_forward_pre_hook(
            lambda m, args, name=name: found.__setitem__(name, (m, args[0]))
        )
        for name, module in linear_maps(subject)
    ]
    with torch.no_grad():
        subject.model(ids)
    for handle in handles:
        handle.remove()
    return found


def relative(one: torch.Tensor, other: torch.Tensor, whole: torch.Tensor) -> float:
    return float((one - other).norm() / whole.norm())


def scaled(x: torch.Tensor, granularity, scale: torch.Tensor, **activations):
    """torchao's tensor with a scale that is given."""
    from torchao.quantization.quantize_.workflows import Int8Tensor

    return Int8Tensor.from_hp(x, granularity, scale=scale, **activations)


@pytest.mark.parametrize("group", ["tensor", "token"])
def test_with_the_same_scale_it_is_the_same(given, group):
    """torchao's int8 product with a scale of the largest magnitude over 127: 1e-2 relative."""
    from torchao.quantization.quantize_.workflows import QuantizeTensorToInt8Kwargs

    per = torchao.PerRow() if group == "token" else torchao.PerTensor()
    worst = 0.0
    with torch.no_grad():
        for linear, x in given.values():
            weight, x = linear.weight.data, x[0]
            top = x.abs().amax(-1, keepdim=True) if group == "token" else x.abs().max().view(1, 1)
            theirs = scaled(
                weight,
                torchao.PerRow(),
                weight.abs().amax(1, keepdim=True) / 127,
                act_quant_kwargs=QuantizeTensorToInt8Kwargs(per),
                act_quant_scale=top.clamp_min(1e-12) / 127,
            )
            real = torch.nn.functional.linear(x, theirs)
            mine = rounded(x[None], 8, group)[0] @ rounded_rows(weight, 8).T
            worst = max(worst, relative(real, mine, x @ weight.T))
    assert worst < 1e-2


def test_with_its_own_scale_it_errs_as_much(subject, given):
    """torchao divides by 127.5: another grid, so errors differ, but not in size."""
    other = quantised(subject)
    real = dict(linear_maps(other))
    with torch.no_grad():
        for name, (linear, x) in given.items():
            exact, theirs = linear(x), real[name](x)
            mine = rounded(x, 8, "token") @ rounded_rows(linear.weight, 8).T
            errors = [relative(one, exact, exact) for one in (theirs, mine)]
            assert abs(errors[0] - errors[1]) < 1e-2, name
    for name, module in linear_maps(subject):
        assert type(module.weight) is torch.nn.Parameter, name  # the model itself is left alone
        assert type(real[name].weight) is not torch.nn.Parameter


def test_the_answer_holds_it_beside_the_simulation(subject, monkeypatch):
    def asked():
        found = sinkscope.advise(subject, n=8, length=64, questions="quantisation")
        one = found.summary.advise["quantisation"]
        return {row["what"]: row["ce_change"].value for row in one.rows}, one.limits

    rows, _ = asked()
    [real] = [value for what, value in rows.items() if "torchao" in what]
    assert real == pytest.approx(rows[SIMULATED], abs=0.01)
    monkeypatch.setattr("sinkscope.advice.kernels.find_spec", lambda name: None)
    rows, limits = asked()
    assert not [what for what in rows if "torchao" in what]
    assert "torchao is not installed" in limits
