"""Runs side by side: headline numbers with differences, and where the late share moved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from sinkscope.report import commands, frames
from sinkscope.report.differences import (
    beyond_noise,
    done_differently,
    run_name,
    run_names,
    shared_policies,
)
from sinkscope.report.mixing import page as mixing_page
from sinkscope.report.parts import Headline, Part, Section, Table, Tables
from sinkscope.report.scan import figures as scan_figures
from sinkscope.report.text import (
    NO_VALUE,
    as_shown,
    bounds_of,
    percent,
    percent_change,
    points,
    short,
    visible,
)
from sinkscope.result import Result
from sinkscope.schema import ScanSummary
from sinkscope.stats import difference

Compared: TypeAlias = "tuple[Table, str]"  # and what follows from it
BOTH = ("with", "without")
# of the headline numbers, those of the small tables in a terminal
MATTER = ("Late share of P0", "Sink heads", "Emergence block", "Verdict", "Sink used")
COST = "What BOS costs or saves in nats: sinkscope advise --questions bos."


def comparison(result: Result, *others: Result) -> Section:
    """One table of headline numbers a shared BOS policy; beside one other run differences too.

    Runs that have mixed are also drawn over the depth of their models.
    """
    runs = [result, *others]
    shared = shared_policies(result, *others)
    if all(run.summary.timeline for run in runs):
        shared.append("")
    found = {bos: _of_runs(bos, runs, commands.headlines(runs, bos)) for bos in shared}
    filled = {bos: [table] for bos, table in found.items() if table.rows}
    two = len(others) == 1
    lead = f"{run_name(result)} beside {', '.join(map(run_name, others))}."
    maps: list[Part] = []
    no_maps = ""
    if two:
        lead += f" Differences are the first minus the second. {done_differently(result, *others)}"
        drawn, no_maps = scan_figures.comparison(result, others[0])
        maps = [*drawn]
    noise, said = beyond_noise(result, others[0]) if two else (Table("", []), "")
    if not shared and not noise.rows:
        lead += f" {said or 'These runs share no BOS policy, so nothing is compared.'}"
    elif shared and not filled:
        lead += f" {'The two' if two else 'These'} runs share no command, so nothing is compared."
    elif no_maps:
        lead += f" {no_maps}"
    maps += mixing_page.comparison([(visible(run.summary.model.id), run) for run in runs])
    parts: list[Part] = [Tables(filled), *maps] if filled else []
    if noise.rows:
        parts.insert(1, Tables({"": [noise]}))
    return Section(
        "compare",
        f"Compared with {'another run' if two else 'other runs'}",
        lead,
        parts,
        {"": said or f"{len(runs)} runs side by side."} if parts else {},
        "Beside another run",
        unfolded=True,
    )


def policies_compared(result: Result) -> list[Compared]:
    """One run under two BOS policies: the numbers that matter most, and a sentence on the sink."""
    if not {*BOTH} <= {*frames.policies(result)}:
        return []
    headlines = [_that_matter(commands.headlines([result], bos)[0]) for bos in BOTH]
    table = _table("With BOS and without", [frames.label(bos) for bos in BOTH], headlines)
    scans = result.summary.scan
    said = _late_share(scans.get("with"), scans.get("without"), "With BOS", "without")
    return [(table, f"{said} {COST}".strip())]


def runs_compared(result: Result, *others: Result) -> list[Compared]:
    """Runs beside each other under each BOS policy they share, in the numbers that matter most."""
    made = []
    for bos in shared_policies(result, *others):
        headlines = [*map(_that_matter, commands.headlines([result, *others], bos))]
        table = _of_runs(bos, [result, *others], headlines)
        scans = [run.summary.scan.get(bos) for run in (result, *others)]
        here, there = run_names(result, *others)[:2]
        named = here != "This run"
        said = _late_share(
            scans[0],
            scans[1],
            f"In {here if named else 'this run'}",
            f"in {there if named else 'the other'}",
        )
        made += [(table, said if len(others) == 1 else "")] if table.rows else []
    if len(others) == 1:
        table, said = beyond_noise(result, *others)
        made.append((table, f"{said} {done_differently(result, *others)}"))
    return made


def _that_matter(headline: Headline) -> Headline:
    return {name: headline[name] for name in MATTER if name in headline}


def _late_share(one: ScanSummary | None, other: ScanSummary | None, here: str, there: str) -> str:
    """Whether position zero draws more or less here than there; empty where that is not known."""
    if one is None or other is None:
        return ""
    change = difference(one.late_share, other.late_share)
    if change.value is None:
        return ""
    bounds = bounds_of(change)
    low, high = map(points, bounds or (0.0, 0.0))
    interval = f"95\u00a0% interval {low} to {high} points" if bounds else "without an interval"
    if bounds and bounds[0] <= 0 <= bounds[1]:
        return f"{here} the late share is not shown to differ from that {there} ({interval})."
    size, way = _difference("share", one.late_share.value, other.late_share.value), "lower"
    if size.startswith("+"):
        way = "higher"
    return f"{here} the late share is {size.lstrip('+−')} {way} than {there} ({interval})."


def _of_runs(bos: str, runs: Sequence[Result], headlines: Sequence[Headline]) -> Table:
    return _table(frames.label(bos) or "Over training", run_names(*runs), headlines)


def _table(title: str, columns: list[str], headlines: Sequence[Headline]) -> Table:
    """A row a number; two columns are followed by their difference."""
    two = len(columns) == 2
    table = Table(title, ["", *columns, *(["Difference"] if two else [])])
    table.numeric = set(range(1, len(table.columns)))
    for name in dict.fromkeys(key for headline in headlines for key in headline):
        if sum(headline.get(name, ("", None))[1] is not None for headline in headlines) < 2:
            continue  # what one run alone has is compared with nothing
        kind = next(headline[name][0] for headline in headlines if name in headline)
        values = [headline.get(name, (kind, None))[1] for headline in headlines]
        cells = [NO_VALUE if value is None else _SHOWN[kind](value) for value in values]
        table.rows.append([name, *cells, *([_difference(kind, *values)] if two else [])])
    return table


_SHOWN: dict[str, Callable[[Any], str]] = {
    "share": percent,
    "change": percent_change,
    "count": "{:.0f}".format,
    "ratio": short,
    "word": visible,
}


def _difference(kind: str, left: Any, right: Any) -> str:
    """Left minus right, of both as they are shown; kind is one of `_SHOWN`."""
    if kind == "word":
        return "same" if left == right else "differs"
    if left is None or right is None:
        return NO_VALUE
    if kind in ("share", "change"):
        return f"{points(as_shown(left, True) - as_shown(right, True))} points"
    change = as_shown(left) - as_shown(right)
    size = _SHOWN[kind](abs(change))
    sign = "" if float(size.replace(",", "")) == 0 else "+" if change > 0 else "−"
    return f"{sign}{size}"
