"""The page of a sweep, and of any folder of runs."""

from __future__ import annotations

from collections.abc import Sequence

from sinkscope.report.page import Heading, render_sections, settings_table
from sinkscope.report.parts import Part, Plot, Section, Tables, Words, plots, present
from sinkscope.report.sweep import charts, tables, words
from sinkscope.report.text import visible
from sinkscope.result import REPORT
from sinkscope.schema.sweep import SweepRow, SweepSummary

PANEL = ""
RUNS = "runs"  # folder of the runs, beside the page
SHARE = Plot(
    "late-share",
    "Late share of position zero",
    "Attention that later queries give position zero, mean over heads, with its 95 % interval over "
    "prompts; the tick is uniform attention.",
    charts.share_chart,
    wide=True,
)
DEPTH = Plot(
    "depth",
    "Where position zero is raised",
    "A bar a phase, over the depth of each model: the blocks that raise position zero, those in "
    "which it stays so, and those that take it back.",
    charts.depth_chart,
    wide=True,
)


def render_sweep(summary: SweepSummary) -> str:
    """One offline page of a sweep; each row leads to the report of its run beside it."""
    heading = Heading(
        "Sweep", visible(summary.name), f"{words.measured(summary)} {_facts(summary)}"
    )
    pages = {row.run: f"{RUNS}/{row.run}/{REPORT}" for row in summary.rows}
    shown = sections(summary.rows, pages)
    if overview := words.findings(summary):
        parts: list[Part] = [Words({PANEL: overview})]
        if failures := present([tables.failed(summary)]):
            parts.append(Tables({PANEL: failures}))
        shown.insert(0, Section("overview", "What the runs found", "", parts))
    provenance = {
        "sinkscope": summary.sinkscope,
        "torch": summary.torch,
        "transformers": summary.transformers,
        "threads": summary.threads,
        **summary.settings,
    }
    table = settings_table("Of all runs alike", provenance)
    about = (
        "The rest is in each run's own report. Times are in times.csv: they differ at every run."
    )
    shown.append(Section("settings", "Settings and provenance", about, [Tables({PANEL: [table]})]))
    return render_sections(heading, shown, summary.sinkscope)


def render_index(name: str, rows: Sequence[SweepRow], pages: dict[str, str], version: str) -> str:
    """The page of a folder of runs."""
    heading = Heading("Runs in", visible(name), f"{len({row.run for row in rows})} runs.")
    return render_sections(heading, sections(rows, pages), version)


def sections(rows: Sequence[SweepRow], pages: dict[str, str]) -> list[Section]:
    """Families side by side, pictures, and every run."""
    if not rows:
        return []
    together: list[Part] = [
        Tables({PANEL: [tables.families(rows)]}),
        *plots({PANEL: rows}, SHARE, DEPTH),
    ]
    every: list[Part] = [tables.index(rows, pages)]
    if parts := present([tables.incomplete(rows)]):
        every.append(Tables({PANEL: parts}))
    lead = "A click on a heading sorts; the fields filter. A model's name leads to its report."
    return [
        Section("families", "Families side by side", "", together),
        Section("runs", "Every run", lead, every),
    ]


def _facts(summary: SweepSummary) -> str:
    what = "Scanned, traced and tested" if summary.do == "run" else "Scanned"
    return f"{what} with torch {summary.torch} and transformers {summary.transformers}."
