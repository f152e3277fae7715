"""An experiment as sections of an offline page: tables beside the published numbers, curves."""

from __future__ import annotations

from functools import partial
from typing import Any

from sinkscope.report.page import Heading, render_sections
from sinkscope.report.parts import Findings, Part, Plot, Section, Tables, Words, plots, present
from sinkscope.report.replications.page import MARKS
from sinkscope.report.studies import charts, tables, words
from sinkscope.report.text import visible

PANEL = ""
TABLES = (
    tables.measured_table,
    tables.signs_table,
    tables.heads_table,
    tables.stream_table,
)


def render_experiment(sizes: list[tuple[dict[str, Any], list[dict[str, Any]]]]) -> str:
    """One HTML page of an experiment: a section a size, from (summary, curves)."""
    first = sizes[0][0]
    about = first["about"]
    heading = Heading(
        "Experiment",
        words.title(first),
        f"{visible(about['question'])} {visible(about['source'])}.",
    )
    versions = {version for summary, _ in sizes for version in summary["provenance"]["sinkscope"]}
    shown = [section for summary, curves in sizes for section in sections(summary, curves)]
    return render_sections(heading, shown, ", ".join(sorted(versions)) or "?")


def sections(summary: dict[str, Any], curves: list[dict[str, Any]]) -> list[Section]:
    """The section of one size, and that of its sink-matched control."""
    size = summary["size"]
    found = Findings(
        words.run_sentence(summary),
        [said for said in [words.interval_sentence(summary)] if said],
        limit=" ".join(words.limits(summary)),
        notes=[MARKS, words.BEST_HEAD, words.AS_READ, words.SIGNS, words.SINK_FROM],
    )
    parts: list[Part] = [
        Words({PANEL: found}),
        Tables({PANEL: present([make(summary) for make in TABLES])}),
        *figures(summary, curves),
        Tables({PANEL: [tables.cells_table(summary)]}),
    ]
    made = [Section(f"experiment-{size}", words.SIZES[size], "", parts)]
    if rows := present([tables.matched_table(summary)]):
        said = " ".join(words.matched_sentences(summary))
        made.append(
            Section(
                f"matched-{size}", "At equal sink and at equal loss", said, [Tables({PANEL: rows})]
            )
        )
    return made


def figures(summary: dict[str, Any], curves: list[dict[str, Any]]) -> list[Part]:
    """Rates beside published ones, and the two curves."""
    size, cells = summary["size"], [one["cell"] for one in summary["cells"]]
    rates = Plot(
        f"rates-{size}",
        "Sink rate of every cell",
        "Share of windows and heads whose first key receives more than 0.3 of the attention; "
        "bars are 95 % intervals over seeds.",
        charts.rates_chart,
        wide=True,
    )
    over_training = (
        Plot(
            f"{'loss' if name == 'loss' else 'sink'}-{size}",
            f"{label} over training",
            "Each line is a run, measured as it was trained: with BOS put first where it was "
            "trained with one.",
            partial(charts.curve_chart, cells=cells, figure=name),
            wide=True,
        )
        for name, (label, _) in charts.CURVES.items()
    )
    return [*rates.on({PANEL: summary}), *plots({PANEL: curves}, *over_training)]
