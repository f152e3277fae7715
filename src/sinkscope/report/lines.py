"""Sentences and tables as lines of a terminal, broken only at spaces that may break."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from rich.cells import cell_len, chop_cells
from rich.console import Console
from rich.text import Text

from sinkscope.report.parts import Table
from sinkscope.report.text import NO_VALUE

GAP = "  "
INDENT = 4
LEAST_TEXT = 24  # columns in which a sentence can still be read

Widths = Sequence[int]


def wrapped(text: str, width: int) -> list[str]:
    """Lines of at most `width` columns, broken at spaces that may break."""
    lines = [""]
    for word in text.split(" "):
        for piece in chop_cells(word, max(1, width)):
            longer = f"{lines[-1]} {piece}" if lines[-1] else piece
            if cell_len(longer) <= width:
                lines[-1] = longer
            else:
                lines.append(piece)
    return lines


def hanging(first: str, text: str, width: int) -> list[str]:
    """Wrapped lines that stand behind a mark; lines below the first one stand below its text."""
    lines = wrapped(text, width - cell_len(first))
    return [f"{first}{lines[0]}", *(" " * cell_len(first) + line for line in lines[1:])]


def print_lines(lines: Iterable[Text], console: Console) -> None:
    """Print lines as they stand: what is longer than the terminal is for it to break."""
    for line in lines:
        console.print(line, soft_wrap=True)


def table_lines(table: Table, width: int) -> list[Text]:
    """A table within a width: as columns where these can be read, else a record for each row."""
    title = [Text(line, "bold") for line in wrapped(table.title, width) if table.title]
    widths = None if table.verbatim is not None else _widths(table, width - 1)
    body = _records(table, width) if widths is None else _grid(table, widths, 1)
    return [*title, *body, Text()]


def _widths(table: Table, room: int) -> list[int] | None:
    """Columns of each column so that no word is broken; None where there is no such room."""
    grid = [table.columns, *table.rows]
    natural, least = [], []
    for number in range(len(table.columns)):
        cells = [row[number] for row in grid]
        whole = max(map(cell_len, cells))
        word = max(cell_len(word) for cell in cells for word in cell.split(" "))
        natural.append(whole)
        least.append(word if number in table.numeric else max(word, min(whole, LEAST_TEXT)))
    spare = room - sum(least) - len(GAP) * (len(least) - 1)
    if spare < 0:
        return None
    for number in sorted(range(len(least)), key=lambda one: natural[one] - least[one]):
        given = min(spare, natural[number] - least[number])
        least[number] += given
        spare -= given
    return least


def _grid(table: Table, widths: Widths, indent: int) -> list[Text]:
    """Header, rule and rows."""
    head = [Text(line, "dim") for line in _row(table, table.columns, widths, indent)]
    rule = " " * indent + "─" * (sum(widths) + len(GAP) * (len(widths) - 1))
    rows = [Text(line) for row in table.rows for line in _row(table, row, widths, indent)]
    return [*head, Text(rule, "dim"), *rows]


def _row(table: Table, cells: Sequence[str], widths: Widths, indent: int) -> list[str]:
    """A row as lines, as many as its longest cell takes."""
    parts = [wrapped(cell, width) for cell, width in zip(cells, widths)]
    lines = []
    for at in range(max(map(len, parts))):
        shown = [
            _aligned(part[at] if at < len(part) else "", width, number in table.numeric)
            for number, (part, width) in enumerate(zip(parts, widths))
        ]
        lines.append((" " * indent + GAP.join(shown)).rstrip())
    return lines


def _aligned(text: str, width: int, right: bool) -> str:
    blanks = " " * (width - cell_len(text))
    return blanks + text if right else text + blanks


def _records(table: Table, width: int) -> list[Text]:
    """Each row as its words on lines of their own and its numbers below them.

    The words are the widest column that is not of numbers, or the one that is kept verbatim, with
    what stands before it. Numbers stand in columns where these fit, else each with its name.
    """
    texts = [number for number in range(len(table.columns)) if number not in table.numeric]
    size = {one: max(cell_len(row[one]) for row in table.rows) for one in texts}
    widest = max(texts, key=lambda one: size[one]) if texts else -1
    wide = widest if table.verbatim is None else table.verbatim
    lead = [one for one in texts if one < wide]
    rest = [one for one in range(len(table.columns)) if one != wide and one not in lead]
    numbers = {at for at, one in enumerate(rest) if one in table.numeric}

    def part(cells: Sequence[str]) -> list[str]:
        return [cells[one] for one in rest]

    below = Table("", part(table.columns), [part(row) for row in table.rows], numbers)
    widths = _widths(below, width - INDENT) if rest else None
    lines = [] if widths is None else _grid(replace(below, rows=[]), widths, INDENT)
    for row, cells in zip(table.rows, below.rows):
        before = GAP.join(row[one] for one in lead if row[one])
        if table.verbatim is not None:
            lines += [Text(f" {before}"), Text(" " * INDENT + row[wide])]
        elif texts:
            first = f" {before}{GAP if before else ''}"
            lines += map(Text, hanging(first, row[wide], width))
        if not any(cells):
            continue
        if widths is not None:
            lines += map(Text, _row(below, cells, widths, INDENT))
        else:
            pairs = ", ".join(_pairs(below.columns, cells))
            lines += map(Text, hanging(" " * (INDENT if texts else 1), pairs, width))
    return lines


def _pairs(names: Sequence[str], cells: Sequence[str]) -> list[str]:
    """The cells of a row that hold something, each behind the name of its column."""
    held = [(name, cell) for name, cell in zip(names, cells) if cell and cell != NO_VALUE]
    return [f"{name}\u00a0{cell}".strip("\u00a0") for name, cell in held]
