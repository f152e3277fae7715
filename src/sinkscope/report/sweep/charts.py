"""Pictures of many runs: late share with its interval, and where position zero is raised."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from sinkscope.report import frames
from sinkscope.report.charts import (
    WIDE,
    Chart,
    by_series,
    layer,
    measured_rows,
    names_of,
    part,
    spans,
    tips,
)
from sinkscope.report.phases import span
from sinkscope.report.sweep.tables import settings_text
from sinkscope.report.text import visible
from sinkscope.schema.sweep import SweepRow

ANSWERS = {True: "sink", False: "no sink", None: "undecided"}
RAISED, STANDS, FALLS = "Is raised", "Stays", "Is taken back"
LABEL = alt.Axis(labelLimit=300)
LINE, PHASE, LEAST = 20, 14, 60  # height of a row, of a phase in it, of a picture


def label_of(row: SweepRow) -> str:
    """What a row is called in a picture."""
    parts = [visible(row.model), settings_text(row.settings), f"{row.bos} BOS"]
    return ", ".join(one for one in parts if one)


def share_chart(rows: Sequence[SweepRow]) -> Chart | None:
    """Late share of every row with its interval; a tick is that of uniform attention."""
    dots: list[frames.Row] = []
    ticks: list[frames.Row] = []
    for row in rows:
        if row.late_share is None:
            continue
        about = {"row": label_of(row), "series": ANSWERS[row.p0_sink]}
        dots += measured_rows(row.late_share, **about)
        if row.uniform_late_share is not None:
            ticks += frames.rows(row=[label_of(row)], value=[row.uniform_late_share])
    if not dots:
        return None
    names = names_of(dots, "row")
    y = alt.Y("row:N", title=None, sort=names, axis=LABEL)
    x = alt.X("value:Q", title="Late share of P0", axis=alt.Axis(format=".0%"))
    points = part(dots).mark_point(size=60, filled=True)
    points = points.encode(
        x=x,
        y=y,
        tooltip=tips(".1%", row="Run", value="Late share", low="From", high="To"),
        **by_series([one for one in ANSWERS.values() if one in names_of(dots)], "color", "shape"),
    )
    uniform = [part(ticks).mark_tick(thickness=1.5).encode(x=x, y=y)] if ticks else []
    return layer(*uniform, spans(part(dots), y=y), points, width=WIDE, height=_high(names))


def depth_chart(rows: Sequence[SweepRow]) -> Chart | None:
    """Where position zero is raised, stays and is taken back, over the depth of each model."""
    bars = [bar for row in rows for bar in _bars(row)]
    if not bars:
        return None
    names = names_of(bars, "row")
    most = len(names_of(bars, "phase"))
    scale, axis = alt.Scale(domain=[0, 1]), alt.Axis(format=".0%", tickCount=5)
    drawn = (
        part(bars)
        .mark_bar()
        .encode(
            x=alt.X("start:Q", title="Depth: part of the blocks", scale=scale, axis=axis),
            x2="stop:Q",
            y=alt.Y("row:N", title=None, sort=names, axis=LABEL),
            tooltip=tips(row="Run", series="P0", said="In"),
            **({"yOffset": alt.YOffset("phase:N")} if most > 1 else {}),
            **by_series((RAISED, STANDS, FALLS)),
        )
    )
    return layer(drawn, width=WIDE, height=_high(names, LINE if most == 1 else PHASE * most))


def _bars(row: SweepRow) -> list[frames.Row]:
    """A bar for each part of each phase; what the embedding holds is raised before block 0."""
    bars: list[frames.Row] = []
    blocks = row.blocks or 0
    for number, phase in enumerate(row.phases if blocks else (), 1):
        start, stop = max(phase["rise"][0], 0), phase["rise"][1] + 1
        end, last = phase["fall"] or (blocks, -1)
        for series, first, behind in (
            (RAISED, start, stop),
            (STANDS, stop, end),
            (FALLS, end, last + 1),
        ):
            if behind > first:
                bars += frames.rows(
                    row=[label_of(row)],
                    phase=[str(number)],
                    start=[first / blocks],
                    stop=[behind / blocks],
                    series=[series],
                    said=[f"phase {number}: {span(first, behind - 1)} of {blocks}"],
                )
    return bars


def _high(names: list[str], line: int = LINE) -> int:
    return max(LEAST, line * len(names))
