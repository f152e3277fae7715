"""Tables of the causal tests: every row with every number, the stages, the bounds that decided."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sinkscope.report.causal.charts import short_edit
from sinkscope.report.causal.names import under_names
from sinkscope.report.parts import Table
from sinkscope.report.text import NO_VALUE, bounds_of, number_of, percent, token_text, visible
from sinkscope.result import StageSummary, TestRow, VerifySummary

RESULTS = {
    "necessity": {True: "✓ needed", False: "not needed"},
    "sufficiency": {True: "✓ enough", False: "not enough"},
    "mediation": {True: "✓ passes on", False: "does not"},
    "identity": {True: "carries it", False: "✓ does not"},
}


def effects_table(verified: VerifySummary) -> Table:
    """What every edit did beside what its control did."""
    columns = [
        "Test",
        "Edit",
        "Result",
        "Sink",
        "Control: sink",
        "Margin",
        "Control: margin",
        "p (Holm)",
    ]
    table = Table("Effects", columns, numeric=set(range(3, 8)))

    def cells(test: TestRow) -> list[str]:
        return [
            visible(test.edit),
            _result(test),
            change(test.sink_change),
            change(test.control_change),
            nats(test.margin_change),
            nats(test.control_margin_change),
            p_value(test.p_holm),
        ]

    table.rows = under_names(verified.tests, cells, len(columns))
    return table


def aftermath_table(verified: VerifySummary) -> Table:
    """What every edit costs, what it leaves of position zero, and where the mass went."""
    columns = ["Test", "Edit", "CE", "KL", "P0 norm", "P0 cosine", "Mass moved to", "Control"]
    table = Table("Cost, and where the mass went", columns, numeric=set(range(2, 6)))

    def cells(test: TestRow) -> list[str]:
        return [
            visible(test.edit),
            nats(test.ce_change, 2),
            nats(test.kl, 2, sign=False),
            _plain(test.p0_norm),
            _plain(test.p0_cosine),
            _moved(test.mass_moved_to),
            visible("; ".join(filter(None, (test.control, test.note)))) or NO_VALUE,
        ]

    table.rows = under_names(verified.tests, cells, len(columns))
    return table


def _result(test: TestRow) -> str:
    """What the row says, in brackets where it does not decide."""
    if test.passed is None or test.kind not in RESULTS:
        return NO_VALUE
    said = RESULTS[test.kind][test.passed].replace(" ", "\u00a0")
    return said if test.claim else f"({said})"


def stages_table(verified: VerifySummary) -> Table:
    """The stages in short, for a terminal."""
    table = Table(
        "Stages", ["Stage", "", "Shown", "Sink without it", "It alone gives"], numeric={0, 3, 4}
    )
    for one in verified.stages:
        given = _kept(one) if one.stage == 2 else _short_nats(one.sufficiency)
        shown = {True: "yes", False: "no", None: "not tested"}[one.passed]
        without = percent(number_of(one.necessity))
        table.rows.append([str(one.stage), visible(one.name), shown, without, given])
    return table


def deciding_table(verified: VerifySummary) -> Table:
    """The rows that decide, without intervals, for a terminal."""
    columns = ["Test", "Edit", "Effect", "Control", "p (Holm)", ""]
    table = Table("Deciding tests (all numbers: --json, report.html)", columns, numeric={2, 3, 4})

    def cells(test: TestRow) -> list[str]:
        pair: tuple[Any, Any] = (test.sink_change, test.control_change)
        show: Callable[[Any], str] = _short_change
        if test.kind == "sufficiency" and test.margin_change is not None:
            pair, show = (test.margin_change, test.control_margin_change), _short_nats
        return [short_edit(test.edit), *map(show, pair), p_value(test.p_holm), _result(test)]

    deciding = [test for test in verified.tests if test.claim and test.passed is not None]
    table.rows = under_names(deciding, cells, len(columns))
    return table


def _short_change(measured: Any) -> str:
    value = number_of(measured)
    return NO_VALUE if value is None else percent(0.0 if abs(value) < 0.0005 else value)


def _short_nats(measured: Any) -> str:
    value = number_of(measured)
    return NO_VALUE if value is None else _tidy(f"{round(value, 1) + 0.0:+.1f} nats")


def _kept(stage: StageSummary) -> str:
    """What the circuit alone keeps of the sink."""
    value = number_of(stage.sufficiency)
    return NO_VALUE if value is None else f"{percent(value)}\u00a0kept"


def changes_table(verified: VerifySummary) -> Table:
    """What would change the verdict."""
    table = Table("What would change it", ["Were this so, the verdict would be another"])
    table.rows = [[visible(one)] for one in verified.what_would_change_it]
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
    value, bounds = number_of(measured), bounds_of(measured)
    if value is None:
        return NO_VALUE
    shown = percent(0.0 if abs(value) < 0.0005 else value)
    if bounds is not None:
        shown += f" ({round(100 * bounds[0])} to {round(100 * bounds[1])})"
    return _tidy(shown)


def nats(measured: Any, digits: int = 1, sign: bool = True) -> str:
    """A figure in nats with its interval."""
    value, bounds = number_of(measured), bounds_of(measured)
    if value is None:
        return NO_VALUE
    form = f"{'+' if sign else ''}.{digits}f"

    def show(number: float) -> str:
        return f"{round(number, digits) + 0.0:{form}}"  # no minus before a zero

    shown = show(value)
    if bounds is not None:
        shown += f" ({show(bounds[0])} to {show(bounds[1])})"
    return _tidy(shown)


def p_value(p: float | None) -> str:
    """An adjusted p, not more precise than it is."""
    if p is None:
        return NO_VALUE
    return "<\u00a00.001" if p < 0.001 else f"{p:.3f}"


def _plain(value: float | None) -> str:
    return NO_VALUE if value is None else _tidy(f"{round(value, 2) + 0.0:.2f}")


def _tidy(text: str) -> str:
    return text.replace("-", "−").replace(" ", "\u00a0")


def _moved(moved: dict[str, Any] | None) -> str:
    if not moved:
        return NO_VALUE
    share = percent(number_of(moved.get("share")))
    token = token_text(moved.get("token", ""), 16)
    return f"{visible(moved.get('position', NO_VALUE))} “{token}” +{share}".replace("+−", "−")
