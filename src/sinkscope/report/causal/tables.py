"""Tables of the causal tests: every row with every number, the stages, the bounds that decided."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sinkscope.causal.thresholds import KEPT
from sinkscope.report.causal.fold import Entry, Fold, folded
from sinkscope.report.causal.names import edit_words, short_edit, under_names, with_names
from sinkscope.report.parts import Table
from sinkscope.report.text import (
    NO_VALUE,
    bounds_of,
    change_bounds,
    decimals,
    minus,
    number_of,
    percent,
    percent_change,
    token_text,
    typeset,
    visible,
)
from sinkscope.result import StageSummary, TestRow, VerifySummary

RESULTS = {
    "necessity": {True: "✓ needed", False: "not needed"},
    "sufficiency": {True: "✓ enough", False: "not enough"},
    "mediation": {True: "✓ passes on", False: "does not pass on"},
    "identity": {True: "carries it", False: "✓ does not carry it"},
}

KEEPS = f"✓ keeps {percent(KEPT)} or more"  # of S4 that holds: less than what is called faithful

# of necessity, where a row does not hold: "not needed" only where it is shown to do nothing
WORDS = {"in part": "in part", "unspecific": "control too"}


def effects_table(verified: VerifySummary) -> Table:
    """What every edit did, by path, beside what its control did; rows that say nothing folded."""
    columns = [
        "Test",
        "Edit",
        "Result",
        "Through P0's key",
        "Through others",
        "Sink, in all",
        "Control: sink",
        "Margin",
        "Control: margin",
        "p (Holm)",
    ]
    table = Table("Effects", columns, numeric=set(range(3, 10)))

    def cells(test: Entry) -> list[str]:
        if isinstance(test, Fold):
            return [test.words, NO_VALUE, percent_change(test.largest), *[NO_VALUE] * 6]
        return [
            edit_words(test.edit),
            _result(test),
            change(test.key_change),
            change(test.others_change),
            change(test.sink_change),
            change(test.control_change),
            nats(test.margin_change),
            nats(test.control_margin_change),
            p_value(test.p_holm),
        ]

    table.rows = under_names(folded(verified.tests), cells, len(columns))
    return table


def aftermath_table(verified: VerifySummary) -> Table:
    """What every edit costs, what it leaves of position zero, and where the mass went."""
    columns = ["Test", "Edit", "CE", "KL", "P0 norm", "P0 cosine", "Mass moved to", "Control"]
    table = Table("Cost, and where the mass went", columns, numeric=set(range(2, 6)))

    def cells(test: TestRow) -> list[str]:
        return [
            edit_words(test.edit),
            nats(test.ce_change, 2),
            nats(test.kl, 2, sign=False),
            decimals(test.p0_norm, 2),
            decimals(test.p0_cosine, 2),
            _moved(test.mass_moved_to),
            visible("; ".join(filter(None, (test.control, test.note)))) or NO_VALUE,
        ]

    confirmed = [test for test in verified.tests if test.confirmed]
    table.rows = under_names(confirmed, cells, len(columns))
    return table


def _result(test: TestRow) -> str:
    """What the row says, in brackets where it does not decide."""
    if not test.confirmed:
        return "screened"
    if test.outcome == "undetermined":
        needs = f", take {test.needs} prompts" if test.needs is not None else ""
        return f"undetermined{needs}"
    if test.passed is None or test.kind not in RESULTS:
        return NO_VALUE
    said = RESULTS[test.kind][test.passed]
    if test.kind == "necessity" and test.outcome in WORDS:
        said = WORDS[test.outcome]
    if test.id == "S4" and test.passed:
        said = KEEPS
    said = said.replace("✓ ", "✓\u00a0")
    return said if test.claim else f"({said})"


def stages_table(verified: VerifySummary) -> Table:
    """The stages in short, for a terminal."""
    table = Table(
        "Stages, and the sink without each",
        ["Stage", "Shown", "Through P0's key", "In all", "It alone gives"],
        numeric={2, 3, 4},
    )
    for one in verified.stages:
        given = _kept(one) if one.stage == 2 else _short_nats(one.sufficiency)
        without, total = (percent_change(number_of(x)) for x in (one.necessity, one.total))
        name = f"{one.stage} {visible(one.name)}"
        table.rows.append([name, stage_said(one), without, total, given])
    return table


def stage_said(stage: StageSummary) -> str:
    """Whether a stage is shown, in words."""
    known = {True: "yes", False: "no", None: "not tested"}[stage.passed]
    return "undetermined" if stage.outcome == "undetermined" else known


def deciding_table(verified: VerifySummary) -> Table:
    """The rows that decide, without intervals, for a terminal; screened ones in one line a test."""
    columns = ["Test", "Edit", "Key", "Others", "Total", "Control", "p (Holm)", ""]
    table = Table(
        "Deciding tests, by path (all numbers: --json, report.html)",
        columns,
        numeric={2, 3, 4, 5, 6},
    )

    def cells(test: Entry) -> list[str]:
        if isinstance(test, Fold):
            return [test.words, *[""] * 6]
        total, control = test.sink_change, test.control_change
        show: Callable[[Any], str] = _short_change
        if test.kind == "sufficiency" and test.margin_change is not None:
            total, control, show = test.margin_change, test.control_margin_change, _short_nats
        paths = map(_short_change, (test.key_change, test.others_change))
        shown = [*paths, show(total), show(control)]
        said = _result(test).replace("\u00a0", " ")
        return [short_edit(test.edit), *shown, p_value(test.p_holm), said]

    deciding = [test for test in verified.tests if test.claim and test.p_holm is not None]
    screened = [test for test in verified.tests if not test.confirmed]
    shown = [test for test in verified.tests if test in deciding or test in screened]
    table.rows = under_names(folded(shown), cells, len(columns))
    return table


def _short_change(measured: Any) -> str:
    return percent_change(number_of(measured))


def _short_nats(measured: Any) -> str:
    value = number_of(measured)
    return NO_VALUE if value is None else _tidy(f"{decimals(value, 1, '+')} nats")


def _kept(stage: StageSummary) -> str:
    """What the circuit alone keeps of the sink."""
    value = number_of(stage.sufficiency)
    return NO_VALUE if value is None else f"{percent(value)}\u00a0kept"


def changes_table(verified: VerifySummary) -> Table:
    """What would change the verdict."""
    table = Table("What would change it", ["Were this so, the verdict would be another"])
    table.rows = [[typeset(with_names(visible(one)))] for one in verified.what_would_change_it]
    return table


def thresholds_table(verified: VerifySummary) -> Table:
    """Every bound that decided, with its reason."""
    table = Table("Bounds that decided", ["Bound", "Value", "Why"], numeric={1})
    for name, entry in verified.thresholds.items():
        known = isinstance(entry, dict)
        value, reason = (entry.get("value"), entry.get("reason", "")) if known else (entry, "")
        table.rows.append([visible(name), visible(value), visible(reason)])
    return table


def change(measured: Any) -> str:
    """A relative change as a percentage with its interval."""
    value, interval = number_of(measured), change_bounds(measured)
    shown = percent_change(value)
    return _tidy(f"{shown} ({interval})" if interval and value is not None else shown)


def nats(measured: Any, digits: int = 1, sign: bool = True) -> str:
    """A figure in nats with its interval."""
    value, bounds = number_of(measured), bounds_of(measured)
    shown, *ends = (decimals(x, digits, "+" if sign else "") for x in (value, *(bounds or ())))
    return _tidy(f"{shown} ({' to '.join(ends)})" if ends and value is not None else shown)


def p_value(p: float | None) -> str:
    """An adjusted p, not more precise than it is."""
    if p is None:
        return NO_VALUE
    return "<\u00a00.001" if p < 0.001 else f"{p:.3f}"


def _tidy(text: str) -> str:
    """With signs; it breaks before an interval alone."""
    return minus(text).replace(" ", "\u00a0").replace("\u00a0(", " (")


def _moved(moved: dict[str, Any] | None) -> str:
    if not moved:
        return NO_VALUE
    share = percent(number_of(moved.get("share")))
    sign = "" if share[0] in "<>−–" else "+"
    token = token_text(moved.get("token", ""), 16)
    return f"{visible(moved.get('position', NO_VALUE))} “{token}” {sign}{share}"
