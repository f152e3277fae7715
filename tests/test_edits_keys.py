"""Edits of what is read at one key, against keys closed in the mask; the readout follows them."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from sinkscope.errors import InputError, Unsupported
from sinkscope.intervene.attend import Call
from sinkscope.intervene.edits import (
    ClampAttention,
    KeepNorm,
    RecordAttention,
    RemoveAttention,
    RemoveValue,
    SelfOnly,
    SetWrite,
    Stream,
    from_json,
)
from sinkscope.intervene.edits.base import Context, Edit
from sinkscope.intervene.edits.hold import Intact, Record, record
from sinkscope.intervene.engine import Engine
from sinkscope.observe.parity import token_prompts
from sinkscope.observe.residual import residual_hooks
from sinkscope.observe.sites import find_sites
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts
from sinkscope.subject.tiny import tiny_model

FAMILIES = ("llama", "gpt2", "gpt_oss", "gemma2", "qwen3_next")
READ = ("share", "margin", "bare_share", "bare_margin", "learned", "norm", "received", "ce", "kl")


@dataclass(frozen=True)
class CloseKey(Edit):
    """The slow, obvious reference: the key's column of the mask is closed to later queries."""

    position: int = 0
    acts_on_attention = True

    def attention(self, context: Context, block: int, call: Call) -> Call:
        length = call.query.shape[2]
        mask = torch.ones(1, 1, length, length, dtype=torch.bool).tril()
        if call.mask is not None:
            mask = call.mask if call.mask.dtype == torch.bool else call.mask == 0
        mask = mask.clone()
        mask[..., self.position + 1 :, self.position] = False
        return dataclasses.replace(call, mask=mask)


def prepare(family: str, **options) -> Engine:
    subject = Subject.from_model(tiny_model(family), name=family)
    ids = torch.randint(3, 100, (3, 24), generator=torch.Generator().manual_seed(1))
    prompts = Prompts(ids, torch.tensor([24, 20, 24]), "ids", "without")
    return Engine(subject, prompts, find_sites(subject, prompts), positions=(0, 3), **options)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("maps", [False, True])
@pytest.mark.parametrize("position", [0, 3, 14])
def test_removed_attention_reads_as_a_key_closed_in_the_mask(family, maps, position):
    """Also where the readout is taken from the family's own map, and behind the first queries."""
    engine = prepare(family)
    engine._maps = maps
    found = engine.run([RemoveAttention(position)], want_received=True)
    wanted = engine.run([CloseKey(position)], want_received=True)
    for name in READ:
        a, b = getattr(found, name), getattr(wanted, name)
        if "margin" in name or name in ("share", "bare_share"):  # a closed key is not seen at all
            b = np.where(np.isnan(b) & ~np.isnan(a), -np.inf if "margin" in name else 0.0, b)
        np.testing.assert_allclose(a, b, atol=2e-5, rtol=2e-4, err_msg=name)


def test_a_dose_leaves_its_part_and_the_rest_grows_alike():
    engine = prepare("gpt_oss", heads=[(1, 0)])
    found = engine.run([RemoveAttention(0, 0.4, ((1, 0),))])
    before, after = (x.share[:, :, 1, 0] for x in (engine.intact, found))
    np.testing.assert_allclose(after[:, 0], 0.6 * before[:, 0], rtol=1e-4)
    assert (after[:, 1] > before[:, 1]).all()
    assert (found.learned[:, 1, 0] > engine.intact.learned[:, 1, 0]).all()
    np.testing.assert_allclose(found.bare_share[:, 1, 1, 0], engine.intact.bare_share[:, 1, 1, 0])


def test_a_removed_value_leaves_the_attention_of_its_block_where_it_was():
    engine = prepare("llama")
    found = engine.run([RemoveValue(0, heads=((2, 1),))])
    np.testing.assert_array_equal(found.share[:, :, :3], engine.intact.share[:, :, :3])
    assert abs(found.share[:, :, 3] - engine.intact.share[:, :, 3]).max() > 1e-5
    assert found.kl.max() > 1e-6


def test_a_removed_value_stays_with_the_query_of_its_own_position():
    engine, edited = prepare("llama"), Intact()
    engine.run([RemoveValue(3), Record((3, 4), edited)], want_logits=False)
    intact = record(engine, (3, 4)).streams
    for (point, position, row), stream in edited.streams.items():
        same = torch.allclose(stream, intact[point, position, row], atol=1e-3)
        assert same == (position == 3 or point == 0)


