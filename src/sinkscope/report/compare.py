"""Two runs side by side: headline numbers with differences, and where the late share moved."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sinkscope.report import commands, frames, scan_figures
from sinkscope.report.parts import Headline, Part, Section, Tables
from sinkscope.report.tables import Table
from sinkscope.report.text import NO_VALUE, percent, short, visible

if TYPE_CHECKING:
    from sinkscope.result import Result


def comparison(result: Result, against: Result) -> Section:
    """One table of headline numbers a shared BOS policy, and difference maps."""
    here, there = frames.policies(result), frames.policies(against)
    shared = [bos for bos in here if bos in there]
    if result.summary.timeline and against.summary.timeline:
        shared.append("")
    found = {bos: _table(bos, *commands.headlines(result, against, bos)) for bos in shared}
    filled = {bos: [table] for bos, table in found.items() if table.rows}
    maps, no_maps = scan_figures.comparison(result, against)
    lead = f"This run beside {run_name(against)}. Differences are this run minus the other."
    if not shared:
        lead += " The two runs share no BOS policy, so nothing can be compared."
    elif not filled:
        lead += " The two runs share no command, so nothing can be compared."
    elif no_maps:
        lead += f" {no_maps}"
    parts: list[Part] = [Tables(filled), *maps] if filled else []
    return Section("compare", "Compared with another run", lead, parts)


def run_name(result: Result) -> str:
    """Model id and revision of a run."""
    model = result.summary.model
    revision = f" @ {visible(model.revision)}" if model.revision else ""
    return f"{visible(model.id)}{revision} ({visible(result.summary.environment.dtype)})"


def _table(bos: str, ours: Headline, theirs: Headline) -> Table:
    columns = ["", "This run", "Other run", "Difference"]
    table = Table(frames.label(bos) or "Over training", columns, numeric={1, 2, 3})
    for name in [*ours, *(key for key in theirs if key not in ours)]:
        kind = (ours.get(name) or theirs[name])[0]
        left, right = (side.get(name, (kind, None))[1] for side in (ours, theirs))
        table.rows.append([name, *_cells(kind, left, right)])
    return table


_SHOWN: dict[str, Callable[[Any], str]] = {
    "share": percent,
    "count": "{:.0f}".format,
    "ratio": short,
    "word": visible,
}


def _cells(kind: str, left: Any, right: Any) -> list[str]:
    """Both values and their difference; kind is share, count, ratio or word."""
    show = _SHOWN[kind]
    shown = [NO_VALUE if value is None else show(value) for value in (left, right)]
    if kind == "word":
        return [*shown, "same" if left == right else "differs"]
    if left is None or right is None:
        return [*shown, NO_VALUE]
    difference = left - right
    size = f"{100 * abs(difference):.1f}" if kind == "share" else show(abs(difference))
    sign = "" if float(size.replace(",", "")) == 0 else "+" if difference > 0 else "−"
    return [*shown, f"{sign}{size}{' points' if kind == 'share' else ''}"]
