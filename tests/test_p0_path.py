"""Effects through P0's key are those of a full pass in which nothing but P0's key is edited."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from sinkscope.errors import InputError, Unsupported
from sinkscope.intervene.edits import (
    Heads,
    HoldDirection,
    HoldKeys,
    KeepUnits,
    MatchVariance,
    Neurons,
    ScaleWrite,
    SetWrite,
    Stream,
    TokenAt,
    Transplant,
)
from sinkscope.intervene.edits.base import Edit, at_positions
from sinkscope.intervene.edits.hold import Intact, Record, record
from sinkscope.intervene.engine import Engine
from sinkscope.intervene.p0_path import KeyPath
from sinkscope.intervene.p0_queries import late_positions
from sinkscope.observe.attention import observe
from sinkscope.observe.layout import layout_of
from sinkscope.observe.parity import left_padded
from sinkscope.observe.reads import Want
from sinkscope.observe.registry import configurations
from sinkscope.observe.residual import residual_hooks
from sinkscope.observe.sites import find_sites
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts
from sinkscope.subject.tiny import tiny_model

FAMILIES = (
    *("llama", "mistral", "gpt2", "opt", "phi", "phi3", "gpt_neox", "stablelm", "starcoder2"),
    *("qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "cohere", "cohere2", "granite", "glm4"),
    *("olmo2", "exaone4", "smollm3", "gpt_oss", "mixtral", "qwen2_moe", "deepseek_v3"),
    *("llama4_text", "qwen3_next", "lfm2"),
)
REFUSED = {
    **dict.fromkeys(("bloom", "falcon", "mpt", "gptj"), "attention registry"),
    "diffllama": "more than once",
    "inkling_text": "not q·k alone: unknown keyword position_bias",
}
EDITS: tuple[tuple[Edit, ...], ...] = (
    (SetWrite(1, "mlp", 0, "mean"),),
    (SetWrite(0, "attention", 0, "resample", 3),),
    (SetWrite(3, "mlp"),),
    (ScaleWrite(1, "mlp", 0, 0.3),),
    (Heads(1, (0, 2), 0, "mean"),),
    (Heads(3, (1,)),),
    (Neurons(1, (3, 7, 11), 0, "mean"),),
    (Neurons(2, (3, 7, 11)),),
    (MatchVariance(1),),
    (MatchVariance(1, 0, 0.5, "others", "stream"),),
    (KeepUnits(1, "mlp", (3, 5)),),
    (KeepUnits(1, "attention", (1,), complement=True),),
    *((Stream(2, 0, how),) for how in ("remove", "level", "swap", "norm", "mean")),
    (TokenAt(0, 77),),
    (SetWrite(0, "mlp", 0, "mean"), Heads(1, (1,), 0, "mean"), Stream(3, 0, "norm")),
    (SetWrite(0, "attention", 0, "mean"), SetWrite(0, "mlp", 0, "mean"), ScaleWrite(1, "mlp")),
    (KeepUnits(0, "mlp", (3, 5)), KeepUnits(1, "mlp", (3, 5)), KeepUnits(3, "mlp", ())),
)


def prepare(family: str):
    subject = Subject.from_model(tiny_model(family), name=family)
    length = 12 if family == "mistral" else 24  # all its windows are of 8 positions
    ids = torch.randint(3, 100, (4, length), generator=torch.Generator().manual_seed(1))
    ids[3, 0] = ids[0, 0]  # two prompts that begin alike
    lengths = torch.tensor([length, length - 4, length, length - 1])
    prompts = Prompts(ids, lengths, "ids", "without")
    return subject, prompts, find_sites(subject, prompts)


def direction_of(subject) -> torch.Tensor:
    size = subject.model.get_input_embeddings().weight.shape[1]
    x = torch.randn(size, generator=torch.Generator().manual_seed(5))
    return x / x.norm()


@dataclass(frozen=True)
class HoldOthers(Edit):
    """Every module inside the blocks is given, and gives, what it did for the positions t > 0.

    The first pass with it records, later ones hold.
    """

    store: dict = field(default_factory=dict, compare=False)
    order = -1

    def hooks(self, context):
        hold, calls = bool(self.store), {}

        def kept(value, name):
            calls[name] = calls.get(name, 0) + 1
            key = (*name, calls[name], context.rows[0])
            if isinstance(value, tuple):
                return tuple(kept(v, (*name, i)) for i, v in enumerate(value))
            if not isinstance(value, torch.Tensor) or at_positions(value, context) is None:
                return value
            if not hold:
                self.store[key] = value.clone()
                return value
            if key not in self.store or self.store[key].shape != value.shape:
                return value
            new = at_positions(self.store[key].clone(), context)
            new[:, 0] = at_positions(value, context)[:, 0]
            return new.reshape(value.shape)

        def enter(name):
            def hook(module, args, kwargs):
                new = {k: kept(v, (name, "in", k)) for k, v in kwargs.items()}
                return tuple(kept(v, (name, "in", i)) for i, v in enumerate(args)), new

            return hook

        def leave(name):
            return lambda module, args, output: kept(output, (name, "out"))

        handles = []
        for block in range(len(context.subject.anatomy.blocks)):
            for name, module in context.block(block).named_modules():
                key = f"{block}.{name}"
                handles.append(module.register_forward_pre_hook(enter(key), with_kwargs=True))
                handles.append(module.register_forward_hook(leave(key)))
        return handles


@dataclass(frozen=True)
class Listen(Edit):
    """Changes nothing and writes down P0's stream."""

    points: dict = field(default_factory=dict, compare=False)
    order = 2

    def hooks(self, context):
        def keep(point, hidden):
            self.points[point] = hidden[:, 0].clone()

        return residual_hooks(context.subject, keep)()


