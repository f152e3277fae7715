"""What a replication shows: published numbers beside measured ones, row by row."""

from __future__ import annotations

from typing import Any

from sinkscope.report.parts import Findings, Said, Section, Table, Tables, Words
from sinkscope.report.text import NO_VALUE, bounds_of, number_of, visible, with_interval
from sinkscope.result import Result
from sinkscope.schema.replication import ReplicatedRow, ReplicationSummary

MOST_ROWS = 12  # that a terminal shows by itself
MARKS = (
    "Marks of published numbers: [S] the paper, [2nd] notes of others on it, [COMM] an independent "
    "replication, [CODE] the authors' code, [INF] inferred."
)


def sections(result: Result) -> list[Section]:
    """One section for each replication."""
    return [
        Section(
            f"replication-{visible(name)}",
            f"Replication {visible(name)}",
            f"{visible(one.title)}. {visible(one.paper)}.",
            [Words({"": _words(one)}), Tables({"": [rows_table(one)]}, quiet=True)],
            {"": _done(one)},
            unfolded=True,
        )
        for name, one in result.summary.replication.items()
    ]


def findings(result: Result, panel: str) -> Findings | None:
    """Words and tables of all replications for a terminal; they stand under no BOS policy."""
    held = result.summary.replication
    if panel or not held:
        return None
    found = _words(next(iter(held.values())))
    found.sentences.insert(0, found.headline)
    found.headline = "; ".join(
        f"{visible(name)}: {visible(one.title)}" for name, one in held.items()
    )
    found.answers = [said for one in held.values() for said in _answers(one)]
    for name, one in held.items():
        table = rows_table(one)
        table.title = visible(name)
        found.tables.append(table)
    return found


def _answers(one: ReplicationSummary) -> list[Said]:
    """What a terminal shows by itself: what this is beside, and the rows that were measured."""
    rows = [row for row in one.rows if not row["refused"]]
    known = sorted(rows, key=lambda row: not any(each["this_model"] for each in row["published"]))
    told = [_row_said(row) for row in known[:MOST_ROWS]]
    left = len(rows) - len(told)
    return [
        ("Beside", f"{visible(one.title)}: {visible(one.about)}"),
        ("Beside", _done(one)),
        *(("Row", said) for said in told),
        *([("Row", f"{left} more rows: --verbose.")] if left else []),
    ]


def _row_said(row: ReplicatedRow) -> str:
    """The first quantity of a row, measured and as it was published."""
    quantity, value, known = _lines(row)[0]
    beside = "" if known == NO_VALUE else f"; published {known}"
    return f"{visible(row['name'])} ({visible(row['key'])}): {quantity} {value}{beside}."


def rows_table(one: ReplicationSummary) -> Table:
    """A line for each quantity of each row; published numbers of this model are marked."""
    table = Table("Rows", ["Row", "What is done", "Quantity", "Measured", "Published"], numeric={3})
    for row in one.rows:
        name = visible(row["name"]) + (" (control)" if row["control"] else "")
        lines = _lines(row)
        for number, (quantity, value, known) in enumerate(lines):
            head = ["", ""] if number else [visible(row["key"]), name]
            table.rows.append([*head, quantity, value, known])
    return table


def _lines(row: ReplicatedRow) -> list[tuple[str, str, str]]:
    """(quantity, measured, published) of a row."""
    measured = dict(row["measured"])
    known = list(dict.fromkeys([*measured, *(one["of"] for one in row["published"])]))
    if row["refused"]:
        return [(visible(row["refused"]), "not done", NO_VALUE)]
    shown = {quantity: _published(row, quantity) for quantity in known}
    return [
        (visible(quantity), _value(measured.get(quantity)), shown[quantity] or NO_VALUE)
        for quantity in known
    ]


def _published(row: ReplicatedRow, quantity: str) -> str:
    """Numbers of this model alone where there are any, else of at most two others."""
    found = [one for one in row["published"] if one["of"] == quantity]
    own = [one for one in found if one["this_model"]]
    shown = "; ".join(
        f"{printed(one['value'])} {visible(one['checkpoint'].rpartition('/')[2])} "
        f"{visible(one['mark'])}"
        for one in (own or found[:2])
    )
    return shown + (f"; {len(found) - 2} more" if not own and len(found) > 2 else "")


def _value(measured: Any) -> str:
    value = number_of(measured)
    certain = bounds_of(measured) == (value, value)  # so many of all: no interval
    return with_interval(value if certain else measured, plain)


def printed(value: float | str) -> str:
    """A published number, with every digit that was published."""
    return visible(value) if isinstance(value, str) else f"{value:g}"


def plain(value: float) -> str:
    """A measured number in few digits."""
    if float(value).is_integer() and abs(value) < 1e6:
        return f"{value:.0f}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _done(one: ReplicationSummary) -> str:
    """How many rows were measured, how many stand beside a number published of this model."""
    done = [row for row in one.rows if not row["refused"]]
    beside = sum(any(each["this_model"] for each in row["published"]) for row in done)
    said = f"{len(done)} of {len(one.rows)} rows were measured on this model"
    return (
        f"{said}; {beside or 'none'} of them stands beside a number published of it."
        if beside < 2
        else f"{said}; {beside} of them stand beside numbers published of it."
    )


def _words(one: ReplicationSummary) -> Findings:
    sentences = [
        f"{one.metric}",
        f"Measured on {one.prompts} prompts of {one.length} tokens, {one.bos} BOS at "
        "position zero.",
    ]
    sentences.append(_done(one))
    return Findings(
        visible(one.about),
        [visible(sentence) for sentence in sentences],
        limit=visible(one.differs),
        notes=[MARKS, *(visible(f"{r['name']}: {r['note']}") for r in one.rows if r["note"])],
    )
