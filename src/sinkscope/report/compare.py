"""Runs side by side: headline numbers with differences, and where the late share moved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sinkscope.report import commands, frames
from sinkscope.report.mixing import page as mixing_page
from sinkscope.report.parts import Headline, Part, Section, Table, Tables
from sinkscope.report.scan import figures as scan_figures
from sinkscope.report.text import NO_VALUE, bounds_of, percent, short, visible
from sinkscope.result import Result
from sinkscope.stats import nan_mean, unpaired_change

BOTH = ("with", "without")
# of the headline numbers, those of the small table of two BOS policies
MATTER = ("Late share of P0", "Sink heads", "Emergence block", "Verdict", "Sink used")
COST = "What BOS costs or saves in nats: sinkscope advise --questions bos."


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
    found = {bos: _of_runs(bos, runs) for bos in shared}
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


def policies_compared(result: Result) -> tuple[Table, str] | None:
    """One run under two BOS policies: the numbers that matter most, and a sentence on the sink."""
    if not {*BOTH} <= {*frames.policies(result)}:
        return None
    headlines = [
        {name: all_[name] for name in MATTER if name in all_}
        for all_ in (commands.headlines([result], bos)[0] for bos in BOTH)
    ]
    columns = [frames.label(bos) for bos in BOTH]
    table = _table("With BOS and without", columns, headlines)
    return table, _said(result)


def _said(result: Result) -> str:
    """Whether position zero draws more or less with BOS; the prompts are others, so not paired."""
    if len(result.summary.scan) < 2:
        return COST
    data = frames.datasets(result)
    shares = [nan_mean(data[bos]["p0_late"].values, (1, 2)) for bos in BOTH]
    change = unpaired_change(*shares)
    if change.value is None:
        return COST
    bounds = bounds_of(change)
    low, high = (f"{100 * bound:+.1f}".replace("-", "−") for bound in bounds or (0.0, 0.0))
    interval = f"95\u00a0% interval {low} to {high} points" if bounds else "without an interval"
    if bounds and bounds[0] <= 0 <= bounds[1]:
        return f"That BOS changes the late share is not shown ({interval}). {COST}"
    size, way = f"{100 * abs(change.value):.1f} points", "higher" if change.value > 0 else "lower"
    return f"With BOS the late share is {size} {way} than without ({interval}). {COST}"


def _of_runs(bos: str, runs: Sequence[Result]) -> Table:
    others = ["Other run"] if len(runs) == 2 else [run_name(run) for run in runs[1:]]
    title = frames.label(bos) or "Over training"
    return _table(title, ["This run", *others], commands.headlines(runs, bos))


def _table(title: str, columns: list[str], headlines: Sequence[Headline]) -> Table:
    """A row a number; two columns are followed by their difference."""
    two = len(columns) == 2
    table = Table(title, ["", *columns, *(["Difference"] if two else [])])
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
