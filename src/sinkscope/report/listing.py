"""A long table that its reader sorts and filters in the page (`index.js`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Cell:
    """A cell of an index: its text, what it is sorted by, and where it leads ("": nowhere)."""

    text: str
    value: str | float | None
    link: str = ""

    @property
    def key(self) -> str:
        """Its value as the page's script reads it."""
        return "" if self.value is None else str(self.value)


@dataclass
class Index:
    """A table that its reader sorts by any column and filters; complete without scripts.

    chosen  columns whose values are offered as a choice
    """

    title: str
    columns: list[str]
    rows: list[list[Cell]]
    numeric: set[int]
    chosen: set[int]
    kind: ClassVar[str] = "index"
