"""Screened rows that say nothing, folded into one line."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Union

from sinkscope.report.text import number_of, percent

if TYPE_CHECKING:
    from sinkscope.result import TestRow

NOTHING = 0.02  # part of the sink; a screened edit that takes less says nothing by itself


@dataclass
class Fold:
    """Screened rows of one test that come one after the other and each take next to nothing."""

    id: str
    rows: list[TestRow]

    @property
    def largest(self) -> float:
        """The change through P0's key that is furthest from zero."""
        return max((number_of(row.key_change) or 0.0 for row in self.rows), key=abs)

    @property
    def words(self) -> str:
        """What they say together."""
        blocks = [row.block for row in self.rows if row.block is not None]
        what = f"{len(self.rows)} edits"
        if len(set(blocks)) == len(self.rows) and len(blocks) > 1:
            whole = blocks == list(range(blocks[0], blocks[-1] + 1))
            listed = ", ".join(map(str, blocks))
            what = f"blocks {blocks[0]} to {blocks[-1]}" if whole else f"blocks {listed}"
        most = percent(abs(self.largest))
        bound = f"{most[2:]} or more" if most.startswith("<") else f"more than {most}"
        return f"{what}: none changes the sink by {bound} through P0's key"


Entry = Union["TestRow", Fold]


def folded(tests: Iterable[TestRow]) -> list[Entry]:
    """The rows in order, with neighbours of one test that say nothing as one."""
    found: list[Entry] = []
    for test in tests:
        quiet = not test.confirmed and abs(number_of(test.key_change) or 0.0) < NOTHING
        last = found[-1] if found else None
        if quiet and isinstance(last, Fold) and last.id == test.id:
            last.rows.append(test)
        else:
            found.append(Fold(test.id, [test]) if quiet else test)
    return [one.rows[0] if isinstance(one, Fold) and len(one.rows) == 1 else one for one in found]
