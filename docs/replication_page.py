"""The replications as a Markdown page: what each does, and every published number with its mark."""

from __future__ import annotations

from sinkscope.replications.base import Replication, ReplicationRow
from sinkscope.report.replications.page import printed


def replication_list(replications: dict[str, Replication]) -> list[str]:
    """A table with a line for each replication."""
    lines = ["| Replication | What | Paper | Prompts | Numbers for |", "|---|---|---|---|---|"]
    for name, one in replications.items():
        options = one.prompts
        prompts = f"{options['n']} × {options['length']} tokens, BOS {options['bos']}"
        models = ", ".join(model.id.rpartition("/")[2] for model in one.checkpoints) or "–"
        row = f"[`{name}`](#{name})", one.title, one.paper, prompts, models
        lines.append(f"| {' | '.join(row)} |")
    return lines


def replication_section(replication: Replication) -> list[str]:
    """The rows of a replication, with what was published for each."""
    lines = [
        f"## {replication.name}",
        "",
        f"{replication.title}. {replication.paper}.",
        "",
        replication.metric,
    ]
    if replication.differs:
        lines += ["", replication.differs]
    lines += ["", "| Row | What is done | Published |", "|---|---|---|"]
    for row in replication.rows:
        name = row.name + (" (control)" if row.control else "")
        lines.append(f"| {row.key} | {name} | {_published(row)} |")
    return lines


def _published(row: ReplicationRow) -> str:
    """quantity: number of a checkpoint, mark; .."""
    by_quantity: dict[str, list[str]] = {}
    for one in row.published:
        model = one.checkpoint.id.rpartition("/")[2]
        by_quantity.setdefault(one.of, []).append(f"{printed(one.value)} {model} {one.mark}")
    return "<br>".join(f"{of}: {'; '.join(found)}" for of, found in by_quantity.items()) or "–"
