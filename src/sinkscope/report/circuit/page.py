"""What `trace` found: the circuit as a drawing, and the stages behind it."""

from __future__ import annotations

from collections.abc import Callable

from markupsafe import Markup

from sinkscope.report import frames
from sinkscope.report.charts import Chart
from sinkscope.report.circuit import charts as circuit_charts
from sinkscope.report.circuit import figures as circuit_figures
from sinkscope.report.circuit import tables as circuit_tables
from sinkscope.report.circuit import words as circuit_words
from sinkscope.report.circuit.drawing import draw, draw_narrow
from sinkscope.report.circuit.picture import Picture, picture_of
from sinkscope.report.parts import (
    Drawing,
    Findings,
    Headline,
    Part,
    Section,
    Words,
    concluded,
    plots,
)
from sinkscope.report.parts import tables as tables_of
from sinkscope.report.text import counted, number_of
from sinkscope.result import Result

CAPTION = (
    "Read upwards: position zero's stream rises through the blocks. From the left, who writes "
    "what sets it apart, edges as wide as their share (dashed: against it); where that was "
    "tested, a box says how the sink changes when that output is ablated. To the right, one tile "
    "a head, filled by its late share of position zero, framed where it is a sink head. Where "
    "position zero rises more than once, shares are parts of what the rise of a phase writes, "
    "along the direction of that phase, and the stream begins anew with each. Point at anything, "
    "or move to it with the Tab key, for its numbers."
)


def sections(result: Result) -> list[Section]:
    """The circuit and its stages; none where nothing was traced."""
    traced = result.summary.trace
    if not traced:
        return []
    held = {bos: (one, frames.group(result, "trace", bos)) for bos, one in traced.items()}
    planned = [
        Section(
            "circuit",
            "The circuit",
            "",
            _circuit(result),
            {bos: circuit_words.sentences(one)[0] for bos, one in traced.items()},
        ),
        *(
            Section(
                name,
                title,
                lead,
                [*plots(held, *planned)],
                concluded(circuit_words.CONCLUDED[name], traced),
            )
            for name, title, lead, planned in circuit_figures.SECTIONS
        ),
    ]
    return planned


def _circuit(result: Result) -> list[Part]:
    traced = result.summary.trace
    parts: list[Part] = [Words({bos: _findings(result, bos) for bos in traced})]
    drawn = drawings(result)
    if drawn:
        parts.append(
            Drawing(
                "circuit",
                "How position zero becomes a sink",
                CAPTION,
                drawn,
                drawings(result, draw_narrow),
            )
        )
    return [*parts, *tables_of(traced, circuit_tables.writers_tables)]


def drawings(result: Result, draw: Callable[[Picture, str], Markup] = draw) -> dict[str, Markup]:
    """The drawing of every BOS policy that has something to draw."""
    pictures = {bos: picture_of(result, bos) for bos in result.summary.trace}
    return {
        bos: draw(picture, f"Circuit of the sink, {frames.label(bos)}")
        for bos, picture in pictures.items()
        if picture is not None
    }


def findings(result: Result, bos: str) -> Findings | None:
    """What was traced under one BOS policy, for a terminal."""
    if bos not in result.summary.trace:
        return None
    found = _findings(result, bos)
    trace = result.summary.trace[bos]
    found.answers = circuit_words.answers(trace)
    found.tables = [
        table
        for table in (*circuit_tables.writers_tables(trace), circuit_tables.readers_table(trace))
        if table.rows
    ]
    return found


def _findings(result: Result, bos: str) -> Findings:
    trace = result.summary.trace[bos]
    headline, *sentences = circuit_words.sentences(trace)
    limit = "" if result.summary.verify else circuit_words.NOT_SHOWN
    return Findings(headline, sentences, circuit_words.key_figures(trace), limit, trace.notes)


def headline(result: Result, bos: str) -> Headline:
    """What two traces are compared by."""
    trace = result.summary.trace[bos]
    block = trace.emergence_block
    numbers: Headline = {
        "Emergence block": ("word", "none" if block is None else str(block)),
        "Amplified in": ("word", trace.amplification or "nothing"),
        "Recognised from": ("word", trace.recognition_point or "never"),
        "Writing neurons": ("count", trace.k90),
        "Sink heads": ("count", len(trace.reading_heads)),
        "Vocabulary that ends on the sink's side": ("share", number_of(trace.spike_ratio)),
    }
    for name, value in trace.concentration.items():
        said = f"C{'₀₁₂₃₄'[int(name)]}, first {counted(int(name), 'block')}"
        numbers[said] = ("share", number_of(value))
    return numbers


def main_chart(result: Result, bos: str) -> Chart | None:
    """Who writes what sets position zero apart, block by block."""
    return circuit_charts.shares_chart(
        result.summary.trace[bos], frames.group(result, "trace", bos)
    )
