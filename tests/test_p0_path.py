"""Effects through P0's key are those of a full pass in which nothing but P0's key is edited."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from sinkscope.errors import InputError, Unsupported
from sinkscope.intervene.edits import (
    Heads,
    HoldKeys,
    KeepUnits,
    MatchVariance,
    Neurons,
    ScaleWrite,
    SetWrite,
    Stream,
    TokenAt,
)
from sinkscope.intervene.edits.base import Edit, at_positions
from sinkscope.intervene.edits.hold import Intact, _Record
from sinkscope.intervene.engine import Engine
from sinkscope.intervene.p0_path import KeyPath
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
    "bloom": "registry",
    "falcon": "registry",
    "mpt": "registry",
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
        self.engine.run([self.hold, *edits, heard, _Record((0,), edited)], want_logits=False)
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
    moved = 0
    for i, (share, margin, stream) in enumerate(expected):
        name = "; ".join(map(str, lists[i]))
        np.testing.assert_allclose(found.share[i], share, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(found.margin[i], margin, atol=1e-4, rtol=1e-5, err_msg=name)
        torch.testing.assert_close(found.streams[i], stream, atol=1e-5, rtol=1e-4)
        moved += bool(np.nanmax(np.abs(share - slow.engine.intact.share[:, 0])) > 1e-3)
    assert moved >= len(lists) // 2
