"""Why a stage is not shown: what its strongest rows say, with their numbers."""

from __future__ import annotations

from collections.abc import Sequence

from sinkscope.report.causal.names import name_of
from sinkscope.report.text import minus, number_of, percent_change, visible
from sinkscope.result import StageSummary, TestRow

WHY = {
    "absent": "next to nothing",
    "in part": "less than its bound asks for",
    "unspecific": "but its control does so too",
    "undetermined": "which so few prompts cannot tell from its bound or its control",
}


def why_not(stage: StageSummary, tests: Sequence[TestRow]) -> str:
    """What the rows that a stage rests on lack; empty where it is shown, or was not tested."""
    rows = [test for test in tests if test.claim and test.edit in stage.edits]
    if stage.passed or not rows:
        return ""
    return "; ".join(_lacks(test) for test in rows if test.passed is not True)


def _lacks(test: TestRow) -> str:
    gained = test.kind == "sufficiency"
    measured = test.margin_change if gained else test.key_change or test.sink_change
    value = number_of(measured)
    if value is None:
        shown = "gave no number"
    elif gained:
        shown = minus(f"gives {value:+.1f} nats")
    else:
        shown = f"changes the sink by {percent_change(value)}"
    why = WHY.get(test.outcome, visible(test.outcome))
    needs = f" (take {test.needs} prompts)" if test.needs is not None else ""
    return f"{name_of(test.id)} {shown}{f', {why}' if why else ''}{needs}"
