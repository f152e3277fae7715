"""Many runs in a terminal: sentences, the table of all rows, what failed."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from sinkscope.report.lines import print_lines, table_lines, wrapped
from sinkscope.report.parts import Table, present
from sinkscope.report.sweep import tables, words
from sinkscope.schema.sweep import SweepSummary


def print_sweep(summary: SweepSummary, console: Console, verbose: bool = False) -> None:
    """What the runs found; `verbose`: every column, and families side by side."""
    found = words.findings(summary)
    for sentence in [found.headline, *found.sentences]:
        print_lines(map(Text, wrapped(sentence, console.width)), console)
    print_table(tables.plain_table(summary.rows, "Every run", verbose), console)
    more = [tables.families(summary.rows)] if verbose else []
    for table in present([*more, tables.failed(summary), tables.incomplete(summary.rows)]):
        print_table(table, console)


def print_table(table: Table, console: Console) -> None:
    """A table, if it has rows."""
    if table.rows:
        print_lines(table_lines(table, console.width), console)
