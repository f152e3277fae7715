"""The cards of the four stages: what each says, and the numbers that it rests on."""

from __future__ import annotations

from sinkscope.report.causal.reasons import why_not
from sinkscope.report.parts import Stage
from sinkscope.report.text import (
    NOTHING,
    bounds_of,
    change_bounds,
    decimals,
    minus,
    multiple,
    number_of,
    percent,
    percent_change,
    percent_interval,
    visible,
)
from sinkscope.result import StageSummary, VerifySummary

NAMES = {1: "Recognition", 2: "Amplification", 3: "Induction", 4: "Sink"}
MEANINGS = {
    1: "The sink needs position zero's unmixed attention output.",
    2: "The sink needs what amplifies it along one direction.",
    3: "The queries of later positions find that direction in its key.",
    4: "Later positions give it their attention.",
}


def stages_of(verified: VerifySummary) -> list[Stage]:
    """The stages of a verdict, each with what it rests on, or lacks."""
    state = {True: "shown", False: "failed", None: "untested"}
    return [
        Stage(
            one.stage,
            NAMES.get(one.stage, visible(one.name)),
            state[one.passed] if one.outcome != "undetermined" else "undetermined",
            MEANINGS.get(one.stage, ""),
            stage_rows(one),
            why_not(one, verified.tests),
        )
        for one in verified.stages
    ]


def stage_rows(stage: StageSummary) -> list[tuple[str, str, str]]:
    """What a stage rests on: label, value, interval; each effect with its control over it."""
    rows = []
    held = stage.reading_heads_late_share
    if held is not None and held.value is not None:
        rows.append(("Of sink heads", percent(held.value), percent_interval(held)))
    if stage.necessity is not None and stage.necessity.value is not None:
        value = stage.necessity.value
        rows.append(("Sink without it", percent_change(value), change_bounds(stage.necessity)))
        if abs(value) >= NOTHING:  # over nothing, a ratio says nothing
            rows += _over("Control ÷ that effect", stage.specificity)
    if stage.total is not None and stage.total.value is not None:
        rows.append(("In all", percent_change(stage.total.value), ""))
    if stage.stage == 2:  # here it is what the circuit alone keeps of the sink, a share
        kept = number_of(stage.sufficiency)
        if kept is not None:
            rows.append(("Faithfulness", multiple(kept), percent_interval(stage.sufficiency)))
    elif stage.sufficiency is not None and stage.sufficiency.value is not None:
        bounds = bounds_of(stage.sufficiency)
        interval = f"{bounds[0]:+.1f} to {bounds[1]:+.1f}" if bounds else ""
        shown = f"{stage.sufficiency.value:+.1f} nats"
        rows.append(("Given elsewhere", minus(shown), minus(interval)))
        rows += _over("Control ÷ that effect", stage.sufficiency_specificity)
    if stage.dose is not None:
        rows.append(("Dose (Spearman)", minus(f"{stage.dose:.2f}"), ""))
    through = number_of(stage.mediation)
    if through is not None:
        rows.append(
            ("Passes through the next", multiple(through), percent_interval(stage.mediation))
        )
    return rows


def _over(label: str, ratio: float | None) -> list[tuple[str, str, str]]:
    """The effect of a control over that of its edit, as a row."""
    return [] if ratio is None else [(label, decimals(ratio, 2), "")]
