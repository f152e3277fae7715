"""Runs side by side: headline numbers with differences, and where the late share moved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sinkscope.report import commands, frames
from sinkscope.report.mixing import page as mixing_page
from sinkscope.report.parts import Headline, Part, Section, Table, Tables
from sinkscope.report.scan import figures as scan_figures
from sinkscope.report.text import NO_VALUE, percent, short, visible
from sinkscope.result import Result


def comparison(result: Result, *others: Result) -> Section:
    """One table of headline numbers a shared BOS policy; beside one other run differences too.

    Runs that have mixed are also drawn over the depth of their models.
    """
    runs = [result, *others]
    shared = [
        bos
        for bos in frames.policies(result)
        if all(bos in frames.policies(other) for other in others)
    ]
    if all(run.summary.timeline for run in runs):
        shared.append("")
    found = {bos: _table(bos, runs, commands.headlines(runs, bos)) for bos in shared}
    filled = {bos: [table] for bos, table in found.items() if table.rows}
    two = len(others) == 1
    lead = f"This run beside {', '.join(map(run_name, others))}."
    maps: list[Part] = []
    no_maps = ""
    if two:
        lead += " Differences are this run minus the other."
        drawn, no_maps = scan_figures.comparison(result, others[0])
        maps = [*drawn]
    which = "The two runs" if two else "These runs"
    if not shared:
        lead += f" {which} share no BOS policy, so nothing can be compared."
    elif not filled:
        lead += f" {which} share no command, so nothing can be compared."
    elif no_maps:
        lead += f" {no_maps}"
    maps += mixing_page.comparison([(visible(run.summary.model.id), run) for run in runs])
    parts: list[Part] = [Tables(filled), *maps] if filled else []
    return Section(
        "compare", f"Compared with {'another run' if two else 'other runs'}", lead, parts
    )


def run_name(result: Result) -> str:
    """Model id and revision of a run."""
    model = result.summary.model
    revision = f" @ {visible(model.revision)}" if model.revision else ""
    return f"{visible(model.id)}{revision} ({visible(result.summary.environment.dtype)})"


def _table(bos: str, runs: Sequence[Result], headlines: Sequence[Headline]) -> Table:
    two = len(runs) == 2
    others = ["Other run", "Difference"] if two else [run_name(run) for run in runs[1:]]
    table = Table(frames.label(bos) or "Over training", ["", "This run", *others])
    table.numeric = set(range(1, len(table.columns)))
    for name in dict.fromkeys(key for headline in headlines for key in headline):
        kind = next(headline[name][0] for headline in headlines if name in headline)
        values = [headline.get(name, (kind, None))[1] for headline in headlines]
        cells = [NO_VALUE if value is None else _SHOWN[kind](value) for value in values]
        table.rows.append([name, *cells, *([_difference(kind, *values)] if two else [])])
    return table


_SHOWN: dict[str, Callable[[Any], str]] = {
    "share": percent,
    "count": "{:.0f}".format,
    "ratio": short,
    "word": visible,
}


def _difference(kind: str, left: Any, right: Any) -> str:
    """Left minus right; kind is share, count, ratio or word."""
    if kind == "word":
        return "same" if left == right else "differs"
    if left is None or right is None:
        return NO_VALUE
    difference = left - right
    size = f"{100 * abs(difference):.1f}" if kind == "share" else _SHOWN[kind](abs(difference))
    sign = "" if float(size.replace(",", "")) == 0 else "+" if difference > 0 else "−"
    return f"{sign}{size}{' points' if kind == 'share' else ''}"
