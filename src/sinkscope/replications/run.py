"""Run a replication: every row measured, published numbers beside it, what cannot be done said."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from sinkscope.errors import InputError, Unsupported
from sinkscope.frame import Progress, silent
from sinkscope.provenance import new_summary
from sinkscope.replications import barbero, gu, li, queipo, ran_milo, sun, yona
from sinkscope.replications.base import Published, Replication, ReplicationRow, RowResult
from sinkscope.replications.bench import Bench
from sinkscope.result import Result
from sinkscope.schema.replication import PublishedValue, ReplicatedRow, ReplicationSummary
from sinkscope.settings import ReplicationSettings
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts, build_prompts

REPLICATIONS: dict[str, Replication] = {
    module.REPLICATION.name: module.REPLICATION
    for module in (ran_milo, queipo, yona, li, sun, gu, barbero)
}


def replication_of(name: str) -> Replication:
    """A replication by its name. Raises InputError for an unknown one."""
    if name not in REPLICATIONS:
        raise InputError(f"--replication {name!r} is not one of {', '.join(REPLICATIONS)}.")
    return REPLICATIONS[name]


def run(
    name: str,
    subject: Subject,
    settings: ReplicationSettings | None = None,
    *,
    prompts: Prompts | None = None,
    progress: Progress = silent,
    **changes: Any,
) -> Result:
    """Run a published experiment on a model.

    settings, changes  a ReplicationSettings, or its fields as keywords: run(name, subject, n=50)
    prompts            ready-made Prompts instead of those of the paper
    progress           called as progress(label, done, total)

    Returns a Result with `summary.replication[name]`. A row that the model's family cannot do says
    so in one sentence; only where no row can be done Unsupported is raised. Raises InputError for
    an unknown name, and where prompts cannot be built.
    """
    replication = replication_of(name)
    settings = dataclasses.replace(settings or ReplicationSettings(), **changes)
    options = replication.prompts | {"text": settings.text, "seed": settings.seed}
    if settings.n is not None:
        options["n"] = settings.n
    if prompts is None:
        prompts = build_prompts(subject, **options)
    bench = Bench(subject, prompts, options, settings.seed)
    rows: list[ReplicatedRow] = []
    for number, row in enumerate(replication.rows):
        progress(replication.name, number, len(replication.rows))
        rows.append(_measured(row, bench))
    progress(replication.name, len(replication.rows), len(replication.rows))
    if all(row["refused"] for row in rows):
        raise Unsupported(f"{replication.name} cannot be run: {rows[0]['refused']}")
    return _result(replication, subject, prompts, settings, rows)


def _measured(row: ReplicationRow, bench: Bench) -> ReplicatedRow:
    """One row as it stands in the summary."""
    refused, found = "", RowResult({})
    try:
        found = row.measure(bench)
    except Unsupported as refusal:
        refused = str(refusal)
    return {
        "key": row.key,
        "name": row.name,
        "control": row.control,
        "measured": dict(found.values),
        "edits": [str(edit) for edit in found.edits],
        "edit_json": [edit.to_json() for edit in found.edits],
        "published": [_published(one, bench.subject) for one in row.published],
        "refused": refused,
        "note": found.note,
    }


def _published(one: Published, subject: Subject) -> PublishedValue:
    return {
        "value": one.value,
        "of": one.of,
        "checkpoint": one.checkpoint.id,
        "mark": one.mark,
        "this_model": one.checkpoint.is_of(subject),
    }


def about(replication: Replication, subject: Subject) -> str:
    """Whether the published numbers are of this model."""
    if not replication.checkpoints:
        return "No number was published that could be set beside these."
    named = [one.id for one in replication.checkpoints if one.is_of(subject)]
    if named:
        return f"Published for {named[0]}: by name and size this model."
    known = ", ".join(one.id for one in replication.checkpoints[:3])
    more = (
        "" if len(replication.checkpoints) <= 3 else f" and {len(replication.checkpoints) - 3} more"
    )
    return f"Published for {known}{more}; this is another model."


def _result(
    replication: Replication,
    subject: Subject,
    prompts: Prompts,
    settings: ReplicationSettings,
    rows: list[ReplicatedRow],
) -> Result:
    import xarray

    command = {"name": "verify", "replication": replication.name, **dataclasses.asdict(settings)}
    summary = new_summary(subject, [prompts], command, settings.seed)
    summary.replication = {
        replication.name: ReplicationSummary(
            paper=replication.paper,
            title=replication.title,
            metric=replication.metric,
            differs=replication.differs,
            about=about(replication, subject),
            bos=prompts.bos,
            prompts=len(prompts),
            length=prompts.length,
            rows=rows,
        )
    }
    quantities = list(dict.fromkeys(name for row in rows for name in row["measured"]))
    grid = [[_number(row["measured"].get(name)) for name in quantities] for row in rows]
    values = xarray.Variable(
        ("row", "quantity"), np.array(grid), {"long_name": "measured value", "units": "1"}
    )
    coordinates = {"row": [row["key"] for row in rows], "quantity": quantities}
    data = xarray.Dataset({"measured": values}, coordinates)
    return Result(summary, xarray.DataTree.from_dict({f"replication/{replication.name}": data}))


def _number(measured: Any) -> float:
    return np.nan if measured is None or measured.value is None else float(measured.value)
