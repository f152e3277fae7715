"""What is said of training runs: the summary, each run's notes, the judgement of the signals."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from sinkscope.circuit.concentration import FIRST
from sinkscope.errors import NOT_ASKED, Missing
from sinkscope.frame import few_documents
from sinkscope.schema.base import Measured
from sinkscope.schema.timeline import (
    EmergencePoint,
    Judgement,
    RunSummary,
    TimelineSummary,
    TrainingStage,
)
from sinkscope.stats import SUSTAINED, Draw
from sinkscope.training_runs.emergence import (
    STRAIGHT,
    Emergence,
    emergence,
    error_over_prompts,
    noise,
)
from sinkscope.training_runs.judging import baselines, judge, remaining_loss
from sinkscope.training_runs.record import RunRecord
from sinkscope.training_runs.settling import BOUNDS, HOLD, LEAST, QUIET

FEW = 3  # checkpoints that are named where something is said of them


def timeline_summary(records: list[RunRecord]) -> TimelineSummary:
    """The first run's summary with those of all runs, and the judgement over them."""
    runs = {one.run.name: run_summary(one) for one in records}
    first = dict(runs[records[0].run.name])
    return TimelineSummary(**first, runs=runs, judgement=_judgement(records))


def run_summary(one: RunRecord) -> RunSummary:
    """Reduce one run to its summary."""
    arrays, steps = one.arrays, [c.step for c in one.checkpoints]
    found, view = one.course, one.pilot.view
    settled = found.settled
    return RunSummary(
        steps=steps,
        unit=one.run.unit,
        emergence_step=_born(found.emergence),
        present_from_start=found.emergence is not None and found.emergence.before is None,
        sink_spans=[[steps[a], steps[b]] for a, b in found.spans],
        vanished_step=_vanished(one, steps),
        emergence=_emergences(one, steps),
        stages=_stages(found.stages.starts, steps),
        stages_bic=[_finite(value) for value in found.stages.bic],
        settled_step=None if settled.standing is None else steps[settled.standing],
        settled={
            "announced": None if settled.announced is None else steps[settled.announced],
            "since": None if settled.since is None else steps[settled.since],
            "bounds": BOUNDS,
            "rule": f"all changes within bounds from step s/{QUIET:g} to s, over at least {LEAST} "
            f"checkpoints, at {HOLD} checkpoints in a row",
        },
        concentration={str(k): _concentration(arrays, i) for i, k in enumerate(FIRST)},
        first_blocks_late_share=Draw(view.prompts.units).mean(arrays["sink_by_prompt"][-1]),
        norm_ratio=_finite(np.exp(arrays["log_norm_by_prompt"][-1].mean())),
        emergence_block=int(arrays["emergence_block"][-1]),
        loss=_finite(arrays["loss"][-1]) if "loss" in arrays else None,
        looked_at={
            "first_blocks": view.horizon,
            "blocks": one.pilot.blocks,
            "read_point": view.point,
            "whole_models": one.pilot.whole,
        },
        null=one.pilot.null_or_reason,
        broken=one.broken,
        notes=_notes(one),
    )


def _concentration(arrays: dict[str, np.ndarray], i: int) -> Measured:
    """C_k of the last checkpoint, k = FIRST[i]."""
    names = ("concentration", "concentration_low", "concentration_high")
    value, low, high = (_finite(arrays[name][-1, i]) for name in names)
    return Measured(value=value, low=low, high=high)


def _born(found: Emergence | None) -> int | None:
    """A birth needs a checkpoint before it; what the first one shows may be older."""
    return None if found is None or found.before is None else found.step


def _vanished(one: RunRecord, steps: list[int]) -> int | None:
    """First checkpoint without the sink that once emerged, where it is gone at the end."""
    found = one.course
    if found.emergence is None or not found.spans or found.spans[-1][1] == len(steps) - 1:
        return None
    return steps[found.spans[-1][1] + 1]


def _emergences(one: RunRecord, steps: list[int]) -> dict[str, EmergencePoint | None]:
    """Emergence of the sink, of the norm and of the direction, each over its own null."""
    arrays, null = one.arrays, one.pilot.null
    found = {"sink": one.course.emergence}
    if isinstance(null, dict):
        norm = arrays["log_norm_by_prompt"]
        curve = norm.mean(1)
        wide = noise(curve, error_over_prompts(norm), STRAIGHT)
        found["norm"] = emergence(steps, curve, null["log_norm"], wide)
        distance = arrays["distance"]
        found["direction"] = emergence(
            steps, distance, null["distance"], noise(distance, 0.0, STRAIGHT)
        )
    return {name: None if each is None else _point(each) for name, each in found.items()}


def _point(found: Emergence) -> EmergencePoint:
    return {"step": found.step, "low": found.low, "high": found.high, "before": found.before}