class FullPasses:
    """Path patching by whole passes: slow, and with the family's own attention throughout."""

    def __init__(self, subject, prompts, sites, direction):
        self.engine = Engine(subject, prompts, sites, direction=direction)
        self.hold = HoldOthers()
        self.engine.run([self.hold], want_logits=False)

    def through_key(self, edits):
        """Share and margin [n, L, H] of every block with P0's key alone edited, and P0's stream."""
        edited, heard = Intact(), Listen()
        self.engine.run([self.hold, *edits, heard, Record((0,), edited)], want_logits=False)
        share = np.full_like(self.engine.intact.share[:, 0], np.nan)
        margin = np.full_like(share, np.nan)
        for block in sorted({block for block, _, _ in edited.keys}):
            only = HoldKeys(0, edited, (block,))
            found = self.engine.run([only], want_logits=False)
            share[:, block], margin[:, block] = found.share[:, 0, block], found.margin[:, 0, block]
        stream = torch.stack([heard.points[i] for i in sorted(heard.points)], 1)
        return share, margin, stream


@pytest.mark.parametrize("family", FAMILIES)
def test_through_the_key_equals_path_patching_by_full_passes(family):
    subject, prompts, sites = prepare(family)
    u = direction_of(subject)
    slow = FullPasses(subject, prompts, sites, u)
    path = KeyPath(subject, prompts, sites, direction=u, seeds=(0, 3))
    assert path.error < 1e-5
    np.testing.assert_allclose(path.intact.norm[0], slow.engine.intact.norm[:, 0], rtol=1e-5)
    np.testing.assert_allclose(path.intact.share[0], slow.engine.intact.share[:, 0], atol=1e-5)
    lists, expected = [], []
    for edits in EDITS:
        try:
            slow.engine.run(edits, want_logits=False)
            path.effect(edits)
        except (Unsupported, InputError):
            continue
        lists.append(edits)
        expected.append(slow.through_key(edits))
    assert len(lists) >= 8
    found = path.effects(lists, streams=True)
    size = found.streams.norm(dim=-1) / path.effects([[]], streams=True).streams.norm(dim=-1)
    torch.testing.assert_close(found.norm, size * path.intact.norm, rtol=1e-4, atol=1e-6)
    moved = 0
    for i, (share, margin, stream) in enumerate(expected):
        name = "; ".join(map(str, lists[i]))
        np.testing.assert_allclose(found.share[i], share, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(found.margin[i], margin, atol=1e-4, rtol=1e-5, err_msg=name)
        torch.testing.assert_close(found.streams[i], stream, atol=1e-5, rtol=1e-4)
        moved += bool(np.nanmax(np.abs(share - slow.engine.intact.share[:, 0])) > 1e-3)
    assert moved >= len(lists) // 2


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "gpt_neox", "mixtral", "qwen3_next"])
def test_p0_is_where_the_engine_leaves_it(family):
    """One edit sees the others as they are, so holding them changes nothing for P0's stream."""
    subject, prompts, sites = prepare(family)
    u = direction_of(subject)
    engine = Engine(subject, prompts, sites, direction=u)
    path = KeyPath(subject, prompts, sites, direction=u, seeds=(0, 3))
    compared = 0
    for edits in EDITS:
        if len(edits) > 1:
            continue
        heard = Listen()
        try:
            engine.run([*edits, heard], want_logits=False)
            found = path.effects([edits], streams=True)
        except (Unsupported, InputError):
            continue
        for point, x in heard.points.items():
            torch.testing.assert_close(found.streams[0, :, point], x, atol=1e-5, rtol=1e-4)
        compared += 1
    assert compared >= 6


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_what_does_not_go_through_the_key_goes_through_other_positions(family):
    subject, prompts, sites = prepare(family)
    engine, path = Engine(subject, prompts, sites), KeyPath(subject, prompts, sites)
    last = [(3, head) for head in range(4)]

    def both(block: int) -> tuple[np.ndarray, np.ndarray]:
        edits = [SetWrite(block, "mlp", 0, "mean")]
        key = (path.effect(edits).on(last) - path.intact.on(last))[0].double().numpy()
        edited = engine.run(edits, want_logits=False)
        return key, edited.on(last) - engine.intact.on(last)

    # block 3 is the first to read what block 2's MLP writes: there is no other way
    key, total = both(2)
    assert np.abs(total - key).max() < 1e-6
    assert np.abs(key).max() > 1e-3
    key, total = both(0)
    assert np.abs(total - key).max() > 1e-3


