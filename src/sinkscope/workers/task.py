"""What the engine knows of a task: its place among all, and what comes of it."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias, TypeVar


class Numbered(Protocol):
    """A plain value that says everything a worker needs."""

    @property
    def index(self) -> int:
        """Its place among all."""


Task = TypeVar("Task", bound=Numbered)
# (index, content, remark or ""), or (index, None, what is wrong)
Outcome: TypeAlias = "tuple[int, Any, str]"
