"""Who writes a phase, who takes it back, and whether another phase needs it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sinkscope.circuit.phases import Phase, norm_phases, phase_writes
from sinkscope.errors import Unsupported
from sinkscope.intervene.edits import SetWrite
from sinkscope.intervene.p0_path import KeyPath
from sinkscope.intervene.phase_paths import phase_needs, without_writes
from sinkscope.known.constructed.build import build_in_memory
from sinkscope.known.constructed.spec import draw_spec
from sinkscope.observe.p0_stream import p0_states
from sinkscope.observe.sites import find_sites
from sinkscope.observe.stream import sink_direction
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import build_prompts


@pytest.fixture(scope="module")
def constructed():
    spec = draw_spec("p0-two-block", 7, family="llama", noise=0.05)
    model, tokenizer, truth = build_in_memory(spec)
    subject = Subject.from_model(model, tokenizer, "p0-two-block")
    prompts = build_prompts(subject, n=8, length=64, bos="without")
    sites = find_sites(subject, prompts)
    return subject, prompts, sites, KeyPath(subject, prompts, sites), truth


def test_a_constructed_phase_is_written_by_whom_it_was_given(constructed):
    subject, prompts, sites, path, truth = constructed
    (phase,) = norm_phases(path.intact.norm[0].log().mean(0).numpy())
    assert phase.rise[1] == truth.amplifying_blocks[-1]
    tokens = prompts.input_ids[:, 0]
    states = p0_states(subject, tokens)
    others = path.others.get("unit", phase.point).mean(0)
    u = sink_direction(states[:, phase.point], others)
    writes = phase_writes(subject, sites, tokens, u, phase)
    assert writes.writers == (f"{truth.amplifying_blocks[-1]}.mlp",)
    risen = sum(
        share
        for name, share in writes.share.items()
        if phase.rise[0] <= int(name.split(".")[0]) <= phase.rise[1]
    )
    assert risen == pytest.approx(1.0)
    heads = [tuple(head) for head in np.argwhere(path.intact.share[0].mean(0).numpy() > 0.3)]
    needs = phase_needs(path, [phase], [writes.writers], heads)
    assert needs.norm_left.abs().item() < 0.2
    assert needs.share_left.item() < 0.2
    nobody = phase_needs(path, [phase], [()], heads)
    assert nobody.norm_left.item() == pytest.approx(1.0)
    assert nobody.share_left.item() == pytest.approx(1.0)


def test_each_phase_is_looked_at_under_each_removal(constructed):
    _, _, _, path, truth = constructed
    block, last = truth.amplifying_blocks[-1], path.depth - 1
    phases = [
        Phase("norm", block + 1, 1.0, (0, block), None),
        Phase("norm", 1, 1.0, (-1, -1), (0, 0)),
    ]
    needs = phase_needs(path, phases, [[f"{block}.mlp"], [f"{last}.attention"]], [(last, 1)])
    edits = [[SetWrite(block, "mlp", 0, "mean")], [SetWrite(last, "attention", 0, "mean")]]
    assert needs.edits == edits
    found = path.effects(edits)
    for i in range(2):
        torch.testing.assert_close(needs.norm[i, 0], found.norm[i, :, block + 1].log())
        torch.testing.assert_close(needs.norm[i, 1], found.norm[i, :, 1].log())
        torch.testing.assert_close(needs.share[i, 0], found.share[i, :, last, 1])
        assert needs.share[i, 1].isnan().all()  # no head reads while it lasts
    torch.testing.assert_close(needs.intact_norm[0], path.intact.norm[0, :, block + 1].log())


def test_writes_of_other_kinds_are_refused():
    assert without_writes(["3.mlp", "0.attention"])[0] == SetWrite(3, "mlp", 0, "mean")
    with pytest.raises(Unsupported, match=r"2\.other"):
        without_writes(["2.other"])