@pytest.mark.parametrize("family", ["llama", "gpt_oss"])
def test_a_direction_can_be_held(family):
    subject, prompts, sites = prepare(family)
    u = direction_of(subject)
    slow = FullPasses(subject, prompts, sites, u)
    path = KeyPath(subject, prompts, sites, direction=u)
    intact = record(slow.engine, (0,))
    hold = HoldDirection(0, intact, (1, 2, 4))
    edits = [hold, SetWrite(0, "mlp", 0, "mean"), Stream(2, 0, "norm")]  # the hold comes last
    share, _, stream = slow.through_key(edits)
    found = path.effects([edits, edits[1:]], streams=True)
    np.testing.assert_allclose(found.share[0], share, atol=1e-5)
    torch.testing.assert_close(found.streams[0], stream, atol=1e-5, rtol=1e-4)
    assert (found.share[0] - found.share[1]).abs().nan_to_num().max() > 1e-4


def test_no_edit_changes_nothing_at_all():
    subject, prompts, sites = prepare("llama")
    path = KeyPath(subject, prompts, sites)
    found = path.effects([[], [SetWrite(1, "mlp")]])
    torch.testing.assert_close(found.share[0], path.intact.share[0], atol=1e-6, rtol=0)
    assert torch.equal(path.effects([[]]).share, path.intact.share)
    assert not torch.equal(found.share[1], path.intact.share[0])


@pytest.mark.parametrize("family", ["llama", "mixtral", "qwen3_next"])
def test_batches_and_skipped_blocks_change_nothing(family, monkeypatch):
    subject, prompts, sites = prepare(family)
    path = KeyPath(subject, prompts, sites)
    lists = [[SetWrite(b, "mlp", 0, how)] for b in (3, 0, 2, 1) for how in ("zero", "mean")]
    together = path.effects(lists)
    assert path.edited.suffix
    assert len(path.edited.chunks(lists)) == 1
    monkeypatch.setattr("sinkscope.intervene.p0_edited.ROWS", 8)
    monkeypatch.setattr("sinkscope.intervene.p0_edited.ENOUGH", 4)
    spent = path.edited.spent
    apart = path.effects(lists)
    assert len(path.edited.chunks(lists)) >= 4
    torch.testing.assert_close(apart.share, together.share, atol=1e-6, rtol=1e-5, equal_nan=True)
    with_skips = path.edited.spent - spent
    path.edited.suffix = False
    whole = path.effects(lists)
    torch.testing.assert_close(whole.share, together.share, atol=1e-6, rtol=1e-5, equal_nan=True)
    torch.testing.assert_close(whole.norm, together.norm, atol=1e-5, rtol=1e-5)
    assert path.edited.spent - spent - with_skips > with_skips


def test_prompts_that_begin_alike_share_a_row():
    subject, prompts, sites = prepare("llama")
    path = KeyPath(subject, prompts, sites)
    path.edited.suffix = False
    spent = path.edited.spent
    path.effects([[SetWrite(1, "mlp")]])
    assert path.edited.spent - spent == 3 * 4  # three first tokens, four blocks
    path.effects([[SetWrite(1, "mlp", 0, "mean")]])
    assert path.edited.spent - spent == (3 + 4) * 4


