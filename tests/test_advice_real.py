"""`advise` on the pretrained model of `make real`, against plain re-implementations."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

import sinkscope
from sinkscope.advice.advise import QUESTIONS
from sinkscope.advice.streaming import KEPT
from tests.plain_reference import served

pytestmark = pytest.mark.real
N, LENGTH, WITHIN = 6, 64, 0.02


@pytest.fixture(scope="module")
def advice(smollm2):
    return sinkscope.advise(smollm2, n=N, length=LENGTH).summary.advise


@pytest.fixture(scope="module")
def ids(smollm2) -> torch.Tensor:
    return sinkscope.build_prompts(smollm2, n=N, length=LENGTH, by_turns=True).input_ids


def loss(logits: torch.Tensor, ids: torch.Tensor, first: int) -> float:
    """Mean loss of the predictions made at `first` and later, over all rows."""
    return float(cross_entropy(logits[:, first:-1].flatten(0, 1), ids[:, first + 1 :].flatten()))


def test_every_answer_has_its_number_and_interval(advice):
    assert list(advice) == list(QUESTIONS)
    for name, one in advice.items():
        told = [row for row in one.rows if "document" not in row["what"]]  # those may be one text
        measured = [row.get("ce_change") or row.get("kl") for row in told]
        assert all(each.low is not None for each in measured), name
        if one.answer != "does not apply":
            assert one.value is not None, name
        if one.answer != "does not apply" and name != "fp16":  # of a maximum there is no interval
            assert one.value.low <= one.value.value <= one.value.high, name


def test_bos_by_loss(smollm2, advice):
    made = sinkscope.build_prompts(smollm2, n=N, length=LENGTH, bos="with", by_turns=True)
    rows = made.input_ids
    with torch.no_grad():
        with_it, without = smollm2.model(rows).logits, smollm2.model(rows[:, 1:]).logits
    plain = loss(without, rows[:, 1:], 1) - loss(with_it, rows, 2)
    assert advice["bos"].value.value == pytest.approx(plain, abs=1e-3)


def test_the_keep_set_by_brute_force(smollm2, advice, ids):
    """A quarter of the text as the window, token by token: the change of every kept number."""
    window = LENGTH // 4
    found = {row["what"]: row["ce_change"] for row in advice["streaming"].rows}
    plain: dict[int, float] = {}
    with torch.no_grad():
        whole = loss(smollm2.model(ids).logits, ids, window)
        for keep in KEPT:
            plain[keep] = loss(served(smollm2.model, ids, window, keep), ids, window) - whole
            measured = found[f"a cache of {window} that keeps {keep} first tokens"]
            assert measured.value == pytest.approx(plain[keep], abs=2e-3)
    assert plain[0] - plain[1] > 0.5  # the sink is needed, and one token holds it
    least = next(keep for keep in KEPT if plain[keep] - plain[8] <= WITHIN)
    said = advice["streaming"].facts["kv-keep"]
    assert said is None or said >= least


def test_outliers_and_float16_by_plain_passes(smollm2, advice, ids):
    """Plain hooks on every map and block, and a plain pass in float16."""
    seen: dict[str, torch.Tensor] = {}
    handles = [
        module.register_forward_pre_hook(
            lambda m, args, name=name: seen.__setitem__(name, args[0].abs())
        )
        for name, module in smollm2.model.named_modules()
        if isinstance(module, torch.nn.Linear) and "layers" in name
    ]
    states = {}
    for at, layer in enumerate(smollm2.model.model.layers):
        handles.append(
            layer.register_forward_hook(
                lambda m, a, out, at=at: states.__setitem__(
                    at, (out[0] if isinstance(out, tuple) else out).abs()
                )
            )
        )
    with torch.no_grad():
        smollm2.model(ids)
        for handle in handles:
            handle.remove()
        half = copy.deepcopy(smollm2.model).half()(ids[:2]).logits
    due = {name for name, x in seen.items() if float(x.max()) > 20 * float(x.amax(-1).median())}
    said = {one["module"] for one in advice["quantisation"].outliers}
    assert said <= due
    assert len(said) == min(len(due), 40)
    largest = max(states.values(), key=lambda x: float(x.max()))
    _, position, channel = np.unravel_index(int(largest.argmax()), largest.shape)
    assert (position, channel) == (0, 507)
    assert advice["fp16"].answer in ("safe", "near the limit")
    assert bool(torch.isfinite(half).all())
    assert "position 0" in advice["fp16"].sentence
    assert "channel 507" in advice["fp16"].sentence
