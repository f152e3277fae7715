"""Whether the intervals of a draw hold the same figures on many other windows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from sinkscope import Subject
from sinkscope.causal.evidence import NECESSITY, SUFFICIENCY
from sinkscope.causal.testing import CausalBench
from sinkscope.detect.attention import AttentionStats
from sinkscope.intervene.engine import Engine
from sinkscope.known.constructed import Truth
from sinkscope.observe.attention import observe
from sinkscope.result import Measured
from sinkscope.stats import bootstrap, ratio_of_means
from sinkscope.subject.prompts import Prompts
from sinkscope.subject.tokens import vocabulary

SAMPLES = 40  # prompt sets that are drawn from the other windows


def intervals(
    subject: Subject, found, done, truth: Truth, others: Prompts, seed: int
) -> list[dict[str, Any]]:
    """Interval and truth on other windows of sink rate, necessity and sufficiency.

    None where the sink is in part of the prompts: edits are of these, and hold their tokens.
    """
    if truth.mechanism == "p0-part":
        return []
    circuit = done.circuit
    rows = []
    if circuit.reading_heads:
        rows.append(_sink_rate(subject, circuit, found.observed.attention.alpha0, others, seed))
    if not done.tests:
        return rows
    at = truth.amplifying_blocks[:1]
    heads = circuit.reading_heads
    engine = Engine(
        subject,
        others,
        circuit.sites,
        direction=circuit.direction,
        heads=heads,
        positions=(0, done.engine.positions[1]),
    )
    lab = CausalBench(engine, circuit, heads, done.engine.positions[1], 0, seed)
    necessary = [t for t in done.tests if t.kind == NECESSITY and t.id == "N3" and t.block in at]
    if necessary:
        one = necessary[0]  # not the strongest: a choice by the data would bias its interval
        key, whole = lab.screen.changes([one.edits])[0], lab.intact_sink
        change = lab.run(one.edits).on(heads) - whole if key is None else key

        def necessity(rows: np.ndarray) -> Measured:
            return ratio_of_means(change[rows], whole[rows], seed)

        ours = one.key_change or one.sink_change
        rows.append(_row("necessity", ours, necessity, len(others), len(done.prompts)))
    sufficient = [t for t in done.tests if t.kind == SUFFICIENCY and t.id == "S1" and t.claim]
    if sufficient:
        one = sufficient[-1]
        gained = lab.margin_effect(lab.run(one.edits), lab.position)

        def sufficiency(rows: np.ndarray) -> Measured:
            return bootstrap(gained[rows], seed)

        rows.append(
            _row("sufficiency", one.margin_change, sufficiency, len(others), len(done.prompts))
        )
    return rows


def _sink_rate(subject: Subject, circuit, alpha: np.ndarray, others: Prompts, seed: int):
    """Sink rate of the reading heads, each at the eps that parts the other windows in two.

    At the usual eps every reading head of these models sinks on every window, and an interval
    without any width says nothing.
    """
    blocks, heads = np.array(circuit.reading_heads).T
    stats = AttentionStats(vocabulary(subject))
    for batch in others.batches():
        reads, layout, _ = observe(subject, batch)
        stats.add(reads, layout, batch.input_ids)
    elsewhere = stats.alpha0[:, blocks, heads]
    eps = np.median(elsewhere, 0)
    ours = bootstrap((alpha[:, blocks, heads] > eps).mean(1), seed)
    above = (elsewhere > eps).mean(1)
    return _row(
        "sink rate", ours, lambda rows: bootstrap(above[rows], seed), len(above), len(alpha)
    )


def _row(
    what: str, ours: Measured, on: Callable[[np.ndarray], Measured], population: int, n: int
) -> dict[str, Any]:
    """An interval, the truth, and how often intervals of n other prompts hold it.

    on  measures the same on these rows of the population
    """
    truth = on(np.arange(population)).value
    draws = np.random.default_rng(0).integers(population, size=(SAMPLES, n))
    held = [_holds(on(rows), truth) for rows in draws]
    width = 0.0 if ours.low is None or ours.high is None else ours.high - ours.low
    return {
        "what": what,
        "interval": [ours.low, ours.value, ours.high],
        "truth": truth,
        "spread": width > 1e-6,
        "held": _holds(ours, truth),
        "resampled": sum(held) / len(held),
    }


def _holds(interval: Measured, truth: float | None) -> bool:
    if interval.low is None or interval.high is None or truth is None:
        return False
    return interval.low - 1e-6 <= truth <= interval.high + 1e-6
