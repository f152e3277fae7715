"""The schema of `verify --replication`."""

from __future__ import annotations

from typing import Any

from typing_extensions import TypedDict

from sinkscope.schema.base import Measured, Open


class PublishedValue(TypedDict):
    """A published number. Computed in replications/base.

    value       the number
    of          the quantity it is of
    checkpoint  the model it was published for
    mark        how exactly it is known
    this_model  whether that is this model, by name and size
    """

    value: float | str
    of: str
    checkpoint: str
    mark: str
    this_model: bool


class ReplicatedRow(TypedDict):
    """One row of a published table, measured anew. Computed in replications/run.

    key, name  of the row
    control    whether it is a control
    measured   quantity -> value, in the unit that its name says
    edits      what was done to the model, in words
    edit_json  the same, as `sinkscope.intervene.edits` reads it back
    published  the published numbers
    refused    why the model's family cannot do this row
    note       what must be known to read the row
    """

    key: str
    name: str
    control: bool
    measured: dict[str, Measured | None]
    edits: list[str]
    edit_json: list[dict[str, Any]]
    published: list[PublishedValue]
    refused: str
    note: str


class ReplicationSummary(Open):
    """A published experiment on this model. Computed in replications/run.

    paper, title  what is replicated
    metric        what is measured
    differs       where the replication departs from the paper
    about         whether the published numbers are of this model
    bos           what stands at P0
    prompts       how many
    length        tokens in the longest
    rows          the rows of the table
    """

    paper: str
    title: str
    metric: str
    differs: str
    about: str
    bos: str
    prompts: int
    length: int
    rows: list[ReplicatedRow]
