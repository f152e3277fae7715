"""The schema of `verify --replication`."""

from __future__ import annotations

from typing import Any

from typing_extensions import TypedDict

from sinkscope.schema.base import Measured, Open


class PublishedValue(TypedDict):
    """A published number. In replications/base."""

    value: float | str  # the number
    of: str  # the quantity it is of
    checkpoint: str  # the model it was published for
    mark: str  # how exactly it is known
    this_model: bool  # whether that is this model, by name and size


class ReplicatedRow(TypedDict):
    """One row of a published table, measured anew. In replications/run."""

    key: str  # short name of the row
    name: str  # what is done
    control: bool  # whether it is a control
    measured: dict[str, Measured | None]  # quantity -> value, in the unit that its name says
    edits: list[str]  # what was done to the model, in words
    edit_json: list[dict[str, Any]]  # the same, as `sinkscope.intervene.edits` reads it back
    published: list[PublishedValue]  # the published numbers
    refused: str  # why the model's family cannot do this row
    note: str  # what must be known to read the row


class ReplicationSummary(Open):
    """A published experiment on this model. In replications/run."""

    paper: str  # what is replicated
    title: str  # what it shows
    metric: str  # what is measured
    differs: str  # where the replication departs from the paper
    about: str  # whether the published numbers are of this model
    bos: str  # what stands at P0
    prompts: int  # how many
    length: int  # tokens in the longest
    rows: list[ReplicatedRow]  # the rows of the table
