"""Who writes a phase, who takes it back, and whether another phase needs it."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from sinkscope.circuit.find import find_circuit
from sinkscope.circuit.unit import NEURON
from sinkscope.errors import Unsupported
from sinkscope.intervene.edits import SetWrite
from sinkscope.intervene.p0_path import KeyPath
from sinkscope.intervene.phase_paths import need_rows, phase_needs, without_writes
from sinkscope.known.constructed.build import build_in_memory
from sinkscope.known.constructed.spec import draw_spec
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import build_prompts


@pytest.fixture(scope="module")
def constructed():
    spec = draw_spec("p0-two-phase", 1, noise=0.05)
    model, tokenizer, truth = build_in_memory(spec)
    subject = Subject.from_model(model, tokenizer, "p0-two-phase")
    prompts = build_prompts(subject, n=8, length=64, bos="without")
    return subject, prompts, find_circuit(subject, prompts), truth


@pytest.fixture(scope="module")
def path(constructed):
    subject, prompts, circuit, _ = constructed
    return KeyPath(subject, prompts, circuit.sites)


def places(units, kind):
    return sorted(list(unit.place) for unit in units if unit.kind == kind)


def test_constructed_phases_are_as_they_were_written(constructed):
    _, _, circuit, truth = constructed
    assert len(circuit.phases) == len(truth.phases) == 2
    for part, stated in zip(circuit.phases, truth.phases):
        assert list(part.phase.rise) == stated["rise"]
        assert (part.phase.fall and list(part.phase.fall)) == stated["fall"]
        assert list(part.writes.writers) == stated["writers"]
        assert list(part.writes.takers) == stated["takers"]
        assert [list(head) for head in part.readers] == sorted(stated["reading_heads"])
        assert places(part.writes.components.units, NEURON) == sorted(stated["writing_neurons"])
        risen = [
            share
            for name, share in part.writes.share.items()
            if stated["rise"][0] <= int(name.split(".")[0]) <= stated["rise"][1]
        ]
        assert sum(risen) == pytest.approx(1.0)
    assert places(circuit.writers, NEURON) == sorted(truth.writing_neurons)
    assert [circuit.emergence_block] == truth.amplifying_blocks


def test_the_circuit_is_that_of_the_most_read_phase():
    """The later phase has more readers here, and another direction."""
    spec = draw_spec("p0-two-phase", 0, blocks=(1, 3, 4), depth=8, channels=4, noise=0.0)
    model, tokenizer, truth = build_in_memory(spec)
    subject = Subject.from_model(model, tokenizer)
    circuit = find_circuit(subject, build_prompts(subject, n=4, length=64))
    first, second = circuit.phases
    assert (first.most_read, second.most_read) == (False, True)
    assert (circuit.emergence_block, circuit.read_point, circuit.plateau) == (4, 5, (5, 8))
    assert places(circuit.writers, NEURON) == sorted(truth.phases[1]["writing_neurons"])
    torch.testing.assert_close(circuit.direction, second.direction)
    assert abs(float(first.direction @ second.direction)) < 0.5
    assert (second.concentration["4"], first.concentration["2"]) == (0.0, pytest.approx(1.0))


def test_no_phase_of_a_constructed_model_needs_the_other(constructed, path):
    _, _, circuit, _ = constructed
    needs = phase_needs(path, circuit.phases)
    for i in range(2):
        assert needs.norm_left[i, i].abs() < 0.2
        assert needs.share_left[i, i] < 0.2
        assert needs.share_left[i, 1 - i] > 0.9
    rows = need_rows(path, circuit.phases)
    assert [(row["removed"], row["phase"]) for row in rows] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert rows[1]["share_left"] == pytest.approx(float(needs.share_left[0, 1]))
    assert rows[1]["norm_left"] == pytest.approx(float(needs.norm_left[0, 1]))


def test_each_phase_is_looked_at_under_each_removal(constructed, path):
    _, _, circuit, _ = constructed
    first, second = circuit.phases
    unread = dataclasses.replace(second, readers=())
    needs = phase_needs(path, [first, unread])
    edits = [without_writes(part.writes.writers) for part in (first, second)]
    assert needs.edits == edits
    found = path.effects(edits)
    for i in range(2):
        torch.testing.assert_close(needs.norm[i, 0], found.norm[i, :, first.phase.point].log())
        torch.testing.assert_close(needs.norm[i, 1], found.norm[i, :, second.phase.point].log())
        torch.testing.assert_close(needs.share[i, 0], found.on(first.readers)[i])
        assert needs.share[i, 1].isnan().all()  # no head reads while it lasts
    intact = path.intact.norm[0, :, first.phase.point].log()
    torch.testing.assert_close(needs.intact_norm[0], intact)
    assert need_rows(path, [first, unread])[1]["share_left"] is None


def test_writes_of_other_kinds_are_refused():
    assert without_writes(["3.mlp", "0.attention"])[0] == SetWrite(3, "mlp", 0, "mean")
    with pytest.raises(Unsupported, match=r"2\.other"):
        without_writes(["2.other"])
