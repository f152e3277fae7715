"""Tables of an experiment: measured numbers over seeds beside the published ones."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

from sinkscope.detect.heads import CLASS_MEANINGS
from sinkscope.lab.studies.summary import STREAM
from sinkscope.report.frames import HEAD_CLASSES
from sinkscope.report.parts import Table
from sinkscope.report.text import NO_VALUE, bounds_of, number_of, short, visible

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


def measured_table(summary: dict[str, Any]) -> Table:
    """A row a cell and BOS policy: sink, loss, and what was published."""
    table = Table(
        "Measured beside published",
        [
            *("Cell", "Measured with", "Seeds", "Sink rate ε 0.3, %", "Sink rate ε 0.8, %"),
            *("Late share, %", "Loss, nats", "Published: sink %", "Published: loss"),
        ],
        numeric=set(range(2, 9)),
    )
    for row in summary["rows"]:
        figures = row["figures"]
        cells = [visible(row["cell"]), BOS[row["bos"]], str(len(row["seeds"]))]
        if row["seeds"]:
            shares = ("sink_rate_0.3", "sink_rate_0.8", "late_share")
            cells += [share(figures[name]) for name in shares] + [nats(figures["loss"])]
        else:
            cells += [NOT_RUN] * 4
        cells += [_published(row["published"], name) for name in ("sink_rate", "loss")]
        table.rows.append(cells)
    return table


def short_table(summary: dict[str, Any]) -> Table:
    """Sink rate and loss alone, for a terminal."""
    table = Table("Measured", ["Cell", "With", "Sink rate ε 0.3, %", "Loss, nats"], numeric={2, 3})
    for row in summary["rows"]:
        figures = row["figures"]
        cells = [share(figures["sink_rate_0.3"]), nats(figures["loss"])]
        table.rows.append(
            [visible(row["cell"]), SHORT[row["bos"]], *(cells if row["seeds"] else [NOT_RUN] * 2)]
        )
    return table


def needs_table(rows: list[Any]) -> Table:
    """What every run of a cell takes, from `sinkscope.lab.studies.needs`."""
    table = Table(
        "One run of each cell",
        ["Cell", "Parameters", "Steps", "Tokens", "GiB a process"],
        numeric={1, 2, 3, 4},
    )
    for row in rows:
        numbers = [f"{n:,}" for n in (row.parameters, row.steps, row.tokens)]
        table.rows.append([visible(row.cell), *numbers, short(row.gib)])
    return table


def stream_table(summary: dict[str, Any]) -> Table:
    """A row a cell and BOS policy: position zero in the stream, and as blocks read it."""
    return _rows(
        summary,
        "Position zero",
        [
            *("Norm of P0, ×", "Max abs. x at P0, ×"),
            *("As blocks read it: norm, ×", "max abs. x, ×", "max over mean abs. x"),
        ],
        lambda row: [ratio(row["figures"][name]) for name in STREAM],
        numeric=5,
    )


def heads_table(summary: dict[str, Any]) -> Table:
    """A row a cell and BOS policy: the strongest head, what it does, and what a scan says."""
    return _rows(
        summary,
        "Heads",
        ["Late share of the best head, %", "Best head", "A sink, says scan"],
        lambda row: [
            share(row["figures"]["best_head"]),
            _classes(row["best_head_class"]),
            f"in {row['found_sink']} of {len(row['seeds'])}",
        ],
        numeric=1,
    )


def _rows(
    summary: dict[str, Any],
    title: str,
    columns: list[str],
    cells: Callable[[dict[str, Any]], list[str]],
    numeric: int,
) -> Table:
    """A row a cell and BOS policy; the first `numeric` of the columns hold numbers."""
    named = ["Cell", "Measured with", *columns]
    table = Table(title, named, numeric=set(range(2, 2 + numeric)))
    for row in summary["rows"]:
        made = cells(row) if row["seeds"] else [NOT_RUN] * len(columns)
        table.rows.append([visible(row["cell"]), BOS[row["bos"]], *made])
    return table


def _classes(counts: dict[str, int]) -> str:
    """What the best head is, commonest first, and in how many runs."""
    order = sorted(counts.items(), key=lambda one: (-one[1], one[0]))
    return ", ".join(f"{CLASSES[name]} {count}" for name, count in order) or NO_VALUE


def signs_table(summary: dict[str, Any]) -> Table:
    """A row a published direction: what was expected, the difference found, and what that says."""
    table = Table(
        "Published directions",
        ["Cell", "Against", "Figure", "Published", "Difference", "Found"],
        numeric={4},
    )
    for row in summary["signs"]:
        name, scale, digits = SIGNED[row["figure"]]
        other = row["than_bos"] or row["bos"]
        table.rows.append(
            [
                visible(f"{row['cell']}, {SHORT[row['bos']]}"),
                visible(f"{row['than']}, {SHORT[other]}"),
                name,
                visible(f"{row['expected']}: {row['says']} {row['mark']}"),
                signed(row["change"], scale, digits),
                row["found"],
            ]
        )
    return table


def short_signs_table(summary: dict[str, Any]) -> Table:
    """The same for a terminal, without what was published in words."""
    table = Table(
        "Published directions", ["Cell", "Figure", "Published", "Difference", "Found"], numeric={3}
    )
    whole = signs_table(summary)
    for row, sign in zip(whole.rows, summary["signs"], strict=True):
        cell, _, figure, _, difference, found = row
        table.rows.append([cell, figure, sign["expected"], difference, found])
    return table


def cells_table(summary: dict[str, Any]) -> Table:
    """The settings in which cells differ, and how much each was trained."""
    table = Table(
        "Cells",
        ["Cell", "Settings", "Parameters", "Steps", "Tokens", "Sink from step"],
        numeric={2, 3, 4, 5},
    )
    for one in summary["cells"]:
        settings = ", ".join(f"{key} {_plain(value)}" for key, value in one["settings"].items())
        parameters = one["parameters"]
        table.rows.append(
            [
                visible(one["cell"]),
                visible(settings) or NO_VALUE,
                NOT_RUN if parameters is None else f"{parameters:,}",
                f"{one['steps']:,}",
                f"{one['tokens']:,}",
                NOT_RUN if parameters is None else _sink_from(one["sink_from"]),
            ]
        )
    return table


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
    held = summary["matched"]
    table = Table(
        "At equal sink rate and at equal loss",
        ["Cell", "Loss at equal sink", "Sink points at equal loss"],
        numeric={1, 2},
    )
    for row in held["rows"] if held else []:
        no_sink = not number_of(held["sink_rate"])
        table.rows.append(
            [
                visible(row["cell"]),
                "no sink to match" if no_sink else _matched(row, "loss", 1, 3),
                _matched(row, "sink_rate", 100, 1),
            ]
        )
    return table


def _matched(row: dict[str, Any], name: str, scale: float, digits: int) -> str:
    """A difference to the control, and in how many seeds the curves meet where not in all."""
    met, seeds = row[f"{name}_met"], row["seeds"]
    if not met:
        return "never meet"
    shown = signed(row[name], scale, digits)
    return shown if met == seeds else f"{shown}, {met} of {seeds} seeds"


def share(measured: Any) -> str:
    """A share in percent with its interval."""
    return _with_interval(measured, lambda value: f"{100 * value:.1f}")


def nats(measured: Any) -> str:
    """A loss with its interval."""
    return _with_interval(measured, lambda value: f"{value:.3f}")


def ratio(measured: Any) -> str:
    """A ratio with its interval."""
    return _with_interval(measured, short)


def signed(measured: Any, scale: float, digits: int) -> str:
    """A difference with its sign and interval."""
    return _with_interval(measured, lambda value: f"{scale * value:+.{digits}f}".replace("-", "−"))


def _with_interval(measured: Any, show: Any) -> str:
    value, ends = number_of(measured), bounds_of(measured)
    if value is None:
        return NO_VALUE
    return show(value) if ends is None else f"{show(value)} ({show(ends[0])} to {show(ends[1])})"


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


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return "/".join(map(str, value))
    return (
        {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)
    )
