"""`verify`: run the causal tests of a circuit, each beside its control, and reach a verdict.

1. Without a sink at P0: look for one elsewhere, and stop (`detect.decision`).
2. Identity (I1 to I3): other tokens at P0, other position ids, both. Does the sink need either?
3. Necessity (N1 to N5): P0's attention or MLP writes mean- or resample-ablated, its writing neurons
   off, its component along the sink direction removed. If no single write is needed, sets of them.
   All of it is screened through P0's key, and what decides is confirmed in full (`screen`).
4. Sufficiency (S1 to S3): another position p attends only to itself (attention knockout), or is
   given P0's keys, values or stream (activation patching). Does it become a sink?
5. Faithfulness and completeness (S4): at P0 keep only the circuit's units and mean-ablate the rest,
   and the other way round, against random sets of as many units (Wang et al., arXiv 2211.00593).
6. Mediation (M1): edit a stage while the next is held at its intact value (path patching). Where P0
   rises more than once: does a phase need the one before it (`phase_needs`). Where another cause
   would keep the sink alive, it is taken away first (N6).
7. Every row is paired over prompts with its control and adjusted by Holm; the verdict follows from
   the rows by fixed rules (`evidence`, `carriers`, `p0_verdict`, `thresholds`).
8. Where a deciding row is undetermined, and with it the verdict, all is done again on twice as many
   prompts, as long as there are more (`power`).

The circuit under test is that of Peng et al., arXiv 2603.06591; its purpose, as Barbero et al. see
it (arXiv 2504.02732), is measured by `mix`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from typing import Any

import torch

from sinkscope.causal.elsewhere import follow_their_ids
from sinkscope.causal.evidence import Test, judge
from sinkscope.causal.families import (
    identity,
    mediation,
    necessity,
    position_ids,
    redundancy,
    sufficiency,
)
from sinkscope.causal.families.faithfulness import Kept, keep_circuit
from sinkscope.causal.families.write_sets import write_sets
from sinkscope.causal.ordinary import ordinary_position, rows_to_test
from sinkscope.causal.p0_verdict import detail_of, hidden_circuit, in_whole, with_p0_sink
from sinkscope.causal.phase_needs import need_rows
from sinkscope.causal.power import LEAST, MOST_ROWS, UNDETERMINED
from sinkscope.causal.record import Verified
from sinkscope.causal.summary import verify_dataset, verify_summary
from sinkscope.causal.testing import CausalBench
from sinkscope.causal.verdict import Verdict, without_p0_sink
from sinkscope.causal.words import other_paths
from sinkscope.circuit.find import find_circuit
from sinkscope.circuit.model import Circuit
from sinkscope.circuit.reading import held_part, in_part
from sinkscope.detect.attention import read_attention
from sinkscope.detect.decision import sinks_of
from sinkscope.frame import Progress, chosen_prompts, result_of, silent
from sinkscope.intervene.edits.hold import Intact, Record
from sinkscope.intervene.engine import Engine
from sinkscope.observe.attention import uses_registry
from sinkscope.observe.timing import seconds_a_prompt
from sinkscope.pace import Budget
from sinkscope.progress import shown
from sinkscope.result import Result
from sinkscope.settings import VerifySettings
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts
from sinkscope.subject.spread import clock_of

# percent of the time that each group of tests takes, in the order of `run_tests`
STEPS = (14, 13, 1, 6, 3, 5, 1, 3, 4, 5, 5, 9, 16, 15)
FEW = 4  # prompts of rows that decide nothing
SCORED = 64  # predictions of each prompt whose loss and KL an edit is charged with


@shown
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
    progress           called as progress(label, done, total); by default a bar

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
    """The tests and the verdict for one set of prompts, on more of them where that is needed."""
    settings = settings or VerifySettings()
    budget = Budget(settings.budget, clock_of(subject.model))
    circuit = circuit or find_circuit(subject, prompts, seed=settings.seed)
    passes = 0.0
    settings, notes = _affordable(subject, prompts, settings, budget)
    held = held_part(circuit.sinking_prompts) if circuit.sinks else None
    of = len(prompts)
    if held is not None:
        notes.append(in_part(len(held), of))
        prompts = prompts.take(torch.from_numpy(held))
    if circuit.sinks and settings.rows < LEAST <= len(prompts):
        notes.append(
            f"{MOST_ROWS} rows that decide together need at least {LEAST} prompts: {LEAST} were "
            f"taken instead of {settings.rows}."
        )
        settings = dataclasses.replace(settings, rows=LEAST)
    settings, moved = ordinary_position(prompts, circuit, settings)
    notes += moved

    def whole(done: Verified, passes: float) -> Verified:
        verdict = done.verdict
        if held is not None:
            verdict = in_whole(verdict, len(held), of)
        return dataclasses.replace(done, verdict=verdict, passes=passes, notes=notes + done.notes)

    while True:
        began = budget.clock()
        rows = rows_to_test(prompts, settings)
        done = _tried(subject, prompts, rows, circuit, settings, budget, progress)
        passes += done.passes
        if len(rows) == len(prompts) or not _wants_more(done):
            return whole(done, passes)
        settings = dataclasses.replace(settings, rows=2 * len(rows))
        more = min(settings.rows, len(prompts))
        if budget.left < 2 * (budget.clock() - began):
            notes.append(f"{more} prompts could settle the verdict; {budget} has no time for them.")
            return whole(done, passes)
        notes.append(f"{len(rows)} prompts left the verdict undetermined: it is of {more} prompts.")


def _tried(
    subject: Subject,
    prompts: Prompts,
    rows: Prompts,
    circuit: Circuit,
    settings: VerifySettings,
    budget: Budget,
    progress: Progress,
) -> Verified:
    """The tests and the verdict on these rows of the prompts."""
    label = f"verify ({prompts.bos} BOS)"
    progress(label, 0, sum(STEPS))
    heads = circuit.reading_heads
    intact = Intact()
    listeners = [Record((0, settings.position), intact)] if uses_registry(subject.model) else []
    engine = Engine(
        subject,
        rows,
        circuit.sites,
        direction=circuit.direction,
        heads=heads,
        positions=(0, settings.position),
        of_tokens=prompts.input_ids.numel(),
        few=FEW,
        scored=SCORED,
        listeners=listeners,
    )
    lab = CausalBench(
        engine, circuit, heads, settings.position, settings.draws, settings.seed, intact, budget
    )
    verified = partial(Verified, whole=prompts, prompts=rows, circuit=circuit, engine=engine)
    if not circuit.sinks:
        verdict = _elsewhere(subject, prompts, rows, settings.seed)
        return verified(verdict=verdict, passes=engine.passes + 1.0, notes=lab.notes)
    tests, kept = run_tests(lab, lambda done, total: progress(label, done, total))
    needs, detail = need_rows(lab), detail_of(circuit)
    verdict = with_p0_sink(tests, lab.sink_heads, prompts.bos, detail, settings.seed)
    screened = lab.screen.passes * rows.input_ids.numel() / prompts.input_ids.numel()
    passes = engine.passes + screened
    return verified(
        tests=tests, kept=kept, verdict=verdict, passes=passes, notes=lab.notes, needs=needs
    )


def _elsewhere(subject: Subject, prompts: Prompts, rows: Prompts, seed: int) -> Verdict:
    """The verdict without a sink at P0, by where else attention goes: one pass."""
    stats = read_attention(subject, prompts, tokens=True)
    sinks = sinks_of(stats)
    by_ids = sinks.kind == "positions" and follow_their_ids(
        subject, rows, sinks, stats.blocks, seed
    )
    return without_p0_sink(sinks, len(prompts), by_ids)


def _wants_more(done: Verified) -> bool:
    """Whether more prompts could settle the verdict."""
    open_rows = [test for test in done.tests if test.claim and test.outcome == UNDETERMINED]
    return done.verdict.verdict == UNDETERMINED and bool(open_rows)


def run_tests(
    lab: CausalBench, progress: Callable[[int, int], None] = lambda done, total: None
) -> tuple[list[Test], Kept | None]:
    """All tests of a bench in the order of the module's list, judged; and S4."""
    steps = accumulate(STEPS)

    def ran(tests: list[Test]) -> list[Test]:
        progress(next(steps), sum(STEPS))
        return tests

    lab.notes += _left_out(lab)
    tests = ran(identity.tokens(lab)) + ran(position_ids.positions(lab) + position_ids.both(lab))
    tests += ran(position_ids.query_bias(lab))
    first = ran(necessity.recognition(lab))
    tests += first + ran(necessity.variance(lab, first))
    tests += ran(necessity.mlp_writes(lab))
    alone = any(test.id in ("N1", "N3") and test.passed for test in judge(tests))
    tests += ran([] if alone else write_sets(lab))
    tests += ran(necessity.neurons(lab))
    if _in_time(lab, "N5"):
        tests += ran(necessity.direction(lab))
    if lab.ordinary().any():
        tests += ran(sufficiency.self_only(lab)) + sufficiency.with_its_token(lab, tests)
        tests += ran(sufficiency.variance(lab, necessity.strongest_block(first)))
        if _in_time(lab, "S3"):
            tests += ran(sufficiency.transplant(lab))
    causes = hidden_circuit(judge(tests), lab.sink_heads, lab.circuit.bos, lab.seed)
    if causes is not None:
        tests += redundancy.without_other_causes(lab, causes)
    kept = keep_circuit(lab)
    ran([])
    if _in_time(lab, "M1"):
        tests += ran(mediation.mediation(lab, tests))
    progress(sum(STEPS), sum(STEPS))
    judged = judge(tests)
    lab.notes += other_paths(judged)
    return judged, kept


def _in_time(lab: CausalBench, id: str) -> bool:
    """Whether there is time left for tests that the verdict does not rest on."""
    if lab.budget.left > 0:
        return True
    lab.notes.append(f"{id} was left out: {lab.budget} was used up.")
    return False


def _affordable(
    subject: Subject, prompts: Prompts, settings: VerifySettings, budget: Budget
) -> tuple[VerifySettings, list[str]]:
    """As many rows as the budget has time for, and a note where that is not all."""
    wanted = min(settings.rows, len(prompts))
    if budget.minutes is None:
        return settings, []
    count = budget.room("verify", wanted, wanted, seconds_a_prompt(subject, prompts))
    if count >= wanted:
        return settings, []
    note = f"The tests are of {count} prompts, not {wanted}: {budget} has no time for more."
    return dataclasses.replace(settings, rows=count), [note]


def _left_out(lab: CausalBench) -> list[str]:
    total, ordinary = len(lab.engine.prompts), int(lab.ordinary().sum())
    if ordinary == total:
        return []
    kept = "left out" if ordinary else "so they were not tried; ask for another position"
    return [
        f"S1 to S3: in {total - ordinary} of {total} prompts position {lab.position} is a sink "
        f"before anything is edited: {kept}."
    ]
