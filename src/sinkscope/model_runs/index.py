"""The runs in a folder, however deep, as rows: found, filtered and sorted."""

from __future__ import annotations

import json
import math
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sinkscope.errors import InputError
from sinkscope.files import latest
from sinkscope.model_runs.rows import read_rows, rows_of
from sinkscope.report.sweep.columns import Column, Value, columns_of
from sinkscope.result import ARRAYS, REPORT, SUMMARY, load_result
from sinkscope.schema.sweep import SweepRow

RELATIONS: dict[str, Callable] = {
    "<=": operator.le,
    ">=": operator.ge,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
    "=": operator.eq,
}


CHECKPOINTS = "it follows a model over its checkpoints, which sinkscope report shows."


@dataclass(frozen=True)
class Found:
    """What lies in a folder.

    rows      of all runs, by the names of their folders
    pages     run -> its report, seen from the folder
    left_out  run -> why it has no row
    """

    rows: list[SweepRow]
    pages: dict[str, str]
    left_out: dict[str, str]


def runs_in(folder: Path) -> Found:
    """Every run folder in a folder, in the order of their names; their length where it differs.

    Raises InputError for a folder that is none, or holds no run.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder.")
    found = Found([], {}, {})
    lengths: dict[str, int] = {}
    for place in sorted({file.parent for file in folder.rglob(ARRAYS)}):
        name = place.relative_to(folder).as_posix()
        if any(part.startswith(".") for part in place.relative_to(folder).parts):
            continue  # of a process that writes, or was killed
        try:
            kept = read_rows(place)
            rows = rows_of(load_result(place), name) if kept is None else kept.rows
            lengths[name] = _length(place)
        except InputError as error:
            found.left_out[name] = str(error)
            continue
        if not rows:
            found.left_out[name] = CHECKPOINTS
        found.rows.extend(row.model_copy(update={"run": name}) for row in rows)
        if latest(place, REPORT).is_file():
            found.pages[name] = f"{name}/{REPORT}"
    if not found.rows and not found.left_out:
        raise InputError(f"{folder} holds no run: no folder below it has {ARRAYS}.")
    if len({lengths[row.run] for row in found.rows}) > 1:
        found.rows[:] = [
            row.model_copy(update={"settings": {"length": lengths[row.run], **row.settings}})
            for row in found.rows
        ]
    return found


def _length(place: Path) -> int:
    """Tokens in each prompt of a run, by which a late share falls."""
    try:
        return int(json.loads(latest(place, SUMMARY).read_bytes())["prompts"]["length"])
    except (OSError, ValueError, LookupError, TypeError):
        raise InputError(f"its {SUMMARY} cannot be read.") from None


def chosen(rows: Sequence[SweepRow], where: Iterable[str], sort: str | None) -> list[SweepRow]:
    """The rows that every condition lets through, sorted by a column.

    where  conditions such as late-share>0.2, verdict=p0-circuit, sink!=no
    sort   name of a column; - before it: from the largest; rows without a value come last

    Raises InputError for a column that there is not, or a condition that cannot be one.
    """
    columns = {column.name: column for column in columns_of(rows)}
    kept = list(rows)
    for text in where:
        passes = condition(text, columns)
        kept = [row for row in kept if passes(row)]
    if sort is None:
        return kept
    column = _column(sort.removeprefix("-"), columns)
    with_value = [row for row in kept if column.value(row) is not None]
    with_value.sort(key=lambda row: _order(column.value(row)), reverse=sort.startswith("-"))
    return with_value + [row for row in kept if column.value(row) is None]


def _order(value: Value) -> tuple[bool, float, str]:
    """Numbers before words."""
    return (True, 0.0, value) if isinstance(value, str) else (False, float(value or 0), "")


def _column(name: str, columns: dict[str, Column]) -> Column:
    if name not in columns:
        raise InputError(f"{name!r} is no column here; there are {', '.join(columns)}.")
    return columns[name]


def condition(
    text: str, columns: dict[str, Column], option: str = "--where"
) -> Callable[[SweepRow], bool]:
    """Whether a row meets a comparison of a column; option: what gives it, for the refusal."""
    match = re.fullmatch(r"\s*([\w-]+?)\s*(<=|>=|!=|=|<|>)\s*(.+?)\s*", text)
    if match is None:
        raise InputError(f"{option} {text!r} is not of the form late-share>0.2 or sink=yes.")
    column, relation, bound = _column(match[1], columns), match[2], match[3]
    compare = RELATIONS[relation]
    if relation in ("=", "!="):
        return lambda row: compare(*_alike(column.value(row), bound))
    try:
        number = float(bound)
    except ValueError:
        number = math.nan
    if math.isnan(number):
        raise InputError(f"{option} {text!r}: {bound!r} is no number.")

    def passes(row: SweepRow) -> bool:
        value = column.value(row)
        return isinstance(value, (int, float)) and bool(compare(value, number))

    return passes


def _alike(value: Value, bound: str) -> tuple[Value, Value]:
    """Both as numbers where the value is one."""
    if isinstance(value, (int, float)):
        try:
            return float(value), float(bound)
        except ValueError:
            return value, bound
    return value, bound
