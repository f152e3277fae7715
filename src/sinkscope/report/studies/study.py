"""The study page of an experiment: Markdown with pictures, from raw results and nothing else."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

from sinkscope.errors import InputError
from sinkscope.files import fill_folder
from sinkscope.lab.studies.plan import SIZES
from sinkscope.lab.studies.results import read_results
from sinkscope.lab.studies.summary import summary
from sinkscope.report.export import chart_job
from sinkscope.report.parts import Figure, Table
from sinkscope.report.renderer import draw
from sinkscope.report.replications.page import MARKS
from sinkscope.report.studies import tables, words
from sinkscope.report.studies.page import figures, render_experiment
from sinkscope.report.text import visible

Held = tuple[dict[str, Any], list[dict[str, Any]]]


def write_study(folders: list[Path], out: Path) -> Path:
    """Write NAME.md, its pictures and NAME.html into `out`, from runs of one experiment.

    folders: one a size, each the --out of `sinkscope lab run`. Returns the Markdown page.

    Errors: InputError for a folder that holds no experiment, or two that do not belong together.
    """
    held = _read(folders)
    name = held[0][0]["experiment"]
    pictures = {
        f"{name}-{figure.name}.svg": chart
        for one in held
        for figure in _figures(one)
        for chart in figure.variants[0].charts.values()
    }
    page, html = study_page(held), render_experiment(held)
    jobs = {file: chart_job(chart.to_dict(), "svg") for file, chart in pictures.items()}

    def fill(place: Path) -> None:
        for kind, text in (("md", page), ("html", html)):
            (place / f"{name}.{kind}").write_text(text, encoding="utf-8", errors="replace")
        draw(jobs, place)

    return fill_folder(out, fill) / f"{name}.md"


def _read(folders: list[Path]) -> list[Held]:
    found = [read_results(folder) for folder in folders]
    held = [(summary(results), results.curves) for results in found]
    names = sorted({one["experiment"] for one, _ in held})
    if len(names) > 1:
        raise InputError(
            f"{names[0]} and {names[1]} are two experiments: one page, one experiment."
        )
    sizes = [one["size"] for one, _ in held]
    if len(set(sizes)) < len(sizes):
        raise InputError("Two of the folders hold the same size: give one folder a size.")
    return sorted(held, key=lambda one: SIZES.index(one[0]["size"]))


def study_page(held: list[Held]) -> str:
    """The Markdown of a study; a size that was not run says so."""
    first = held[0][0]
    about, name = first["about"], first["experiment"]
    by_size = {one["size"]: (one, curves) for one, curves in held}
    parts = [
        f"# {_escaped(words.title(first))}",
        _wrapped(
            "Written by `sinkscope lab study` from the raw results of "
            f"`sinkscope lab run {visible(name)}`. Published: {visible(about['source'])}."
        ),
        _wrapped(f"**Question.** {visible(about['question'])}"),
    ]
    for size in SIZES:
        if size not in about.get("sizes", SIZES):
            continue  # the experiment has no such size
        parts.append(f"## {words.SIZES[size]}")
        if size in by_size:
            parts += _size(*by_size[size])
        else:
            parts.append(f"Not run.\n\n{_command(name, f'--size {size} --corpus PATH')}")
    return "\n\n".join(part for part in parts if part) + "\n"


def _size(one: dict[str, Any], curves: list[dict[str, Any]]) -> list[str]:
    name = visible(one["experiment"])
    parts = [
        _command(
            name,
            visible(one["about"]["options"]).replace("`", "")
            + ("" if one["excerpt"] else " --corpus PATH"),
        ),
        _wrapped(f"{words.run_sentence(one)} {words.interval_sentence(one)} {MARKS}"),
        *(_table(make(one)) for make in (tables.measured_table, tables.heads_table)),
        _wrapped(words.BEST_HEAD),
        _table(tables.stream_table(one)),
        _wrapped(words.AS_READ),
        *_signs(one),
        *(f"![{figure.title}]({name}-{figure.name}.svg)" for figure in _figures((one, curves))),
        _table(tables.cells_table(one)),
        _wrapped(words.SINK_FROM),
    ]
    if one["matched"]:
        parts += [
            "### At equal sink rate and at equal loss",
            *map(_wrapped, words.matched_sentences(one)),
            _table(tables.matched_table(one)),
        ]
    limits = "\n".join(_wrapped(f"- {said}", "  ") for said in words.limits(one))
    return [*parts, "What this cannot show:", limits]


def _signs(one: dict[str, Any]) -> list[str]:
    table = tables.signs_table(one)
    return [_table(table), _wrapped(words.SIGNS)] if table.rows else []


def _command(name: str, options: str) -> str:
    return f"```\nsinkscope lab run {visible(name)} {options} --out DIR\n```"


def _figures(held: Held) -> list[Figure]:
    return [part for part in figures(*held) if isinstance(part, Figure)]


def _table(table: Table) -> str:
    rule = ["---:" if i in table.numeric else "---" for i in range(len(table.columns))]
    lines = [table.columns, rule, *table.rows]
    return "\n".join(
        "| " + " | ".join(_escaped(c).replace("|", "\\|") for c in line) + " |" for line in lines
    )


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(" ".join(_escaped(text).split(" ")).strip(), 100, subsequent_indent=indent)


def _escaped(text: str) -> str:
    """Text in which nothing is HTML, links to nothing and draws no picture: it may be anyone's."""
    return re.sub(r"\](?=[(\[])", "\\]", text.replace("&", "&amp;").replace("<", "&lt;"))
