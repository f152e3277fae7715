"""Suffix passes are exact, readings are right, and the model is left as it was."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from sinkscope.errors import InputError
from sinkscope.intervene.edits import Neurons, QueryBias, SelfOnly, SetWrite, Stream
from sinkscope.intervene.edits.base import Edit
from sinkscope.intervene.engine import Engine
from sinkscope.observe.attention import observe
from sinkscope.observe.layout import layout_of
from sinkscope.observe.p0_stream import p0_states
from sinkscope.observe.parity import left_padded, plain_logits, token_prompts
from sinkscope.observe.reads import Want
from sinkscope.observe.registry import configurations
from sinkscope.observe.residual import residual_hooks
from sinkscope.observe.scores import NEVER, Scores
from sinkscope.observe.sites import find_sites
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts
from sinkscope.subject.tiny import tiny_model

FAMILIES = ("llama", "gpt2", "gemma2", "gpt_neox", "mixtral", "gpt_oss", "bloom", "olmo2")


def prepare(family: str):
    subject = Subject.from_model(tiny_model(family), name=family)
    ids = torch.randint(3, 100, (3, 24), generator=torch.Generator().manual_seed(1))
    prompts = Prompts(ids, torch.tensor([24, 20, 24]), "ids", "without")
    return subject, prompts, find_sites(subject, prompts)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_suffix_pass_equals_a_whole_pass(family):
    subject, prompts, sites = prepare(family)
    engine = Engine(subject, prompts, sites, positions=(0, 3))
    assert engine.suffix
    for edits in ([SetWrite(2, "mlp", 0, "mean")], [Stream(3, 3, "copy")], [Stream(4, 0, "norm")]):
        fast = engine.run(edits, want_received=True)
        engine.suffix = False
        whole = engine.run(edits, want_received=True)
        engine.suffix = True
        for field in dataclasses.fields(fast):
            a, b = getattr(fast, field.name), getattr(whole, field.name)
            np.testing.assert_allclose(a, b, atol=2e-6, rtol=1e-5, err_msg=field.name)


@pytest.mark.parametrize("family", FAMILIES)
def test_intact_readings_are_those_of_observe(family):
    subject, prompts, _ = prepare(family)
    u = torch.nn.functional.normalize(torch.arange(float(subject.anatomy.hidden_size)), dim=0)
    engine = Engine(subject, prompts, positions=(0, 3), heads=[(0, 1), (2, 0)], direction=u)
    points = {}
    taps = residual_hooks(subject, lambda i, h: points.__setitem__(i, h.clone()))
    reads, layout, logits = observe(subject, prompts, Want(maps=True), "auto", taps, logits=True)
    late = layout.late
    for read in reads:
        for at, position in enumerate((0, 3)):
            column = read.map[..., position]
            mean = (column * late.unsqueeze(1)).sum(-1) / late.sum(1, keepdim=True)
            if not (column[:, :, 12:20] == 0).any():  # no window in the way
                np.testing.assert_allclose(engine.intact.share[:, at, read.block], mean, atol=2e-6)
                rest = read.map.double().sum(-1) - column.double()
                logs = (column.double() / rest).log()
                margin = torch.where(late.unsqueeze(1), logs, 0.0).sum(-1)
                margin = margin / late.sum(1, keepdim=True)
                np.testing.assert_allclose(
                    engine.intact.margin[:, at, read.block], margin, atol=1e-3
                )
    maps = {read.block: read.map for read in reads}
    received = (maps[0][:, 1] + maps[2][:, 0]) / 2
    received = (received * late.unsqueeze(-1)).sum(1) / late.sum(1, keepdim=True)
    np.testing.assert_allclose(engine.intact.received, received, atol=2e-6)
    along = torch.nn.functional.cosine_similarity(points[2][:, [0, 3]], u, dim=-1)
    np.testing.assert_allclose(engine.intact.cosine[:, :, 2], along, atol=1e-5)
    norm = points[2].norm(dim=-1)
    for row, length in enumerate(prompts.lengths.tolist()):
        ratio = norm[row, 0] / norm[row, 1:length].median()
        assert engine.intact.norm[row, 0, 2] == pytest.approx(float(ratio), rel=1e-5)
        targets = prompts.input_ids[row, 2:length]
        ce = torch.nn.functional.cross_entropy(logits[row, 1 : length - 1], targets)
        assert engine.intact.ce[row] == pytest.approx(float(ce), rel=1e-5)
    assert np.abs(engine.intact.kl).max() == 0


def margin_of_the_whole_matrix(s, position: int, late: torch.Tensor) -> torch.Tensor:
    """The margin [B, H] from all scores at once: the slow reference."""
    scores, visible = s.chunk(0, s.q.shape[2], s.expand(s.k))
    own = scores[..., position]
    others = scores.clone()
    others[..., position] = NEVER
    rest = others.double().logsumexp(-1)
    seen = late.unsqueeze(1) & visible[..., position] & (rest > NEVER / 2)
    seen = seen.expand_as(own)
    return ((own.double() - rest) * seen).sum(-1) / seen.sum(-1)


def test_margin_of_a_saturated_head():
    """1 − a is zero in fp32 here; the margin is not infinite and is right to rounding."""
    from sinkscope.intervene.readout_tap import ReadoutTap
    from sinkscope.observe.reads import AttentionCall, AttentionRead

    generator = torch.Generator().manual_seed(0)
    q = torch.randn(1, 2, 20, 8, generator=generator)
    k = torch.randn(1, 2, 20, 8, generator=generator)
    q[..., 0], k[:, :, 0, 0] = 10.0, 12.0
    prompts = token_prompts(torch.ones(1, 20, dtype=torch.long))
    layout = layout_of(prompts, torch.device("cpu"))
    scores = Scores(q, k, None, True, 1.0)
    reading = ReadoutTap(layout, Want(received=False), "lean", shape=(1, 2), positions=(0, 4))
    read = AttentionRead(0, "lean", "", layout.visibility(None), torch.zeros(1, 2, 20))
    reading.keep(read, AttentionCall(scores, k, q.transpose(1, 2), torch.nn.Identity()))
    for at, position in enumerate((0, 4)):
        reference = margin_of_the_whole_matrix(scores, position, layout.late)
        torch.testing.assert_close(reading.found["margin"][:, at, 0].double(), reference)
    assert 90 < float(reading.found["margin"][0, 0, 0].mean()) < 130


@pytest.mark.parametrize("family", FAMILIES)
def test_p0_edits_equal_the_one_token_stream(family):
    """An edit of P0 inside the full pass leaves P0 where a pass of one token would."""
    subject, prompts, sites = prepare(family)
    engine = Engine(subject, prompts, sites)
    one = Engine(subject, token_prompts(prompts.input_ids[:, :2]), sites)
    states = p0_states(subject, prompts.input_ids[:, 0])
    points: dict[int, torch.Tensor] = {}

    @dataclasses.dataclass(frozen=True)
    class Listen(Edit):
        order = 2

        def hooks(self, context):
            return residual_hooks(subject, lambda i, h: points.__setitem__(i, h[:, 0].clone()))()

    engine.run([Listen()])
    for point, x in points.items():
        torch.testing.assert_close(x, states[:, point], atol=1e-5, rtol=1e-4)
    engine.run([SetWrite(1, "mlp"), Listen()])
    inside = dict(points)
    one.run([SetWrite(1, "mlp"), Listen()])
    for point, x in points.items():
        torch.testing.assert_close(x, inside[point], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral", "gpt_oss", "bloom"])
def test_everything_is_restored_also_after_an_error(family):
    subject, prompts, sites = prepare(family)
    model = subject.model
    before = plain_logits(subject, prompts)

    def state():
        hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
        own = ["forward" in m.__dict__ for m in model.modules()]
        implementation = [c._attn_implementation_internal for c in configurations(model)]
        return hooks, own, implementation, [p.clone() for p in model.parameters()]

    start = state()

    @dataclasses.dataclass(frozen=True)
    class Break(Edit):
        def hooks(self, context):
            def hook(module, args):
                raise ZeroDivisionError

            return [context.block(3).register_forward_pre_hook(hook)]

    engine = Engine(subject, prompts, sites)
    edits = [SetWrite(1, "attention"), Neurons(2, (1, 2)), Stream(2, 0, "norm")]
    if family != "bloom":
        edits += [SelfOnly(3), QueryBias()]
    engine.run(edits)
    with pytest.raises(ZeroDivisionError):
        engine.run([*edits, Break()])
    with pytest.raises(ZeroDivisionError):
        engine.run([SetWrite(2, "mlp"), Break()])
    end = state()
    assert start[:3] == end[:3]
    assert all(torch.equal(a, b) for a, b in zip(start[3], end[3]))
    assert torch.equal(before, plain_logits(subject, prompts))


def test_a_family_that_cannot_skip_says_so_and_runs_whole():
    """Later blocks that count how often they were called give other logits when some are left."""
    subject, prompts, _ = prepare("llama")
    blocks = subject.anatomy.modules(subject.model)
    seen = []
    forward = type(blocks[0].mlp).forward

    def remember(x):
        seen.append(1)
        return forward(blocks[0].mlp, x)

    def later(x):
        scale = 2.0 if seen else 1.0
        seen.clear()
        return scale * forward(blocks[2].mlp, x)

    blocks[0].mlp.forward, blocks[2].mlp.forward = remember, later
    engine = Engine(subject, prompts)
    assert not engine.suffix
    whole = engine.passes
    engine.run([Stream(3, 0, "norm")], want_logits=False)
    assert engine.passes - whole == pytest.approx(1.0)


def test_passes_count_blocks_that_were_run(llama, ids):
    prompts = token_prompts(ids)
    engine = Engine(llama, prompts, find_sites(llama, prompts))
    assert engine.passes == pytest.approx(1.0)
    engine.run([SetWrite(3, "mlp")])
    assert engine.passes == pytest.approx(1.25)


def test_rows_in_several_batches_give_the_same(monkeypatch):
    subject, prompts, sites = prepare("llama")
    edits = [SetWrite(1, "mlp", 0, "resample", seed=3)]
    whole = Engine(subject, prompts, sites).run(edits, want_received=True)
    monkeypatch.setattr("sinkscope.intervene.engine.LOGITS_PER_PASS", 1)
    monkeypatch.setattr("sinkscope.intervene.engine.KEPT_LOGITS", 1)
    apart = Engine(subject, prompts, sites)
    assert len(apart._batches) == 3
    assert apart._batches[0].logits is None
    parts = apart.run(edits, want_received=True)
    for field in dataclasses.fields(whole):
        a, b = getattr(whole, field.name), getattr(parts, field.name)
        np.testing.assert_allclose(a, b, atol=1e-5, err_msg=field.name)


def test_padded_prompts_and_far_positions_are_refused(llama, ids):
    with pytest.raises(InputError, match="right-padded"):
        Engine(llama, left_padded(ids))
    with pytest.raises(InputError, match="below 24"):
        Engine(llama, token_prompts(ids), positions=(0, 24))
    with pytest.raises(InputError, match="reading head"):
        Engine(llama, token_prompts(ids), heads=[(0, 9)])


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_few_prompts_and_a_few_predictions_read_as_all_of_them_do(family, monkeypatch):
    """What is run of them is what a pass over everything reads there, and the rest is NaN."""
    subject, prompts, sites = prepare(family)
    whole = Engine(subject, prompts, sites, heads=[(0, 1), (3, 0)])
    part = Engine(subject, prompts, sites, heads=[(0, 1), (3, 0)], few=2, scored=5)
    at = part._scored
    assert at.tolist() == [3, 7, 12, 16, 20]  # the middles of fifths of 1..22
    edits = [SetWrite(2, "mlp", 0, "mean")]
    full, few = whole.run(edits, want_received=True), part.run(edits, want_received=True, few=True)
    for field in dataclasses.fields(full):
        a, b = getattr(full, field.name), getattr(few, field.name)
        if field.name in ("positions", "ce", "kl"):
            continue
        np.testing.assert_allclose(b[:2], a[:2], atol=2e-6, rtol=1e-5, err_msg=field.name)
        assert np.isnan(b[2:]).all(), field.name
    logits = plain_logits(subject, prompts)
    for row, length in enumerate(prompts.lengths.tolist()):
        seen = at[at < length - 1]
        ce = torch.nn.functional.cross_entropy(logits[row, seen], prompts.input_ids[row, seen + 1])
        assert part.intact.ce[row] == pytest.approx(float(ce), rel=1e-4)
    every = part.run(edits)
    monkeypatch.setattr("sinkscope.observe.attention._accepts", lambda target, name: False)
    slow = part.run(edits)  # a family that gives all logits, whatever it is asked for
    np.testing.assert_allclose(slow.ce, every.ce, atol=1e-6)
    np.testing.assert_allclose(slow.kl, every.kl, atol=1e-6)
    assert not np.isnan(every.share[2]).all()
