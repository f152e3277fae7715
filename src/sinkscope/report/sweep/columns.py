"""The columns that runs are listed, sorted and filtered by: how each is shown, and its value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from sinkscope.report import frames
from sinkscope.report.phases import written_by
from sinkscope.report.text import (
    NO_VALUE,
    number_of,
    percent,
    percent_with_interval,
    ranges,
    short,
    visible,
)
from sinkscope.schema.sweep import PhaseSpan, SweepRow

Value: TypeAlias = "str | float | None"
SINKS = {True: "yes", False: "no", None: "undecided"}
EMBEDDING = "embedding"


@dataclass(frozen=True)
class Column:
    """One column.

    name   as a filter names it
    value  what it is sorted and filtered by; None where a run has none
    show   how it is shown, where not as its value
    brief   whether a terminal has room for it
    choice  whether its values are few, so that a page offers them
    """

    name: str
    title: str
    value: Callable[[SweepRow], Value]
    show: Callable[[SweepRow], str] | None = None
    numeric: bool = False
    brief: bool = True
    choice: bool = False

    def text(self, row: SweepRow) -> str:
        """The cell of a row."""
        if self.show is not None:
            return self.show(row)
        value = self.value(row)
        if value is None or value == "":
            return NO_VALUE
        return short(value) if isinstance(value, float) else visible(value)


def columns_of(rows: Sequence[SweepRow], every: bool = True) -> list[Column]:
    """The columns that some row fills; `every`: also those that a terminal has no room for."""
    settings = list(dict.fromkeys(name for row in rows for name in row.settings))
    varied = [
        Column(name, name, partial(_setting, name), numeric=_numbers(rows, name), choice=True)
        for name in settings
    ]
    found = [*COLUMNS[:2], *varied, *COLUMNS[2:]]
    told = {(row.model, row.bos, str(row.settings)) for row in rows}
    if len(told) < len(rows):  # else the folder tells nothing new
        found = [RUN, *found]
    return [
        column
        for column in found
        if (every or column.brief) and any(column.value(row) not in (None, "") for row in rows)
    ]


def _setting(name: str, row: SweepRow) -> Value:
    value = row.settings.get(name)
    return value if value is None or isinstance(value, (int, float, str)) else str(value)


def _numbers(rows: Sequence[SweepRow], name: str) -> bool:
    held = [row.settings.get(name) for row in rows]
    return all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in held)


def _at_p0(row: SweepRow) -> str:
    """What stands there most often; the first of tokens that stand there once says nothing."""
    apart = row.position_zero.endswith(frames.ONCE) and row.settings.get("n") != 1
    return "another in each prompt" if apart else row.position_zero


def _sink(row: SweepRow) -> Value:
    return SINKS[row.p0_sink] if row.kind else None


def _heads(row: SweepRow) -> str:
    if row.sink_heads is None:
        return NO_VALUE
    return f"{row.sink_heads} of {row.heads}"


def _block(row: SweepRow) -> str:
    block = row.emergence_block
    return NO_VALUE if block is None else EMBEDDING if block < 0 else str(block)


def _writers(row: SweepRow) -> str:
    said = [f"{written_by(str(name))} {percent(float(share))}" for name, share in row.writers]
    return ", ".join(said) or NO_VALUE


def _phase(phase: PhaseSpan) -> str:
    first, last = phase["rise"]
    rise = EMBEDDING if last < 0 else ranges([*range(max(first, 0), last + 1)])
    fall = phase["fall"]
    return f"{rise} to {ranges([*range(fall[0], fall[1] + 1)])}" if fall else f"{rise} to the end"


def _phases(row: SweepRow) -> str:
    return "; ".join(map(_phase, row.phases))


RUN = Column("run", "Run", lambda row: row.run)
COLUMNS = (
    Column("model", "Model", lambda row: row.model),
    Column("family", "Family", lambda row: row.family, brief=False, choice=True),
    Column("bos", "BOS", lambda row: row.bos, lambda row: frames.label(row.bos), choice=True),
    Column("p0", "At position zero", lambda row: row.position_zero, _at_p0, brief=False),
    Column("sink", "Sink", _sink, choice=True),
    Column(
        "late-share",
        "Late share",
        lambda row: number_of(row.late_share),
        lambda row: percent_with_interval(row.late_share),
        True,
    ),
    Column("heads", "Sink heads", lambda row: row.sink_heads, _heads, True),
    Column("block", "Since block", lambda row: row.emergence_block, _block, True),
    Column(
        "phases", "Raised in, until", lambda row: _phases(row) if row.phases else None, brief=False
    ),
    Column(
        "writers", "Written by", lambda row: _writers(row) if row.writers else None, brief=False
    ),
    Column("verdict", "Verdict", lambda row: row.verdict, choice=True),
    Column("expected", "Known to be", lambda row: row.expected, choice=True),
    Column("passes", "Passes of the tests", lambda row: row.test_passes, numeric=True, brief=False),
)
