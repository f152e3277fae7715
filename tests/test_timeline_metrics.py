"""Checkpoint metrics against slow references and known answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sinkscope.circuit.concentration import concentration
from sinkscope.known.constructed import build_in_memory, draw_spec
from sinkscope.known.measure import look, plain_rows
from sinkscope.subject.load import Subject, load
from sinkscope.subject.prompts import Prompts
from sinkscope.subject.tiny import tiny_model
from sinkscope.training_runs import signals
from sinkscope.training_runs.checkpoint_metrics import light
from sinkscope.training_runs.partial import load_first_blocks
from sinkscope.training_runs.view import View


def _view(ids, horizon, point, **changes):
    prompts = Prompts(ids, torch.full((len(ids),), ids.shape[1]), "ids", "without")
    first = changes.pop("first", torch.arange(3, 35))
    return View(prompts, first, horizon, point, **changes)


@pytest.fixture(scope="module")
def known():
    spec = draw_spec("p0-two-block", 5, family="llama", noise=0.05)
    model, tokenizer, truth = build_in_memory(spec)
    return Subject.from_model(model, tokenizer), truth


def test_against_maps_and_states_that_are_kept(known):
    subject, truth = known
    ids = plain_rows(truth, 1, rows=4, length=48)
    found = light(subject, _view(ids, 3, 2, first=ids[:, 0], loss=True))
    whole = look(subject, ids)
    late = whole.maps[:3, :, :, 24:, 0].mean(-1).transpose(0, 1)
    np.testing.assert_allclose(found.late, late, atol=2e-6)
    norms = whole.stream.norm(dim=-1)
    ratio = (norms[:4, :, 0] / norms[:4, :, 1:].median(-1).values).log().T
    np.testing.assert_allclose(found.log_ratio, ratio, atol=1e-5)
    u = torch.from_numpy(found.direction)
    unit = torch.nn.functional.normalize(whole.stream, dim=-1)
    np.testing.assert_allclose(found.p0_along, (unit[:4, :, 0] @ u).T, atol=1e-5)
    written = ((whole.stream[1:4] - whole.stream[:3])[:, :, 0] @ u).T
    np.testing.assert_allclose(found.write, written, atol=1e-4 * written.abs().max())
    x = unit[:4, :, 0]
    pairs = torch.einsum("pad,pbd->pab", x, x)
    off = ~torch.eye(4, dtype=torch.bool)
    np.testing.assert_allclose(found.cosine, pairs[:, off].mean(-1), atol=1e-5)
    logits = subject.model(ids).logits
    loss = torch.nn.functional.cross_entropy(
        logits[:, 1:-1].transpose(1, 2), ids[:, 2:], reduction="none"
    ).mean(1)
    np.testing.assert_allclose(found.loss, loss.detach(), atol=1e-5)


def test_names_what_was_built(known):
    subject, truth = known
    ids = plain_rows(truth, 1, rows=8, length=64)
    found = light(subject, _view(ids, 4, 2))
    block = truth.amplifying_blocks[0]
    assert found.write.mean(0).argmax() == block
    assert sorted(map(list, found.neurons)) == sorted([b, n] for b, _, n in _neurons(truth))
    reading = {(b, h) for b, h in truth.reading_heads if b < 4}
    sinking = {(int(b), int(h)) for b, h in zip(*np.nonzero(found.late.mean(0) > 0.3))}
    assert sinking == reading
    assert set(truth.channels) <= set(found.channels.tolist())
    assert np.exp(found.log_ratio.mean(0)[2]) > 5
    assert np.nanmax(found.target_late) < 0.1


def test_what_is_written_against_the_direction_counts_as_nothing():
    found = concentration(np.array([1.0, -3.0, 2.0, 1.0, 4.0]))
    np.testing.assert_allclose(found, [1 / 8, 1 / 8, 3 / 8, 4 / 8])
    assert np.isnan(concentration(np.array([-1.0, 0.0]))).all()


def test_the_emergence_block_is_where_p0_leaves_the_others(known):
    """A direction that every position shares sets nobody apart."""
    subject, truth = known
    found = light(subject, _view(plain_rows(truth, 1, rows=4, length=48), 4, 3))
    alike = np.array([[0.4, 0.5, 0.0, 0.0, 0.0], [0.1] * 5], dtype=np.float32)
    p0 = np.tile([0.4, 0.5, 0.6, 0.9, 0.9], (4, 1)).astype(np.float32)
    planted = replace(found, p0_along=p0, others_along=alike)
    assert signals.emergence_block(planted, 3) == 1
    assert signals.emergence_block(replace(planted, others_along=0 * alike), 3) == 0


def _neurons(truth):
    return [(n[0], None, n[-1]) for n in truth.writing_neurons]


def test_experts_of_p0():
    spec = draw_spec("p0-expert", 3, family="mixtral", noise=0.02)
    model, tokenizer, truth = build_in_memory(spec)
    ids = plain_rows(truth, 1, rows=4, length=32)
    found = light(Subject.from_model(model, tokenizer), _view(ids, spec.depth, 3))
    assert {tuple(e) for e in truth.experts} <= {tuple(e) for e in found.experts.tolist()}


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt_neox", "mixtral"])
def test_truncated_and_whole_give_the_same_numbers(family, tmp_path, ids):
    tiny_model(family).save_pretrained(tmp_path)
    view = _view(ids, 2, 2)
    whole, part = light(load(tmp_path), view), light(load_first_blocks(tmp_path, 2), view)
    for name, array in whole.arrays().items():
        assert array.tobytes() == part.arrays()[name].tobytes(), name


def test_looking_changes_nothing(llama, ids):
    llama.model.train()
    state = torch.get_rng_state()
    before = [p.clone() for p in llama.model.parameters()]
    light(llama, _view(ids, 2, 2, loss=True))
    assert llama.model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(before, llama.model.parameters(), strict=True))
