"""`verify`: run the causal tests of a circuit, each beside its control, and reach a verdict."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from sinkscope.causal.families import identity, mediation, necessity, sufficiency
from sinkscope.causal.families.faithfulness import Kept, keep_circuit
from sinkscope.causal.summary import verify_dataset, verify_summary
from sinkscope.causal.testing import CausalBench, Test, judge
from sinkscope.causal.verdict import Verdict, elsewhere, with_p0_sink, without_p0_sink
from sinkscope.circuit.find import find_circuit
from sinkscope.circuit.model import Circuit
from sinkscope.detect.decision import has_p0_sink
from sinkscope.errors import InputError
from sinkscope.frame import Progress, chosen_prompts, result_of, silent
from sinkscope.intervene.engine import Engine
from sinkscope.result import Result
from sinkscope.schema.verify import VerdictDetail
from sinkscope.settings import VerifySettings
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts

SHORTEST = 24  # tokens; below that there is no room for an ordinary position and late queries


@dataclass
class Verified:
    """Everything that was measured under one BOS policy.

    whole    the prompts that the circuit was found on
    prompts  those of them that the tests were run on
    """

    whole: Prompts
    prompts: Prompts
    circuit: Circuit
    engine: Engine
    tests: list[Test]
    kept: Kept | None
    verdict: Verdict
    notes: list[str]


def verify(
    subject: Subject,
    settings: VerifySettings | None = None,
    *,
    prompts: Prompts | None = None,
    circuit: Circuit | None = None,
    progress: Progress = silent,
    **changes: Any,
) -> Result:
    """Test whether the traced circuit is what makes position zero a sink.

    settings, changes  a VerifySettings, or its fields as keywords: verify(subject, rows=8)
    prompts            ready-made Prompts instead of what the settings describe
    circuit            what `circuit.find.find_circuit` gave for the same prompts; found if missing
    progress           called as progress(label, done, total)

    Returns a Result with `summary.verify[bos]`. Raises InputError (short or padded prompts), and
    Unsupported for a model whose residual identity does not hold.
    """
    settings = dataclasses.replace(settings or VerifySettings(), **changes)
    chosen = chosen_prompts(subject, settings, prompts)
    done = [
        verify_one(subject, each, _circuit_of(circuit, each), settings, progress) for each in chosen
    ]
    return result_of("verify", subject, settings, chosen, done, verify_summary, verify_dataset)


def _circuit_of(circuit: Circuit | None, prompts: Prompts) -> Circuit | None:
    return circuit if circuit is not None and circuit.bos == prompts.bos else None


def verify_one(
    subject: Subject,
    prompts: Prompts,
    circuit: Circuit | None = None,
    settings: VerifySettings | None = None,
    progress: Progress = silent,
) -> Verified:
    """The tests and the verdict for one set of prompts."""
    settings = settings or VerifySettings()
    label = f"verify ({prompts.bos} BOS)"
    rows = _rows(prompts, settings)
    circuit = circuit or find_circuit(subject, prompts, seed=settings.seed)
    heads = [(int(b), int(h)) for b, h in circuit.reading_heads]
    engine = Engine(
        subject,
        rows,
        circuit.sites,
        direction=circuit.direction,
        heads=heads,
        positions=(0, settings.position),
        of_tokens=prompts.input_ids.numel(),
    )
    if not _sinks(circuit):
        verdict = without_p0_sink(elsewhere(engine.intact, engine.token_mass()))
        return Verified(prompts, rows, circuit, engine, [], None, verdict, [])
    lab = CausalBench(engine, circuit, heads, settings.position, settings.draws, settings.seed)
    tests, kept = run_tests(lab, lambda done, total: progress(label, done, total))
    verdict = with_p0_sink(tests, kept, prompts.bos, _detail(circuit), len(rows))
    return Verified(prompts, rows, circuit, engine, tests, kept, verdict, lab.notes)


def run_tests(
    lab: CausalBench, progress: Callable[[int, int], None] = lambda done, total: None
) -> tuple[list[Test], Kept | None]:
    """All tests of a lab, judged."""
    tests: list[Test] = []
    kept: list[Kept | None] = []

    def strongest_attention() -> int | None:
        rows = [t for t in tests if t.id == "N1"]
        return min(rows, key=lambda t: t.size).block if rows else None

    def sets() -> list[Test]:
        judge(tests)
        alone = any(t.id in ("N1", "N3") and t.passed for t in tests)
        return [] if alone else necessity.write_sets(lab)

    def keep() -> list[Test]:
        kept.append(keep_circuit(lab))
        return []

    def given(make: Callable[[], list[Test]]) -> Callable[[], list[Test]]:
        return make if lab.ordinary().any() else lambda: []

    lab.notes += _left_out(lab)
    steps: list[Callable[[], list[Test]]] = [
        lambda: identity.tokens(lab),
        lambda: identity.positions(lab),
        lambda: identity.query_bias(lab),
        lambda: necessity.recognition(lab),
        lambda: necessity.variance(lab, [t for t in tests if t.id == "N1"]),
        lambda: necessity.mlp_writes(lab),
        sets,
        lambda: necessity.neurons(lab),
        lambda: necessity.direction(lab),
        given(lambda: sufficiency.self_only(lab)),
        given(lambda: sufficiency.variance(lab, strongest_attention())),
        given(lambda: sufficiency.transplant(lab)),
        keep,
        lambda: mediation.mediation(lab, tests),
    ]
    for number, step in enumerate(steps):
        progress(number, len(steps))
        tests += step()
    judge(tests)
    progress(len(steps), len(steps))
    return tests, kept[0]


def _left_out(lab: CausalBench) -> list[str]:
    total, ordinary = len(lab.engine.prompts), int(lab.ordinary().sum())
    if ordinary == total:
        return []
    kept = "left out" if ordinary else "so they were not tried; ask for another position"
    return [
        f"S1 to S3: in {total - ordinary} of {total} prompts position {lab.position} is a sink "
        f"before anything is edited: {kept}."
    ]


def _rows(prompts: Prompts, settings: VerifySettings) -> Prompts:
    shortest = int(prompts.lengths[: settings.rows].min())
    if shortest < SHORTEST or settings.position >= shortest // 2 or settings.position < 1:
        raise InputError(
            f"prompts of {shortest} tokens are too short to verify on: at least {SHORTEST} are "
            f"needed, and position {settings.position} must lie in their first half behind P0."
        )
    return prompts.take(slice(0, settings.rows))


def _sinks(circuit: Circuit) -> bool:
    heads = np.zeros(circuit.late.shape, dtype=bool)
    for block, head in circuit.reading_heads:
        heads[block, head] = True
    return has_p0_sink(heads, np.isfinite(circuit.late))


def _detail(circuit: Circuit) -> VerdictDetail:
    block = circuit.emergence_block
    return {
        "blocks": None if block is None else "two-block" if block <= 1 else "deeper",
        "emergence_block": block,
        "amplification": circuit.amplification,
    }
