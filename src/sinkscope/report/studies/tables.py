"""Tables of an experiment: measured numbers over seeds beside the published ones."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

from sinkscope.detect.heads import CLASS_MEANINGS
from sinkscope.lab.studies.summary import STREAM
from sinkscope.report.frames import HEAD_CLASSES
from sinkscope.report.parts import Table, table_of
from sinkscope.report.text import NO_VALUE, minus, number_of, short, visible, with_interval

NOT_RUN = "not run"
BOS = {"with": "BOS put first", "without": "text only"}
SHORT = {"with": "BOS, text", "without": "text"}
CLASSES = dict(zip(CLASS_MEANINGS.split(), HEAD_CLASSES, strict=True))
SIGNED = {  # figure -> what it is called, its unit as a factor, digits of a difference
    "sink_rate_0.3": ("sink rate ε 0.3, points", 100, 1),
    "late_share": ("late share, points", 100, 1),
    "best_head": ("late share of the best head, points", 100, 1),
    "loss": ("loss, nats", 1, 3),
    "norm_ratio": ("norm of P0, ×", 1, 2),
    "massive": ("max abs. x at P0, ×", 1, 1),
    "read_norm": ("norm of P0 as read, ×", 1, 2),
    "read_outlier": ("max abs. x at P0 as read, ×", 1, 1),
    "dominance": ("max over mean abs. x at P0 as read", 1, 1),
}


Row = dict[str, Any]  # of a cell and BOS policy


def _ran(show: Callable[[Row], str]) -> Callable[[Row], str]:
    """How a row is shown, which says so where no seed of it was run."""
    return lambda row: show(row) if row["seeds"] else NOT_RUN


def _figure(show: Callable[[Any], str], name: str) -> Callable[[Row], str]:
    return _ran(lambda row: show(row["figures"][name]))


NAMED: dict[str, Callable[[Row], str]] = {
    "Cell": lambda row: visible(row["cell"]),
    "Measured with": lambda row: BOS[row["bos"]],
}


def measured_table(summary: dict[str, Any]) -> Table:
    """A row a cell and BOS policy: sink, loss, and what was published."""
    columns = {
        "Seeds": lambda row: str(len(row["seeds"])),
        "Sink rate ε 0.3, %": _figure(share, "sink_rate_0.3"),
        "Sink rate ε 0.8, %": _figure(share, "sink_rate_0.8"),
        "Late share, %": _figure(share, "late_share"),
        "Loss, nats": _figure(nats, "loss"),
        "Published: sink %": lambda row: _published(row["published"], "sink_rate"),
        "Published: loss": lambda row: _published(row["published"], "loss"),
    }
    numeric = set(range(2, 9))
    return table_of("Measured beside published", summary["rows"], NAMED | columns, numeric)


def short_table(summary: dict[str, Any]) -> Table:
    """Sink rate and loss alone, for a terminal."""
    columns = {
        "Cell": NAMED["Cell"],
        "With": lambda row: SHORT[row["bos"]],
        "Sink rate ε 0.3, %": _figure(share, "sink_rate_0.3"),
        "Loss, nats": _figure(nats, "loss"),
    }
    return table_of("Measured", summary["rows"], columns, {2, 3})


def needs_table(rows: list[Any]) -> Table:
    """What every run of a cell takes, from `sinkscope.lab.studies.needs`."""
    columns = {
        "Cell": lambda row: visible(row.cell),
        "Parameters": lambda row: f"{row.parameters:,}",
        "Steps": lambda row: f"{row.steps:,}",
        "Tokens": lambda row: f"{row.tokens:,}",
        "GiB a process": lambda row: short(row.gib),
    }
    return table_of("One run of each cell", rows, columns, {1, 2, 3, 4})


def stream_table(summary: dict[str, Any]) -> Table:
    """A row a cell and BOS policy: position zero in the stream, and as blocks read it."""
    titles = (
        *("Norm of P0, ×", "Max abs. x at P0, ×"),
        *("As blocks read it: norm, ×", "max abs. x, ×", "max over mean abs. x"),
    )
    columns = {title: _figure(ratio, name) for title, name in zip(titles, STREAM, strict=True)}
    return table_of("Position zero", summary["rows"], NAMED | columns, set(range(2, 7)))


def heads_table(summary: dict[str, Any]) -> Table:
    """A row a cell and BOS policy: the strongest head, what it does, and what a scan says."""
    columns = {
        "Late share of the best head, %": _figure(share, "best_head"),
        "Best head": _ran(lambda row: _classes(row["best_head_class"])),
        "A sink, says scan": _ran(lambda row: f"in {row['found_sink']} of {len(row['seeds'])}"),
    }
    return table_of("Heads", summary["rows"], NAMED | columns, {2})


def _classes(counts: dict[str, int]) -> str:
    """What the best head is, commonest first, and in how many runs."""
    order = sorted(counts.items(), key=lambda one: (-one[1], one[0]))
    return ", ".join(f"{CLASSES[name]} {count}" for name, count in order) or NO_VALUE


def signs_table(summary: dict[str, Any]) -> Table:
    """A row a published direction: what was expected, the difference found, and what that says."""
    columns = {
        "Cell": lambda row: visible(f"{row['cell']}, {SHORT[row['bos']]}"),
        "Against": lambda row: visible(f"{row['than']}, {SHORT[row['than_bos'] or row['bos']]}"),
        "Figure": lambda row: SIGNED[row["figure"]][0],
        "Published": lambda row: visible(f"{row['expected']}: {row['says']} {row['mark']}"),
        "Difference": lambda row: signed(row["change"], *SIGNED[row["figure"]][1:]),
        "Found": lambda row: row["found"],
    }
    return table_of("Published directions", summary["signs"], columns, {4})


def short_signs_table(summary: dict[str, Any]) -> Table:
    """The same for a terminal, without what was published in words."""
    whole = signs_table(summary)
    rows = [
        [cell, figure, sign["expected"], difference, found]
        for (cell, _, figure, _, difference, found), sign in zip(whole.rows, summary["signs"])
    ]
    return Table(whole.title, ["Cell", "Figure", "Published", "Difference", "Found"], rows, {3})


def cells_table(summary: dict[str, Any]) -> Table:
    """The settings in which cells differ, and how much each was trained."""

    def trained(one: dict[str, Any], show: Callable[[], str]) -> str:
        return NOT_RUN if one["parameters"] is None else show()

    columns = {
        "Cell": lambda one: visible(one["cell"]),
        "Settings": lambda one: visible(_settings(one["settings"])) or NO_VALUE,
        "Parameters": lambda one: trained(one, lambda: f"{one['parameters']:,}"),
        "Steps": lambda one: f"{one['steps']:,}",
        "Tokens": lambda one: f"{one['tokens']:,}",
        "Sink from step": lambda one: trained(one, lambda: _sink_from(one["sink_from"])),
    }
    return table_of("Cells", summary["cells"], columns, {2, 3, 4, 5})


def _sink_from(steps: list[int | None]) -> str:
    """Median and range over the runs that came to have a sink, and how many did."""
    found = [step for step in steps if step is not None]
    if not found:
        return f"in 0 of {len(steps)}"
    return (
        f"{median(found):,.0f} ({min(found):,} to {max(found):,}), in {len(found)} of {len(steps)}"
    )


def matched_table(summary: dict[str, Any]) -> Table:
    """The sink-matched control: differences to the control where the curves meet."""
    held = summary["matched"] or {"rows": []}
    none = held["rows"] and not number_of(held["sink_rate"])
    columns = {
        "Cell": lambda row: visible(row["cell"]),
        "Loss at equal sink": lambda row: (
            "no sink to match" if none else _matched(row, "loss", 1, 3)
        ),
        "Sink points at equal loss": lambda row: _matched(row, "sink_rate", 100, 1),
    }
    return table_of("At equal sink rate and at equal loss", held["rows"], columns, {1, 2})


def _matched(row: dict[str, Any], name: str, scale: float, digits: int) -> str:
    """A difference to the control, and in how many seeds the curves meet where not in all."""
    met, seeds = row[f"{name}_met"], row["seeds"]
    if not met:
        return "never meet"
    shown = signed(row[name], scale, digits)
    return shown if met == seeds else f"{shown}, {met} of {seeds} seeds"


def share(measured: Any) -> str:
    """A share in percent with its interval."""
    return with_interval(measured, lambda value: f"{100 * value:.1f}")


def nats(measured: Any) -> str:
    """A loss with its interval."""
    return with_interval(measured, lambda value: f"{value:.3f}")


def ratio(measured: Any) -> str:
    """A ratio with its interval."""
    return with_interval(measured, short)


def signed(measured: Any, scale: float, digits: int) -> str:
    """A difference with its sign and interval."""
    return with_interval(measured, lambda value: minus(f"{scale * value:+.{digits}f}"))


def _published(rows: list[dict[str, Any]], figure: str) -> str:
    """A published number with its mark, and with its threshold where that is not 0.3."""
    shown = []
    for row in rows:
        if row[figure] is not None:
            shown.append(f"{row[figure]:g}{_threshold(row, figure)} {row['mark']}")
        elif row["says"] and figure == "sink_rate":
            shown.append(f"{row['says']} {row['mark']}")
    return visible("; ".join(shown)) or NO_VALUE


def _threshold(row: dict[str, Any], figure: str) -> str:
    if figure != "sink_rate" or row["eps"] == 0.3:
        return ""
    return f" (ε {row['eps']:g})" if row["eps"] else " (ε not known)"


def _settings(settings: dict[str, Any]) -> str:
    return ", ".join(f"{key} {_plain(value)}" for key, value in settings.items())


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "/".join(map(str, value)) if isinstance(value, list) else str(value)