def _stages(starts: Sequence[int], steps: list[int]) -> list[TrainingStage]:
    """First and last checkpoint of each stage, and the gap of the grid in which it began."""
    return [
        {
            "start": steps[a],
            "stop": steps[b - 1],
            "low": steps[a - 1] if a else None,
            "high": steps[a],
        }
        for a, b in itertools.pairwise([*starts, len(steps)])
    ]


def _judgement(records: list[RunRecord]) -> Judgement:
    """How well each signal tells the remaining loss of a run that was left out."""
    runs = {}
    for one in records:
        arrays = one.arrays
        losses = [arrays[n] for n in ("loss", "validation_loss", "training_loss") if n in arrays]
        loss = next((one for one in losses if np.isfinite(one).all()), None)
        if loss is None:
            continue
        runs[one.run.name] = {
            "remaining": remaining_loss(loss),
            "sink": arrays["sink_by_prompt"].mean(1),
            "log_norm": arrays["log_norm_by_prompt"].mean(1),
            "concentration_2": arrays["concentration"][:, 1],
            "turn": arrays["turn"],
            "distance": arrays["distance"],
            **baselines([c.step for c in one.checkpoints], loss, arrays.get("gradient_norm")),
        }
    judged = judge(runs)
    if not judged:
        return {"signals": [], "reason": "three runs or more with a loss are needed to judge"}
    return {"signals": [_plain(dataclasses.asdict(row)) for row in judged], "reason": ""}


def _notes(one: RunRecord) -> list[str]:
    remarks, shared = _remarks(one)
    view = one.pilot.view
    notes = [*one.run.notes, *shared, *view.prompts.notes]
    if one.pilot.note:
        notes.append(one.pilot.note[0].upper() + one.pilot.note[1:] + ".")
    if view.horizon < one.pilot.blocks:
        notes.append(
            f"Only the first {view.horizon} of {one.pilot.blocks} blocks were looked at: late "
            "shares are means over their heads, C_k is a share of what they write, and heads "
            "behind them may have come, gone or moved."
        )
    if one.pilot.null == NOT_ASKED:
        notes.append("The same architecture untrained was not asked for, so norms have no null.")
    elif isinstance(one.pilot.null, Missing):
        notes.append(one.pilot.null.sentence)
    notes += [f"{name} was skipped: {reason}" for name, reason in one.broken.items()]
    notes += remarks
    if one.checkpoints[0].step * QUIET > one.checkpoints[-1].step:
        notes.append(
            "The checkpoints cover too short a stretch of training to say whether it settled."
        )
    found, steps = one.course, [c.step for c in one.checkpoints]
    gone = _vanished(one, steps)
    notes += few_documents(one.arrays["sink_by_prompt"][-1], view.prompts.units)
    sinking = int(one.arrays["sinking"].any((1, 2)).sum())
    if found.emergence is None and sinking:
        notes.append(
            f"Heads sink at {sinking} of {len(steps)} checkpoints, and never at {SUSTAINED} in a "
            "row or at the last two: none is said to have emerged, and nothing can have settled."
        )
    elif found.emergence is None:
        notes.append("No sink emerged, so there is nothing that could have settled.")
    elif gone is not None:
        notes.append(f"The sink vanished: it is gone from {gone} on. Nothing of it has settled.")
    elif len(found.spans) > 1:
        stood = ", ".join(f"{steps[a]} to {steps[b]}" for a, b in found.spans)
        notes.append(f"The sink came and went: it stood from {stood}.")
    if found.emergence is not None and found.emergence.before is None:
        notes.append("The sink is there at the first checkpoint, so when it emerged is not known.")
    return notes


def _remarks(one: RunRecord) -> tuple[list[str], list[str]]:
    """What was said of single checkpoints, each remark once; and the last one's where all share it.

    Checkpoints of which a part is loaded may have less to say than the last, which is loaded whole.
    """
    said: dict[str, list[str]] = {}
    for name, text in one.remarks.items():
        said.setdefault(text.rstrip("."), []).append(name)
    last = one.model.get("note", "")
    whole = len(one.checkpoints)
    some = {r: of for r, of in said.items() if r != last.rstrip(".") or len(of) < whole}
    total = len(one.run.checkpoints)
    remarks = [f"{len(of)} of {total} checkpoints{_named(of)}: {r}." for r, of in some.items()]
    return remarks, [last] if last and last.rstrip(".") not in some else []


def _named(checkpoints: list[str]) -> str:
    """Which they are, where they are few."""
    return f" ({', '.join(checkpoints)})" if len(checkpoints) <= FEW else ""


def _plain(row: Any) -> Any:
    """A row, and the rows in it, with None for what is not finite."""
    if isinstance(row, dict):
        return {key: _plain(value) for key, value in row.items()}
    return _finite(row) if isinstance(row, (float, np.floating)) else row


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
