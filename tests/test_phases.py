"""Rises and falls of position zero along depth, on curves that are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sinkscope.circuit import phases
from sinkscope.circuit.phase_parts import most_read, readers, sink_heads
from sinkscope.circuit.phases import direction_phases, find_phases, norm_phases
from sinkscope.circuit.reading import SinkHeads

SMOLLM2 = (
    *(0.93, 1.14, 3.11, 10.2, 9.27, 8.68, 8.05, 7.54, 6.95, 5.12, 1.27, 1.06),
    *(176, 170, 162, 154, 140, 129, 125, 119, 106, 98, 82, 71, 61, 50, 44, 41, 34, 12, 1.02),
)
HYBRID = (1.0, 1.0, 1.0, 8.0, 1.1, 1.1, 1.1, 9.0, 1.1, 1.1, 1.1, 12.0, 1.2)  # L L L F, thrice


def spans(found):
    return [(phase.rise, phase.point, phase.fall) for phase in found]


def of(*ratios):
    return norm_phases(np.log(np.array(ratios, dtype=float)))


def test_smollm2_rises_twice():
    found = of(*SMOLLM2)
    assert spans(found) == [((0, 2), 3, (8, 10)), ((11, 11), 12, (28, 29))]
    assert [phase.plateau(30) for phase in found] == [(3, 8), (12, 28)]
    assert found[1].height == pytest.approx(np.log(176))
    assert [phase.block for phase in found] == [2, 11]
    # block 2 reads while P0 rises, block 10 when it is taken back but for its own MLP's part
    assert [phase.read for phase in found] == [(3, 9), (12, 29)]


def test_a_power_of_the_ratio_has_the_same_phases():
    for power in (0.5, 2.0, 3.0):
        found = norm_phases(power * np.log(SMOLLM2))
        assert spans(found) == spans(of(*SMOLLM2))
        assert [phase.block for phase in found] == [2, 11]


@pytest.mark.parametrize(
    ("bound", "low", "high"), [("HALF", 0.4, 0.6), ("SETTLED", 0.0, 0.04), ("STEEP", 0.08, 0.15)]
)
def test_the_phases_of_smollm2_hang_on_no_exact_bound(monkeypatch, bound, low, high):
    stated = spans(of(*SMOLLM2))
    for value in np.linspace(low, high, 5):
        monkeypatch.setattr(phases, bound, value)
        assert spans(of(*SMOLLM2)) == stated


def looked_at(late, sinks=0.3):
    late = np.array(late)
    return SinkHeads(late > sinks, late, np.full(len(late), 0.01), None, np.ones(1, bool))


def test_who_reads_a_phase():
    first, second = of(1, 9, 9, 1, 9, 9)
    assert (first.read, second.read) == ((1, 2), (4, 5))
    late = [[0.9, 0.9], [0.2, 0.02], [0.4, 0.2], [0.9, 0.9], [0.9, 0.01]]
    reading = looked_at(late)
    assert readers(first, reading) == ((1, 0), (2, 0), (2, 1))  # over three times uniform
    assert sink_heads(first, reading) == ((2, 0),)
    assert sink_heads(second, reading) == ((4, 0),)
    assert most_read([first, second], reading) is first  # one sink head each, but more readers
    assert most_read([second, first], reading) is first  # whatever their order
    assert most_read([first, second], looked_at(late, sinks=0.5)) is second
    assert most_read([], reading) is None


def test_what_lasts_has_no_fall():
    assert spans(of(1, 1, 1.02, 30, 31, 33, 30, 20)) == [((2, 2), 5, None)]
    assert spans(of(1, 4, 16, 64, 256, 250)) == [((0, 3), 4, None)]


def test_no_phase():
    assert of(1, 1.1, 0.9, 1.2, 1.3, 1.0) == []
    assert of(0.9, 0.5, 0.3, 0.2) == []  # P0 is the smallest
    assert norm_phases(np.log([1, 1.2, 3.0, 3.1]), null=2.5) == []  # as much without training


def test_the_block_that_crosses_half_is_in_the_rise():
    """Half of the peak lies within the two hundredths that count as the valley."""
    assert spans(norm_phases(np.array([2.28, 2.325, 4.6]))) == [((0, 1), 2, None)]


def test_steepness_is_that_of_the_rise_itself():
    """A bump before it that is no phase has the steepest step."""
    bump = np.array([0, 0.35, 0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.52])
    assert spans(norm_phases(bump)) == [((2, 7), 8, None)]


def test_what_the_embedding_holds():
    assert spans(of(20, 21, 19, 5, 1.05, 1.0)) == [((-1, -1), 1, (2, 3))]


def test_a_dent_is_no_new_phase():
    assert spans(of(1, 30, 28, 9, 29, 32, 1)) == [((0, 0), 5, (5, 5))]
    assert len(of(1, 30, 28, 4, 29, 32, 1)) == 2


def test_a_hybrid_spikes_before_each_full_attention():
    found = of(*HYBRID)
    assert spans(found) == [((2, 2), 3, (3, 3)), ((6, 6), 7, (7, 7)), ((10, 10), 11, (11, 11))]
    assert [phase.plateau(12) for phase in found] == [(3, 3), (7, 7), (11, 11)]


def test_noise_changes_nothing():
    for seed in range(200):
        noise = np.random.default_rng(seed).normal(0, 0.01, len(SMOLLM2))
        found = norm_phases(np.log(SMOLLM2) + noise)
        assert [phase.rise for phase in found] == [(0, 2), (11, 11)]
        assert found[0].fall == (8, 10)
        assert found[1].fall in ((28, 29), (27, 29))
        assert found[0].point in (3, 4)


def streams(*marks):
    """P0 and others [n, points, 16]: others random, P0 moved along axes by (axis, size)."""
    generator = torch.Generator().manual_seed(0)
    p0 = torch.randn(4000, len(marks), 16, generator=generator)
    others = torch.randn(4000, len(marks), 16, generator=generator)
    for point, (axis, size) in enumerate(marks):
        p0[:, point, axis] += size
    return unit_norm(p0), unit_norm(others)


def unit_norm(x):
    return x / x.norm(dim=-1, keepdim=True)


def test_a_direction_alone():
    p0, others = streams((0, 0), (0, 0), (3, 40), (3, 40), (3, 40), (0, 0), (0, 0))
    flat = np.zeros(7)
    found = find_phases(flat, p0, others)
    assert [(p.by, p.rise, p.fall) for p in found] == [("direction", (1, 1), (4, 4))]
    assert find_phases(np.log([1, 1, 9, 9, 9, 1, 1]), p0, others)[0].by == "norm"
    p0, others = streams(*[(0, 0)] * 5)
    assert direction_phases(p0, others) == []


def test_what_others_do_by_themselves_is_no_phase():
    """P0 stands to one side, but half of the others stand there too."""
    p0, _ = streams((0, 0), (3, 40), (3, 40))
    others = p0.clone()
    others[::2] *= -1
    assert direction_phases(p0, others) == []


def test_a_small_gap_is_no_phase_however_sharp():
    noise = 1e-3 * torch.randn(2, 500, 3, 16, generator=torch.Generator().manual_seed(0))
    p0, others = noise[0], noise[1]
    for x in (p0, others):
        x[..., 0] += 1.0
    p0[:, 1:, 1] += 0.05
    assert direction_phases(unit_norm(p0), unit_norm(others)) == []
    p0[:, 1:, 1] += 1.0
    assert [p.rise for p in direction_phases(unit_norm(p0), unit_norm(others))] == [(0, 0)]


def test_two_directions_are_two_phases():
    p0, others = streams((0, 0), (3, 40), (3, 40), (7, 30), (7, 30), (7, 30))
    found = direction_phases(p0, others)
    assert [(p.rise, p.fall) for p in found] == [((0, 0), (2, 2)), ((2, 2), None)]
