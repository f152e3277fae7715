"""Intervals cover, tests hold their level, adjustments are right."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from sinkscope.stats import (
    LEAST_UNITS,
    Draw,
    bootstrap,
    drawn_share,
    holm,
    paired_change,
    sign_flip_p,
    spearman,
    units_needed,
    widened_tail,
)


def test_widened_tail_is_hesterbergs():
    # Hesterberg (2015), table of adjusted levels: n = 10 needs 0.86 %, n = 100 2.3 %
    assert widened_tail(10) == pytest.approx(0.0086, abs=2e-4)
    assert widened_tail(100) == pytest.approx(0.0231, abs=2e-4)


@pytest.mark.parametrize("n", [6, 16])
def test_paired_interval_covers_the_true_ratio(n):
    generator = np.random.default_rng(0)
    held = 0
    for seed in range(300):
        intact = 0.8 + 0.1 * generator.standard_normal(n)
        edited = 0.3 * intact + 0.05 * generator.standard_normal(n)
        change = paired_change(edited, intact, intact, seed)
        assert change.low <= change.value <= change.high
        held += change.low <= -0.7 <= change.high
    assert 0.92 <= held / 300 <= 0.98


@pytest.mark.parametrize("n", [6, 16])
def test_interval_of_a_mean_covers_it(n):
    """Unwidened percentiles of so few values hold the mean in 86 and 92 % of draws."""
    generator = np.random.default_rng(1)
    held = 0
    for seed in range(400):
        found = bootstrap(0.4 + 0.1 * generator.standard_normal(n), seed)
        held += found.low <= 0.4 <= found.high
    assert 0.93 <= held / 400 <= 0.98


def test_paired_change_of_few_or_missing_prompts():
    one = paired_change(np.array([0.2]), np.array([0.8]), np.array([0.8]))
    assert one.value == pytest.approx(-0.75)
    assert one.low is None
    assert paired_change(np.array([np.nan]), np.array([0.8])).value is None
    left_out = paired_change(np.array([0.2, np.nan, 0.2]), np.array([0.8, 0.1, 0.8]))
    assert left_out.value == pytest.approx(-0.6)


def test_sign_flips_are_exact_for_few():
    assert sign_flip_p(np.array([1.0, 2.0, 3.0])) == 1 / 8
    assert sign_flip_p(np.array([-1.0, -2.0, -3.0])) == 1.0
    assert sign_flip_p(np.array([3.0, 2.0, -1.0])) == 2 / 8
    assert sign_flip_p(np.zeros(5)) == 1.0
    assert sign_flip_p(np.array([np.nan])) is None


def test_sign_flips_of_many_agree_with_the_exact_ones(monkeypatch):
    values = np.random.default_rng(1).standard_normal(12) + 0.4
    exact = sign_flip_p(values)
    monkeypatch.setattr("sinkscope.stats.EXACT_FLIPS", 4)
    assert sign_flip_p(values) == pytest.approx(exact, abs=0.01)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, None, 0.5]) == [
        pytest.approx(0.04), pytest.approx(0.09), pytest.approx(0.09), None, 0.5,
    ]  # fmt: skip
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_spearman():
    assert spearman([1, 2, 3], [10.0, 30.0, 20.0]) == pytest.approx(0.5)
    assert spearman([1, 2], [1.0, 2.0]) is None
    assert spearman([1, 2, 3], [1.0, 1.0, 1.0]) is None


def test_drawn_share_is_wilsons_and_shrinks_as_the_draw_nears_all():
    wilson = binomtest(390, 400).proportion_ci(method="wilson")
    far = drawn_share(390, 400, 10**9)
    assert (far.low, far.high) == pytest.approx((wilson.low, wilson.high), abs=1e-6)
    near = drawn_share(390, 400, 410)
    assert far.low < near.low < near.value < near.high < far.high
    assert drawn_share(400, 400, 1000).low < 1  # none seen is not none there
    assert drawn_share(390, 400, 400).low is None


def _coverage(draw, truth, runs=300):
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(runs):
        found = bootstrap(*draw(generator))
        hits += found.low <= truth <= found.high
    return hits / runs


def test_windows_of_a_document_are_drawn_together():
    def draw(generator, units=True):
        documents = np.repeat(np.arange(10), 6)
        values = generator.normal(0, 1, 10)[documents] + generator.normal(0, 0.3, 60)
        return (values, 0, documents) if units else (values,)

    assert 0.91 <= _coverage(draw, 0.0) <= 0.98
    assert _coverage(lambda generator: draw(generator, False), 0.0) < 0.7


def test_changes_on_windows_of_a_document_are_drawn_together():
    documents = np.repeat(np.arange(10), 6)
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(300):
        values = generator.normal(0, 1, 10)[documents] + generator.normal(0, 0.3, 60)
        found = Draw(documents).change(values, 0 * values)
        hits += found.low <= 0 <= found.high
    assert 0.91 <= hits / 300 <= 0.98
    few = Draw(documents).change(values[:8], 0 * values[:8])
    assert few == paired_change(values[:8], 0 * values[:8], units=documents[:8])
    alone = Draw(documents).mean(values[:6])  # one document: it speaks of its windows
    assert alone == bootstrap(values[:6])


def test_few_documents_that_are_alike_by_chance_make_no_interval_narrow():
    def draw(generator):  # windows that owe nothing to their documents
        return generator.normal(0, 1, 24), 0, generator.choice(7, 24, p=np.arange(1, 8) / 28)

    assert 0.945 <= _coverage(draw, 0.0, runs=600) <= 0.985


def test_a_figure_that_few_prompts_make_needs_more_of_them():
    rare = np.r_[np.ones(2), np.zeros(18)]
    assert units_needed(rare) == 72
    assert units_needed(np.r_[np.ones(10), np.zeros(10)]) == LEAST_UNITS
    assert units_needed(np.arange(6.0)) == LEAST_UNITS
    assert units_needed(rare, np.arange(20) // 10) == LEAST_UNITS

    def draw(generator):
        return ((generator.random(72) < 0.1).astype(float),)

    assert 0.91 <= _coverage(draw, 0.1) <= 0.98
