"""What a replication is: the rows of a published experiment, measured on any model.

A row says what is edited, what is measured, and which numbers were published for which checkpoint.
What was published is in `published/*.yaml`. Marks tell where a published number was read:

    [S]     the paper itself
    [2nd]   notes of others on the paper
    [COMM]  an independent replication, not the authors'
    [CODE]  the authors' code
    [INF]   inferred here
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import yaml

from sinkscope.intervene.edits.base import Edit
from sinkscope.result import Measured

if TYPE_CHECKING:
    from sinkscope.replications.bench import Bench
    from sinkscope.subject.load import Subject


@dataclass(frozen=True)
class PublishedModel:
    """A published model, told by its name and its size: a name alone may be anyone's."""

    id: str
    blocks: int
    width: int

    def is_of(self, subject: Subject) -> bool:
        """Whether the subject bears this name (its last part) and has this size."""
        name = str(subject.identity.get("id", "")).rstrip("/").rpartition("/")[2]
        anatomy = subject.anatomy
        size = len(anatomy.blocks), anatomy.hidden_size
        return name.lower() == self.id.rpartition("/")[2].lower() and size == (
            self.blocks,
            self.width,
        )


@dataclass(frozen=True)
class Published:
    """One published number: of which quantity, for which checkpoint, and how it is known."""

    value: float | str
    of: str
    checkpoint: PublishedModel
    mark: str


@dataclass
class RowResult:
    """What a row measured: quantity -> value, the edits, and a remark."""

    values: dict[str, Measured]
    edits: list[Edit] = field(default_factory=list)
    note: str = ""


@dataclass(frozen=True)
class ReplicationRow:
    """One row of a replication. `measure` raises Unsupported where a model cannot be asked this."""

    key: str
    name: str
    measure: Callable[[Bench], RowResult]
    published: tuple[Published, ...] = ()
    control: bool = False


@dataclass(frozen=True)
class Replication:
    """One published experiment.

    prompts  n, length, bos and kind as published; text is the user's
    metric   what is measured, in one sentence
    differs  what is not as published, in one sentence
    """

    name: str
    paper: str
    title: str
    prompts: dict[str, Any]
    metric: str
    differs: str
    rows: tuple[ReplicationRow, ...]

    @property
    def checkpoints(self) -> list[PublishedModel]:
        """The models that numbers were published for, in order."""
        named = [one.checkpoint for row in self.rows for one in row.published]
        return list(dict.fromkeys(named))


def read_replication(
    name: str, measures: Mapping[str, Callable[[Bench], RowResult]]
) -> Replication:
    """What was published, from `published/NAME.yaml`, with how each of its rows is measured.

    measures  key of a row -> function
    """
    content = _published(name)
    rows = tuple(_row(row, measures[row["key"]]) for row in content.pop("rows"))
    return Replication(name, rows=rows, **content)


def _row(row: dict[str, Any], measure: Callable[[Bench], RowResult]) -> ReplicationRow:
    numbers = tuple(
        Published(value, each["of"], MODELS[model], each["mark"])
        for each in row.pop("published", ())
        for model, value in each["numbers"].items()
    )
    return ReplicationRow(measure=measure, published=numbers, **row)


def _published(name: str) -> Any:
    folder = files("sinkscope.replications") / "published"
    return yaml.safe_load((folder / f"{name}.yaml").read_text(encoding="utf-8"))


MODELS = {name: PublishedModel(**size) for name, size in _published("models").items()}
