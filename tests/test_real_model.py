"""The pretrained model of `make real`: facts that were measured on it with plain transformers."""

from __future__ import annotations

import numpy as np
import pytest

import sinkscope
from sinkscope.circuit.recognition import recognition
from sinkscope.observe.sites import find_sites
from tests.contradictions import contradictions

pytestmark = pytest.mark.real


def test_its_sink_comes_and_goes_and_comes_again_along_depth(smollm2):
    result = sinkscope.scan(smollm2, n=6, length=64, bos="without", untrained=False)
    late = result.data["scan/without"]["p0_late"].mean("sequence").values
    by_block = np.nanmean(late, 1)
    assert smollm2.identity["weights"]["label"] == "Q4_1"
    # six other windows gave .018 .007 .087 | .233 to .274 | .053 .004 | .323 to .774
    assert by_block[:3].max() < 0.15
    assert by_block[3:10].min() > 0.2
    assert by_block[10:12].max() < 0.1
    assert by_block[12:].min() > 0.3


def test_its_position_zero_is_told_apart_where_its_norm_shows_it(smollm2):
    """P0 is 3 times as long as the others at x2 and 10 times at x3."""
    prompts = sinkscope.build_prompts(smollm2, n=6, length=64, bos="without")
    sites = find_sites(smollm2, prompts)
    found = recognition(smollm2, sites, prompts, seed=0)
    assert "too few for 576 channels" in found.probe_reason
    assert sites.points.index(found.point) <= sites.points.index("x3")
    assert "norm" in found.measures


def test_its_norm_rises_twice_and_two_neurons_write_what_most_heads_read(smollm2):
    prompts = sinkscope.build_prompts(smollm2, n=6, length=64, bos="without")
    circuit = sinkscope.find_circuit(smollm2, prompts, untrained=False)
    spans = [(one.phase.rise, one.phase.fall) for one in circuit.phases]
    assert spans[:2] == [((0, 2), (8, 10)), ((11, 11), (27, 29))]
    assert [one.most_read for one in circuit.phases] == [False, True]
    assert {unit.place for unit in circuit.of("neuron")} == {(11, 1229), (11, 1487)}
    first, second = ({block for block, _ in one.readers} for one in circuit.phases[:2])
    assert (min(first), max(first), min(second)) == (3, 9, 12)


def test_what_is_said_of_it_follows_from_its_numbers(smollm2):
    seen = sinkscope.run(smollm2, n=7, rows=7, length=24, untrained=False, vocabulary=False)
    assert contradictions(seen) == []