def test_only_the_heads_that_are_asked_for():
    subject, prompts, sites = prepare("llama")
    whole = KeyPath(subject, prompts, sites)
    some = KeyPath(subject, prompts, sites, heads=[(3, 1), (1, 2), (1, 3)])
    edits = [SetWrite(0, "mlp", 0, "mean")]
    a, b = whole.effect(edits), some.effect(edits)
    for block, head in ((3, 1), (1, 2), (1, 3)):
        torch.testing.assert_close(a.share[..., block, head], b.share[..., block, head])
    assert int(torch.isfinite(b.share[0, 0]).sum()) == 3
    torch.testing.assert_close(b.on([(1, 2), (3, 1)]), a.on([(1, 2), (3, 1)]))
    assert set(some.blocks) == {1, 3}
    with pytest.raises(InputError, match="outside"):
        KeyPath(subject, prompts, sites, heads=[(0, 9)])


def test_a_budget_keeps_fewer_queries_and_says_so():
    subject, prompts, sites = prepare("gpt2")
    whole = KeyPath(subject, prompts, sites)
    assert whole.queries == (12, 12)
    small = KeyPath(subject, prompts, sites, budget=4 * 4 * 4 * (16 * 4 + 8) * 5)
    assert small.queries == (5, 12)
    reads, layout, _ = observe(subject, prompts, Want(maps=True))
    positions, counted = late_positions(layout, 5)
    assert counted.all()
    assert layout.late.gather(1, positions).all()
    assert positions[0].tolist() == [13, 15, 18, 20, 22]  # of 12..23
    for read in reads:
        column = read.map[..., 0].gather(2, positions.unsqueeze(1).expand(-1, 4, -1)).mean(-1)
        torch.testing.assert_close(small.intact.share[0, :, read.block], column)
    edits = [SetWrite(0, "mlp", 0, "mean")]
    assert (whole.effect(edits).share - small.effect(edits).share).abs().max() < 0.2


def test_a_short_row_keeps_each_query_once():
    subject, prompts, _ = prepare("llama")
    layout = layout_of(
        Prompts(prompts.input_ids, torch.tensor([24, 6, 9, 24]), "ids", "without"), subject.device
    )
    positions, counted = late_positions(layout, 8)
    assert counted.sum(1).tolist() == [8, 3, 4, 8]
    for row, kept in zip(positions, counted):
        assert len(row[kept].unique()) == int(kept.sum())
    assert layout.late.gather(1, positions)[counted].all()


@pytest.mark.parametrize("family", REFUSED)
def test_families_whose_scores_are_not_at_hand_are_refused(family):
    subject, prompts, _ = prepare(family)
    with pytest.raises(Unsupported, match=REFUSED[family]):
        KeyPath(subject, prompts, find_sites(subject, prompts))


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (Transplant(3), "no edit of P0's own stream"),
        (TokenAt(3, 5), "position 3"),
        (SetWrite(1, "mlp", 2), "position 2"),
        (Stream(1, 0, "copy", 4), "streams of other positions"),
        (HoldKeys(0), "no edit of P0's own stream"),
    ],
)
def test_edits_of_anything_else_are_refused(edit, why):
    subject, prompts, sites = prepare("llama")
    path = KeyPath(subject, prompts, sites)
    before = model_state(subject.model)
    with pytest.raises(Unsupported, match=why):
        path.effect([SetWrite(1, "mlp"), edit])
    assert model_state(subject.model) == before


def test_what_was_not_kept_is_refused():
    subject, prompts, sites = prepare("mixtral")
    path = KeyPath(subject, prompts, sites)
    with pytest.raises(InputError, match=r"seeds \(0,\)"):
        path.effect([SetWrite(1, "mlp", 0, "resample", 7)])
    before = model_state(subject.model)
    with pytest.raises(Unsupported, match="inside experts"):
        path.effect([KeepUnits(1, "mlp", (3,))])
    assert model_state(subject.model) == before
    with pytest.raises(InputError, match="right-padded"):
        KeyPath(subject, left_padded(prompts.input_ids), sites)


def model_state(model):
    """Hooks, own forward functions, attention implementations and weights of a model."""
    modules = list(model.modules())
    return (
        [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules],
        ["forward" in m.__dict__ for m in modules],
        [c._attn_implementation_internal for c in configurations(model)],
        [float(p.detach().double().sum()) for p in model.parameters()],
    )
