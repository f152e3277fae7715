"""Emergence, stages and the settling signal against brute force and planted answers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from planted.curves import draw_series
from timeline_answers import check, curves_of, table

from sinkscope.stats import first_sustained
from sinkscope.training_runs import settling as settle
from sinkscope.training_runs.course import spans, standing
from sinkscope.training_runs.emergence import crossing_at, emergence, noise
from sinkscope.training_runs.settling import settling
from sinkscope.training_runs.stages import SHORTEST, best_cuts, find_stages, segment_costs


@pytest.mark.parametrize(
    ("above", "index"),
    [("0111", 1), ("0110111", 4), ("0110", None), ("111", 0), ("0011", None), ("", None)],
)
def test_first_sustained(above, index):
    assert first_sustained(np.array([c == "1" for c in above], dtype=bool)) == index


def test_a_sink_stands_from_its_crossing_on_while_it_is_above():
    above = np.array([mark == "1" for mark in "0111011"])
    assert standing(above) == above.tolist()
    assert standing(above[:3]) == [False] * 3


def test_a_clear_jump_lies_within_its_gap():
    steps = [0, 100, 200, 300, 400, 500, 600]
    found = emergence(steps, np.array([0, 0, 0, 5, 5, 5, 5.0]), 1.0, 0.05)
    assert (found.step, found.before) == (300, 200)
    assert (found.low, found.high) == (200, 300)


def test_doubt_widens_the_interval():
    steps = [0, 100, 200, 300, 400, 500, 600]
    values = np.array([0, 0, 0.98, 1.02, 5, 5, 5.0])
    sure, unsure = emergence(steps, values, 1.0, 0.001), emergence(steps, values, 1.0, 0.2)
    assert (sure.low, sure.high) == (200, 300)
    assert (unsure.low, unsure.high) == (100, 400)


def test_above_from_the_first_checkpoint_has_no_lower_end():
    found = emergence([7, 8, 9], np.array([5, 5, 5.0]), 1.0, 0.1)
    assert (found.step, found.low, found.high, found.before) == (7, None, 7.0, None)


def test_a_spike_and_a_late_rise_are_no_emergence():
    assert emergence([1, 2, 3, 4, 5], np.array([0, 9, 9, 0, 9.0]), 1.0, 0.1) is None


def test_noise_is_measured_beside_course_and_jump():
    g = np.random.default_rng(0)
    course = np.concatenate([np.linspace(0, 3, 200), np.linspace(9, 9, 200)])
    assert noise(course + g.normal(0, 0.1, 400)) == pytest.approx(0.1, rel=0.15)
    assert noise(course, 0.4) == 0.4


def test_costs_are_those_of_fitted_lines():
    curve = np.random.default_rng(1).normal(size=(12, 2))
    cost = segment_costs(curve)
    for i, j in itertools.combinations(range(13), 2):
        if j - i < SHORTEST:
            assert np.isinf(cost[i, j])
            continue
        x = np.arange(i, j)
        residual = sum(((np.polyval(np.polyfit(x, y, 1), x) - y) ** 2).sum() for y in curve[i:j].T)
        assert cost[i, j] == pytest.approx(residual, abs=1e-9)


def test_cuts_are_the_best_of_all():
    cost = segment_costs(np.random.default_rng(2).normal(size=(13, 3)))
    for pieces, (total, starts) in enumerate(best_cuts(cost, 4), 1):
        every = []
        for inner in itertools.combinations(range(1, 13), pieces - 1):
            edges = [0, *inner, 13]
            every.append((sum(cost[a, b] for a, b in itertools.pairwise(edges)), tuple(edges[:-1])))
        assert (pytest.approx(total), starts) == min(every)


def test_stages_of_plain_curves():
    flat = np.zeros((30, 1))
    assert find_stages(flat).starts == (0,)
    ramp = np.clip(np.arange(30.0) - 9, 0, 10)[:, None]
    g = np.random.default_rng(3)
    assert len(find_stages(ramp + g.normal(0, 0.1, (30, 1)))) == 3
    assert len(find_stages(np.arange(30.0)[:, None] + g.normal(0, 0.1, (30, 1)))) == 1
    assert len(find_stages(np.zeros((4, 2)))) == 1


@pytest.mark.parametrize("at", [7, 11, 12, 13])
def test_a_stage_begins_where_the_change_is_up_to_the_last_checkpoint(at):
    noise = np.random.default_rng(0).normal(0, 0.01, (14, 4))
    assert find_stages((np.arange(14) >= at)[:, None] + noise).starts == (0, at)


def test_settling_does_not_look_ahead():
    series = draw_series(11)
    curves = curves_of(series)
    signals = {
        "concentration_2": curves.c2,
        "log_norm": curves.log_norm.mean(1),
        "sink": curves.sink.mean(1),
    }
    emerged = [bool(x) for x in curves.sink.mean(1) > curves.null]
    whole = settling(curves.steps, signals, curves.directions, emerged)
    assert any(whole.calm)
    for stop in range(1, len(curves.steps)):
        part = settling(
            curves.steps[:stop],
            {k: v[:stop] for k, v in signals.items()},
            curves.directions[:stop],
            emerged[:stop],
        )
        assert part.calm == whole.calm[:stop]


def test_settling_is_taken_back():
    steps = list(range(10, 400, 10))
    size = len(steps)
    signals = {name: np.ones(size) for name in ("concentration_2", "log_norm", "sink")}
    u = np.tile([1.0, 0.0], (size, 1))
    calm = settling(steps, signals, u, [True] * size)
    first = next(i for i in range(size) if settle.stretch(steps, i) is not None)
    assert calm.announced == first + settle.HOLD - 1
    assert calm.standing == calm.announced
    broken = {name: values.copy() for name, values in signals.items()}
    broken["concentration_2"][-3:] = 0.2
    late = settling(steps, broken, u, [True] * size)
    assert late.announced == calm.announced
    assert late.standing is None
    assert late.since is None
    assert settling(steps, signals, u, [False] * size).announced is None


@pytest.mark.parametrize("name", ["concentration_2", "log_norm", "sink", "turn"])
def test_each_signal_can_forbid_settling(name):
    steps = list(range(10, 400, 10))
    signals = {key: np.ones(len(steps)) for key in ("concentration_2", "log_norm", "sink")}
    u = np.tile([1.0, 0.0], (len(steps), 1))
    if name == "turn":
        angle = 2.0 * np.log(steps)
        u = np.stack([np.cos(angle), np.sin(angle)], 1)
    else:
        signals[name] = np.sqrt(np.array(steps, float))
    assert settling(steps, signals, u, [True] * len(steps)).announced is None


def test_planted_answers_are_found():
    found = table([check(seed) for seed in range(60)])
    assert found["emergence_interval_holds_truth"]["value"] >= 0.88  # 60 draws: wide by chance
    assert found["emergence_missed"] == 0.0
    assert found["emergence_where_there_is_none"]["value"] == 0.0
    assert found["stages_right"]["value"] >= 0.85
    assert found["false_settling"]["value"] <= 0.05
    assert found["settling_seen_where_it_could_be"]["value"] >= 0.9


def calm_series(size=40):
    steps = list(range(10, 10 * (size + 1), 10))
    signals = {name: np.ones(size) for name in ("concentration_2", "log_norm", "sink")}
    return steps, signals, np.tile([1.0, 0.0], (size, 1))


def test_a_sink_that_is_gone_has_not_settled():
    steps, signals, u = calm_series()
    stands = [i < 15 for i in range(len(steps))]
    assert settling(steps, signals, u, stands).standing is None


def test_reading_heads_that_rotate_have_not_settled():
    steps, signals, u = calm_series()
    moved = 0.1 + 0.2 * np.log(np.array(steps) / 10)
    signals["heads"] = np.stack([moved, 1 - moved], 1)
    assert settling(steps, signals, u, [True] * len(steps)).announced is None
    signals["heads"] = np.ones((len(steps), 2))
    assert settling(steps, signals, u, [True] * len(steps)).announced is not None


@pytest.mark.parametrize("share", [0.04, 0.1, 0.2])
def test_slow_drift_is_not_settled_once_it_has_moved_by_the_bound_in_all(share):
    """The sink falls by this part for each tripling of steps: little within any one stretch."""
    steps = [round(10 * 1.15**i) for i in range(90)]
    signals = {name: np.ones(len(steps)) for name in ("concentration_2", "log_norm")}
    signals["sink"] = np.exp(-share * np.log(np.array(steps) / 10) / np.log(3))
    u = np.tile([1.0, 0.0], (len(steps), 1))
    found = settling(steps, signals, u, [True] * len(steps))
    assert (found.announced is None) == (share > 0.08)
    longest = max(map(len, "".join("x" if calm else "." for calm in found.calm).split(".")))
    stretches = longest * np.log(1.15) / np.log(3) + 1
    assert 1 - np.exp(-share * stretches) <= 1.5 * settle.BOUNDS["sink"]


def test_spans_and_birth():
    above = np.array([0, 1, 1, 0, 1, 0, 1, 1, 1, 0, 0], dtype=bool)
    assert spans(above) == ((1, 2), (6, 8))
    assert spans(np.array([0, 0, 1], dtype=bool)) == ((2, 2),)
    z = np.where(above, 9.0, -9.0)
    assert crossing_at(range(1, 12), z).step == 7
    late = np.array([-9.0, -9, -9, 9, 9])
    assert crossing_at([1, 2, 3, 4, 5], late) is None
    assert crossing_at([1, 2, 3, 4, 5], late, lasts=True).step == 4
