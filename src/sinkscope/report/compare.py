"""Two runs side by side: headline numbers with differences, and where the late share moved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sinkscope.report import charts, frames
from sinkscope.report.embed import spec_of
from sinkscope.report.sections import Figure, Section, Variant
from sinkscope.report.tables import Table
from sinkscope.report.text import NO_VALUE, number_of, percent, short, visible
from sinkscope.report.words import LIMITS, heads_above_random, sink_heads

if TYPE_CHECKING:
    from xarray import Dataset

    from sinkscope.result import Result, ScanSummary


def comparison(result: Result, against: Result) -> tuple[Section, list[Table]]:
    """The section with difference maps, and one table of headline numbers a shared BOS policy."""
    here, there = frames.datasets(result), frames.datasets(against)
    shared = [bos for bos in here if bos in there]
    made = [(result.summary.scan[bos], here[bos]) for bos in shared]
    other = [(against.summary.scan[bos], there[bos]) for bos in shared]
    found = [_table(bos, *pair) for bos, pair in zip(shared, zip(made, other))]
    drawn = {bos: charts.difference_chart(here[bos], there[bos]) for bos in shared}
    specs = {bos: spec_of(chart) for bos, chart in drawn.items() if chart is not None}
    lead = f"This run beside {run_name(against)}. Differences are this run minus the other."
    if not shared:
        lead += " The two runs share no BOS policy, so nothing can be compared."
    elif not specs:
        lead += " The models differ in blocks or heads, so heads cannot be matched one to one."
    section = Section("compare", "Compared with another run", lead)
    if specs:
        caption = "Late share of every head in this run minus the other. Neutral: no change."
        section.figures = [
            Figure("difference", "Change, head by head", [Variant("", caption, specs)], wide=True)
        ]
    return section, found


def run_name(result: Result) -> str:
    """Model id and revision of a run."""
    model = result.summary.model
    revision = f" @ {visible(model.revision)}" if model.revision else ""
    return f"{visible(model.id)}{revision} ({visible(result.summary.environment.dtype)})"


def _table(bos: str, here: Any, there: Any) -> Table:
    title = frames.POLICIES.get(bos, visible(bos))
    table = Table(title, ["", "This run", "Other run", "Difference"], numeric={1, 2, 3})
    ours, theirs = _headline(*here), _headline(*there)
    for name in [*ours, *(key for key in theirs if key not in ours)]:
        kind = (ours.get(name) or theirs[name])[0]
        left, right = (side.get(name, (kind, None))[1] for side in (ours, theirs))
        table.rows.append([name, *_cells(kind, left, right)])
    return table


def _cells(kind: str, left: float | None, right: float | None) -> list[str]:
    """Both values and their difference; kind is share, count or ratio."""
    show = {"share": percent, "count": "{:.0f}".format, "ratio": short}[kind]
    shown = [NO_VALUE if value is None else show(value) for value in (left, right)]
    if left is None or right is None:
        return [*shown, NO_VALUE]
    difference = left - right
    size = f"{100 * abs(difference):.1f}" if kind == "share" else show(abs(difference))
    sign = "" if float(size.replace(",", "")) == 0 else "+" if difference > 0 else "−"
    return [*shown, f"{sign}{size}{' points' if kind == 'share' else ''}"]


def _headline(scan: ScanSummary, data: Dataset) -> dict[str, tuple[str, float | None]]:
    """Label -> kind and value of the numbers that two runs are compared by."""
    shares = {
        "Late share of P0": number_of(scan.late_share),
        "Late share under uniform attention": scan.uniform_late_share,
        **{f"Sink rate, ε = {visible(eps)}": number_of(r) for eps, r in scan.sink_rate.items()},
        "Heads above random targets": heads_above_random(data),
    }
    for name, label in (("learned_mass", "a learned sink"), ("elsewhere_mass", "sinks elsewhere")):
        if frames.has(data, name):
            shares[f"Mass on {label}"] = float(frames.nanmean(data[name].values))
    numbers: dict[str, tuple[str, float | None]] = {k: ("share", v) for k, v in shares.items()}
    numbers[f"Heads with a late share above {LIMITS.head_share}"] = ("count", len(sink_heads(data)))
    if frames.has(data, "norm_ratio"):
        ratio = frames.nanmedian(data["norm_ratio"].values, axis=0)
        numbers["Largest norm of P0 over the median"] = ("ratio", float(np.nanmax(ratio)))
    return numbers
