"""Phases of position zero: where it rises more than once, who writes, takes back and reads in each.

Sentences for page and terminal, and marks over the depth for charts of its norm.
"""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from sinkscope.report import frames
from sinkscope.report.charts import HEIGHT, by_series, part, tips
from sinkscope.report.text import counted, percent, sublayer
from sinkscope.result import TraceSummary
from sinkscope.schema.trace import PhaseRow

RISES, READ, FALLS = "Rises", "Is read", "Is taken back"
HALF_READ = 0.2  # of a block: what reads one input only is seen too
RUG = 5  # height of the bar that marks the reading blocks


def phases_of(trace: TraceSummary) -> list[PhaseRow]:
    """The phases, where there is more than one: a single one is the circuit itself."""
    return trace.phases if len(trace.phases) > 1 else []


def span(first: int, last: int) -> str:
    """Blocks from first to last, in words."""
    return f"block {first}" if first == last else f"blocks {first}–{last}"


def written_by(name: str) -> str:
    """A sublayer such as 1.mlp, in words."""
    if "." not in name:
        return f"the {name}"
    block, kind = name.split(".", 1)
    return f"the {sublayer(kind)} of block {block}"


def phase_lines(trace: TraceSummary) -> list[str]:
    """A line a phase, where position zero rises more than once."""
    return [_line(number, row) for number, row in enumerate(phases_of(trace), 1)]


def _line(number: int, row: PhaseRow) -> str:
    said = "the embedding holds it"
    if row["rise"][0] >= 0:
        one = row["rise"][0] == row["rise"][1]
        said = f"{span(*row['rise'])} write{'s' if one else ''} it{_shares(row['writers'])}"
    end = "it lasts to the end"
    if row["fall"] is not None:
        one = row["fall"][0] == row["fall"][1]
        end = f"{span(*row['fall'])} take{'s' if one else ''} it back{_shares(row['takers'])}"
    told = "; no other is read by more sink heads, so all other figures are of this one"
    return f"Phase {number}: {said}, {_read(row)}, {end}{told if row['most_read'] else ''}."


def _shares(rows: Sequence[Sequence[str | float]]) -> str:
    """Sublayers and their parts of what was written or taken back, in brackets."""
    said = [f"{written_by(str(name))} {percent(abs(float(share)))}" for name, share in rows]
    return f" ({', '.join(said)})" if said else ""


def _read(row: PhaseRow) -> str:
    blocks = [block for block, _ in row["reading_heads"]]
    if not blocks:
        return "no head reads it"
    reads = "reads" if len(blocks) == 1 else "read"
    return (
        f"{counted(len(blocks), 'head')} of {span(min(blocks), max(blocks))} {reads} it "
        f"({len(row['sink_heads'])} as sink heads)"
    )


def phase_marks(rows: Sequence[PhaseRow]) -> list[alt.Chart]:
    """Marks for a chart over block inputs: bands of rise and fall, and a bar where heads read."""
    bands: list[frames.Row] = []
    read: list[frames.Row] = []
    for number, row in enumerate(rows, 1):
        blocks = [block for block, _ in row["reading_heads"]]
        spans = [(bands, RISES, row["rise"], _shares(row["writers"]))]
        if row["fall"] is not None:
            spans.append((bands, FALLS, row["fall"], _shares(row["takers"])))
        if blocks:
            spans.append((read, READ, [min(blocks), max(blocks)], f" ({len(blocks)} heads)"))
        for into, what, (first, last), who in spans:
            if (
                first >= 0
            ):  # a write goes from its block's input to the next, a read is of the input
                into += frames.rows(
                    start=[first - HALF_READ if into is read else first],
                    stop=[last + HALF_READ if into is read else last + 1],
                    series=[what],
                    said=[f"phase {number}: {span(first, last)}{who}"],
                )
    colours = by_series((RISES, READ, FALLS))
    ends = {"x": "start:Q", "x2": "stop:Q", "tooltip": tips(series=" ", said="In")}
    drawn = [part(bands).mark_rect(opacity=0.18).encode(**ends, **colours)] if bands else []
    if read:
        rug = {"y": alt.value(HEIGHT - RUG), "y2": alt.value(HEIGHT)}
        drawn.append(part(read).mark_rect().encode(**ends, **rug, **colours))
    return drawn
