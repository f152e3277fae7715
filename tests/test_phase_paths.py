"""Who writes a phase, who takes it back, and whether another phase needs it."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from sinkscope.causal.phase_needs import need_rows, needs_it
from sinkscope.causal.phase_paths import phase_needs, without_writes
from sinkscope.causal.testing import CausalBench
from sinkscope.causal.verify import verify
from sinkscope.circuit.find import find_circuit
from sinkscope.circuit.unit import NEURON
from sinkscope.errors import Unsupported
from sinkscope.intervene.edits import SetWrite
from sinkscope.intervene.engine import Engine
from sinkscope.intervene.p0_path import KeyPath
from sinkscope.known.constructed.build import build_in_memory
from sinkscope.known.constructed.spec import draw_spec
from sinkscope.report.causal.verdict_page import findings as verdict_findings
from sinkscope.result import Measured
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


def shares_within(part, span):
    """The shares of the sublayers in these blocks."""
    shares = part.writes.share.items()
    at = range(span[0], span[1] + 1) if span else ()
    return [share for name, share in shares if int(name.split(".")[0]) in at]


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
        risen, fallen = (shares_within(part, stated[span]) for span in ("rise", "fall"))
        assert sum(risen) == pytest.approx(1.0, abs=1e-3)
        taken = [share for share in fallen if share < 0]
        assert not taken or sum(taken) == pytest.approx(-1.0, abs=1e-3)
        assert bool(taken) == bool(stated["takers"])
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
        assert (needs.norm[i, i].mean() / needs.intact_norm[i].mean()).abs() < 0.2
        assert needs.share[i, i].mean() < 0.2 * needs.intact_share[i].mean()
        assert needs.share[i, 1 - i].mean() > 0.9 * needs.intact_share[1 - i].mean()


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


def test_a_row_says_whether_a_phase_needs_the_one_before_it(constructed):
    subject, prompts, circuit, _ = constructed
    prompts = prompts.take(slice(0, 6))
    (row,) = need_rows(bench(subject, prompts, circuit, circuit.phases))
    assert (row["removed"], row["phase"], row["outcome"]) == (1, 2, "not needed")
    assert row["writers"] == list(circuit.phases[0].writes.writers)
    needs = phase_needs(KeyPath(subject, prompts, circuit.sites), circuit.phases)
    for phase, name in ((0, "removed_share_left"), (1, "share_left")):
        left = needs.share[0, phase].mean() / needs.intact_share[phase].mean()
        assert row[name].value == pytest.approx(float(left), abs=1e-5)
        assert row[name].low <= row[name].value <= row[name].high
    left = needs.norm[0, 1].mean() / needs.intact_norm[1].mean()
    assert row["norm_left"].value == pytest.approx(float(left), abs=1e-5)


def test_a_hybrid_that_cancels_its_spikes_has_a_circuit():
    """Three blocks without a reader and one with, twice, as in arXiv 2608.12149."""
    spec = draw_spec("p0-hybrid", 5, blocks=(2, 3, 6, 7), depth=8, noise=0.05)
    model, tokenizer, _ = build_in_memory(spec)
    subject = Subject.from_model(model, tokenizer, "p0-hybrid")
    prompts = build_prompts(subject, n=8, length=64, bos="without")
    circuit = find_circuit(subject, prompts, untrained=False)
    spans = [(part.phase.rise, part.phase.fall) for part in circuit.phases]
    assert spans == [((0, 2), (3, 3)), ((6, 6), (7, 7))]
    assert [{block for block, _ in part.readers} for part in circuit.phases] == [{3}, {7}]
    result = verify(subject, prompts=prompts, circuit=circuit, draws=2)
    found = result.summary.verify["without"]
    assert found.verdict == "p0-circuit"
    assert [row["outcome"] for row in found.phase_needs] == ["not needed"]
    said = " ".join(verdict_findings(result, "without").sentences)
    assert "Phase 2 does not need phase 1" in said


def test_a_phase_that_rests_on_another_needs_it(constructed):
    """Told that phase 1 is written by the writer of phase 2, phase 2 cannot do without it."""
    subject, prompts, circuit, _ = constructed
    first, second = circuit.phases
    writes = dataclasses.replace(first.writes, writers=second.writes.writers)
    late = dataclasses.replace(second, writes=writes)
    rows = need_rows(bench(subject, prompts, circuit, (late, second)))
    assert [row["outcome"] for row in rows] == ["needed"]
    assert rows[0]["removed_share_left"].value == rows[0]["share_left"].value < 0.2
    by_direction = dataclasses.replace(second.phase, by="direction")  # has no norm to speak of
    turned = dataclasses.replace(second, phase=by_direction)
    (row,) = need_rows(bench(subject, prompts, circuit, (first, turned)))
    assert (row["norm_left"], row["outcome"]) == (None, "not needed")
    assert row["removed_share_left"].value < 0.2  # of heads that the tests do not read
    early = dataclasses.replace(first, writes=writes)  # what is no writer of it leaves it as it is
    rows = need_rows(bench(subject, prompts, circuit, (early, second)))
    assert [row["outcome"] for row in rows] == ["not removed"]
    other = dataclasses.replace(first.writes, writers=("1.other",))
    lab = bench(subject, prompts, circuit, (dataclasses.replace(first, writes=other), second))
    assert need_rows(lab) == []
    assert "1.other is no write" in " ".join(lab.notes)
    assert need_rows(bench(subject, prompts, circuit, (first,))) == []


def bench(subject, prompts, circuit, phases):
    """A bench whose sink heads are those of the last phase alone."""
    heads = phases[-1].sink_heads
    circuit = dataclasses.replace(circuit, phases=phases, reading_heads=heads)
    engine = Engine(subject, prompts, circuit.sites, direction=circuit.direction, heads=heads)
    return CausalBench(engine, circuit, heads, 5, 2, 0)


@pytest.mark.parametrize(
    ("removed", "left", "word"),
    [
        ((0.0, 0.1, 0.2), (0.95, 1.0, 1.05), "not needed"),
        ((0.0, 0.1, 0.2), (0.85, 1.0, 1.05), "in part"),
        ((0.0, 0.1, 0.2), (0.95, 1.0, 1.15), "in part"),
        ((0.0, 0.1, 0.2), (0.6, 0.7, 0.8), "in part"),
        ((0.0, 0.1, 0.2), (0.4, 0.7, 0.8), "undetermined"),
        ((0.0, 0.1, 0.2), (0.1, 0.3, 0.5), "needed"),
        ((0.0, 0.1, 0.2), (0.1, 0.3, 0.6), "undetermined"),
        ((0.0, 0.1, 0.6), (0.1, 0.3, 0.4), "not removed"),
        ((None, 0.1, None), (0.95, 1.0, 1.05), "not removed"),
        ((0.0, 0.1, 0.2), (None, 1.0, None), "undetermined"),
    ],
)
def test_what_is_left_in_a_word(removed, left, word):
    measured = [Measured(low=low, value=value, high=high) for low, value, high in (removed, left)]
    assert needs_it(*measured) == word
    assert (needs_it(None, measured[1]), needs_it(measured[0], None)) == (
        "not removed",
        "not removed" if word == "not removed" else "undetermined",
    )


def test_writes_of_other_kinds_are_refused():
    assert without_writes(["3.mlp", "0.attention"])[0] == SetWrite(3, "mlp", 0, "mean")
    with pytest.raises(Unsupported, match=r"2\.other"):
        without_writes(["2.other"])
