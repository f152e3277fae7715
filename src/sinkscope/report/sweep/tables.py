"""Runs as tables: the index that sorts and filters, families side by side, what failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from sinkscope.report.listing import Cell, Index
from sinkscope.report.parts import Table, table_of
from sinkscope.report.sweep.columns import EMBEDDING, columns_of
from sinkscope.report.text import NO_VALUE, number_of, percent, visible
from sinkscope.schema.sweep import SweepRow, SweepSummary


def index(rows: Sequence[SweepRow], pages: dict[str, str]) -> Index:
    """Every row with what it is sorted by; a model's name leads to its report.

    pages  run -> where its report lies, seen from this page
    """
    columns = columns_of(rows)
    cells = [
        [
            Cell(
                column.text(row),
                column.value(row),
                pages.get(row.run, "") if column.name == "model" else "",
            )
            for column in columns
        ]
        for row in rows
    ]
    numeric = {i for i, column in enumerate(columns) if column.numeric}
    chosen = {i for i, column in enumerate(columns) if column.choice}
    return Index("Every run", [column.title for column in columns], cells, numeric, chosen)


def plain_table(rows: Sequence[SweepRow], title: str, every: bool = False) -> Table:
    """The same for a terminal."""
    columns = columns_of(rows, every)
    shown = {column.title: column.text for column in columns}
    numeric = {i for i, column in enumerate(columns) if column.numeric}
    return table_of(title, rows, shown, numeric)


def families(rows: Sequence[SweepRow]) -> Table:
    """A line a family: what its models have in common, and how far they range."""
    groups: dict[str, list[SweepRow]] = {}
    for row in rows:
        groups.setdefault(row.family, []).append(row)
    columns = {
        "Family": lambda name, of: visible(name),
        "Models": lambda name, of: str(len({row.model for row in of})),
        "Rows": lambda name, of: str(len(of)),
        "With a sink": lambda name, of: _with_sink(of),
        "Late share": lambda name, of: _range([number_of(row.late_share) for row in of], percent),
        "Since block": lambda name, of: _range([_since(row) for row in of], _block),
        "Rises": lambda name, of: _range([len(row.phases) or None for row in of], "{:.0f}".format),
        "Verdicts": lambda name, of: _verdicts(of),
        "Passes of the tests": lambda name, of: _range(
            [row.test_passes for row in of], "{:.1f}".format
        ),
    }
    told = {
        title: show
        for title, show in columns.items()
        if any(show(name, of) != NO_VALUE for name, of in groups.items())
    }
    return table_of("By family", list(groups.items()), told, {1, 2, 3})


def failed(summary: SweepSummary) -> Table:
    """Runs that could not be measured, with their reasons."""
    columns = {
        "Model": lambda one: visible(one["model"]),
        "Settings": lambda one: settings_text(one["settings"]) or NO_VALUE,
        "Reason": lambda one: visible(one["reason"]),
    }
    return table_of("Not measured", summary.failed, columns, set())


def incomplete(rows: Sequence[SweepRow]) -> Table:
    """Runs of which a part could not be measured."""
    columns = {
        "Model": lambda row: visible(row.model),
        "BOS": lambda row: visible(row.bos),
        "Why": lambda row: visible(row.incomplete),
    }
    return table_of("Measured in part", [row for row in rows if row.incomplete], columns, set())


def settings_text(settings: dict) -> str:
    """Settings in one line."""
    return ", ".join(f"{visible(name)} {visible(value)}" for name, value in settings.items())


def _with_sink(rows: list[SweepRow]) -> str:
    asked = [row for row in rows if row.kind]
    return f"{sum(row.p0_sink is True for row in asked)} of {len(asked)}" if asked else NO_VALUE


def _since(row: SweepRow) -> int | None:
    return row.emergence_block if row.p0_sink else None


def _block(block: float) -> str:
    return EMBEDDING if block < 0 else f"{block:.0f}"


def _range(values, show) -> str:
    held = [value for value in values if value is not None]
    if not held:
        return NO_VALUE
    ends = [show(min(held)), show(max(held))]
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"


def _verdicts(rows: list[SweepRow]) -> str:
    counts = Counter(row.verdict for row in rows if row.verdict)
    return (
        ", ".join(f"{visible(verdict)} {count}" for verdict, count in counts.most_common())
        or NO_VALUE
    )