def test_held_attention_undoes_what_an_earlier_edit_did_to_it():
    """Clamped to the intact masses, an edited pass reads them again; to its own, it is itself."""
    engine = prepare("llama")
    edit = SetWrite(0, "mlp", 0, "mean")
    intact, own = {}, {}
    same = engine.run([RecordAttention(0, intact)])
    np.testing.assert_array_equal(same.ce, engine.intact.ce)
    edited = engine.run([edit, RecordAttention(0, own)])
    held = engine.run([edit, ClampAttention(0, intact)])
    np.testing.assert_allclose(held.share[:, 0], engine.intact.share[:, 0], atol=1e-5)
    assert abs(edited.share[:, 0] - engine.intact.share[:, 0]).max() > 1e-3
    again = engine.run([edit, ClampAttention(0, own)])
    np.testing.assert_allclose(again.ce, edited.ce, rtol=1e-5)
    assert abs(held.ce - edited.ce).max() > 1e-5
    short = Engine(engine.subject, engine.prompts.first_tokens(16), engine.sites)
    with pytest.raises(InputError, match="another shape"):
        short.run([ClampAttention(0, intact)])


def test_edits_of_one_key_compose_in_their_order():
    engine = prepare("llama")
    twice = engine.run([RemoveAttention(0, 0.5), RemoveAttention(0, 0.5)])
    once = engine.run([RemoveAttention(0, 0.75)])
    np.testing.assert_allclose(twice.share, once.share, atol=1e-6)
    both = engine.run([RemoveAttention(0, 0.5), RemoveValue(0, 1.0)])
    assert abs(both.ce - engine.run([RemoveAttention(0, 0.5)]).ce).max() > 1e-6
    np.testing.assert_allclose(
        both.share[:, :, 0], engine.run([RemoveAttention(0, 0.5)]).share[:, :, 0]
    )
    after = engine.run([SelfOnly(3), RemoveAttention(0)])  # who sees whom comes first
    assert after.share[:, 0].max() == 0
    with pytest.raises(InputError, match="must act on one key"):
        engine.run([RemoveAttention(0), RemoveValue(3)])


@pytest.mark.parametrize("apart", [False, True])
def test_a_key_of_its_own_for_each_prompt(apart, monkeypatch):
    if apart:  # a batch for each prompt
        monkeypatch.setattr("sinkscope.intervene.engine.LOGITS_PER_PASS", 1)
    engine = prepare("llama")
    each = [engine.run([RemoveAttention(key)]).ce for key in (2, 0, 5)]
    found = engine.run([RemoveAttention((2, 0, 5))])
    np.testing.assert_allclose(found.ce, [each[row][row] for row in range(3)], rtol=1e-5)


def test_the_norm_is_kept_behind_other_edits_of_the_stream():
    engine = prepare("llama")
    points: dict[int, torch.Tensor] = {}

    @dataclass(frozen=True)
    class Listen(Edit):
        order = 3

        def hooks(self, context: Context):
            keep = lambda point, hidden: points.__setitem__(point, hidden[:, 0].clone())  # noqa: E731
            return residual_hooks(engine.subject, keep)()

    engine.run([Listen()])
    intact = dict(points)
    other = Stream(2, 0, "copy", source=3)
    engine.run([other, Listen()])
    cut = dict(points)
    engine.run([KeepNorm(2), other, Listen()])
    for point in range(2, 5):
        torch.testing.assert_close(points[point].norm(dim=-1), intact[point].norm(dim=-1))
    assert (cut[2].norm(dim=-1) - intact[2].norm(dim=-1)).abs().min() > 1e-3
    cosine = torch.nn.functional.cosine_similarity(points[2], cut[2])
    torch.testing.assert_close(cosine, torch.ones(3))


@pytest.mark.parametrize("edit", [RecordAttention(), ClampAttention(4, {})])
def test_what_was_written_down_does_not_travel(edit):
    assert from_json(json.loads(json.dumps(edit.to_json()))) == edit


def test_doses_beyond_and_families_outside_the_registry_are_refused():
    with pytest.raises(InputError, match="between 0 and 1"):
        RemoveAttention(dose=1.5)
    subject = Subject.from_model(tiny_model("bloom"))
    prompts = token_prompts(torch.randint(3, 100, (2, 24)))
    with pytest.raises(Unsupported, match="attention registry"):
        Engine(subject, prompts).run([RemoveAttention()])
