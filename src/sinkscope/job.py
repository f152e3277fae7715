"""The main job: scan, trace and verify on the same prompts, in one result."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from sinkscope.advice.advise import advise_on
from sinkscope.causal.verify import verify
from sinkscope.circuit.observed import observed_on
from sinkscope.circuit.trace import trace_one, traced_result
from sinkscope.detect.scan import scan
from sinkscope.errors import InputError, Unsupported
from sinkscope.frame import Progress, silent
from sinkscope.observe.timing import seconds_a_prompt
from sinkscope.pace import ADVICE, Budget
from sinkscope.progress import shown
from sinkscope.result import Result
from sinkscope.settings import (
    AdviseSettings,
    PromptSettings,
    RunSettings,
    ScanSettings,
    TraceSettings,
    VerifySettings,
    part_of,
)
from sinkscope.subject.load import Subject
from sinkscope.subject.opening import resolve_bos
from sinkscope.subject.prompts import Prompts, prompts_of
from sinkscope.subject.spread import clock_of


@shown
def run(
    subject: Subject,
    settings: RunSettings | None = None,
    *,
    progress: Progress = silent,
    **changes: Any,
) -> Result:
    """Scan a model, trace the circuit of its sink and test it; with `advise` say what follows.

    settings, changes  a RunSettings, or its fields as keywords: run(subject, n=16, bos="both");
                       help(sinkscope.RunSettings) has them all
    progress           called as progress(label, done, total); by default a bar

    A model whose circuit cannot be traced or tested is still scanned; its notes say why the rest is
    missing. A budget takes fewer prompts where it must, and the notes say so. Raises InputError and
    Unsupported as `scan` does.
    """
    settings = dataclasses.replace(settings or RunSettings(), **changes)
    budget = Budget(settings.budget, clock_of(subject.model))
    sets = prompts_of(subject, settings)
    parts = [
        _one(subject, rows, settings, budget.shared(len(sets) - done), progress)
        for done, rows in enumerate(sets)
    ]
    whole = functools.reduce(lambda one, other: one.merge(other), parts)
    if not settings.advise:
        return whole
    own = next((i for i, rows in enumerate(sets) if rows.bos == resolve_bos(subject, "as-is")), 0)
    return _advised(subject, sets[own], settings, parts[own], whole, budget, progress)


def _advised(
    subject: Subject,
    rows: Prompts,
    settings: RunSettings,
    part: Result,
    whole: Result,
    budget: Budget,
    progress: Progress,
) -> Result:
    """The whole with the advice, where the budget has time for it; `part` scanned these rows."""
    rows = rows.take(slice(0, part.summary.prompts.n))
    asked = dataclasses.asdict(part_of(settings, PromptSettings))
    advising = AdviseSettings(**{**asked, "n": min(AdviseSettings.n, len(rows))})
    passes = sum(work for work, _ in ADVICE.values()) * advising.n
    if budget.minutes is not None and budget.left < passes * seconds_a_prompt(subject, rows):
        note = f"No advice was given: {budget} has no time left for it."
        whole.summary.scan[rows.bos].notes.append(note)
        return whole
    return whole.merge(advise_on(subject, rows, advising, part, progress=progress))


def _one(
    subject: Subject, rows: Prompts, settings: RunSettings, budget: Budget, progress: Progress
) -> Result:
    """Everything on the prompts of one BOS policy, as far as model, prompts and budget allow."""
    rows, note = _affordable(subject, rows, settings, budget)
    try:  # the pass of the trace comes first: the scan needs its mean of the other positions
        observed = observed_on(subject, rows, settings.reader, settings.seed, progress=progress)
    except Unsupported:  # said below, where the trace meets it again
        observed = None
    result = scan(
        subject,
        part_of(settings, ScanSettings),
        prompts=rows,
        other_mean=None if observed is None else observed.input_mean,
        progress=progress,
    )
    result.summary.scan[rows.bos].notes += note
    tracing = part_of(settings, TraceSettings)
    try:
        traced = trace_one(subject, rows, tracing, result, progress, observed)
    except Unsupported as error:
        result.summary.scan[rows.bos].notes.append(
            f"The circuit was neither traced nor tested: {error}"
        )
        return result
    result = result.merge(traced_result(subject, tracing, [traced]))
    left = None if budget.minutes is None else budget.left / 60
    testing = dataclasses.replace(part_of(settings, VerifySettings), budget=left)
    circuit = traced.found.circuit
    try:
        verified = verify(subject, testing, prompts=rows, circuit=circuit, progress=progress)
    except (Unsupported, InputError) as error:
        result.summary.trace[rows.bos].notes.append(f"The circuit was not tested: {error}")
        return result
    return result.merge(verified)


def _affordable(
    subject: Subject, rows: Prompts, settings: RunSettings, budget: Budget
) -> tuple[Prompts, list[str]]:
    """As many of the prompts as the budget has time for, and a note where that is not all."""
    if budget.minutes is None:
        return rows, []
    count = budget.room("run", len(rows), settings.rows, seconds_a_prompt(subject, rows))
    if count == len(rows):
        return rows, []
    note = f"Of {len(rows)} prompts {count} were taken: {budget} has no time for more."
    return rows.take(slice(0, count)), [note]
