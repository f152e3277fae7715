"""Mutated inputs: each gets an answer of the right class, whatever is wrong with it.

Some hundreds here; `make fuzz COUNT=5000` runs as many as there is time for, with other seeds.
"""

import os

import pytest

from tests.fuzzing.sweep import KINDS, Sweep

COUNT = int(os.environ.get("FUZZ_COUNT", "220"))


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    return Sweep(tmp_path_factory.mktemp("fuzz"))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_mutated_inputs_are_answered(sweep, kind):
    sweep.run(kind, COUNT // len(KINDS))
    assert not sweep.bad, "\n".join(sweep.bad)
