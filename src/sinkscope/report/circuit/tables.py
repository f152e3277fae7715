"""Tables of a trace: who writes and who reads."""

from __future__ import annotations

from sinkscope.report.circuit.words import basis
from sinkscope.report.parts import Table
from sinkscope.report.text import percent, ranges, sublayer, visible
from sinkscope.result import TraceSummary

MOST = 12  # rows; the summary holds all


def writers_tables(trace: TraceSummary) -> list[Table]:
    """Sublayers and units that write what sets position zero apart, largest first."""
    return [_sublayers(trace), _units(trace)]


def _sublayers(trace: TraceSummary) -> Table:
    table = Table(f"Who writes {basis(trace)}", ["Block", "Part", "Share"], numeric={0, 2})
    ranked = sorted(trace.write_shares.items(), key=lambda item: -abs(item[1]))
    for name, share in ranked[:MOST]:
        if abs(share) < 0.0005:
            break
        block, _, kind = name.partition(".")
        known = [block, sublayer(kind)] if kind else ["–", visible(name)]
        table.rows.append([*known, percent(share)])
    return table


def _units(trace: TraceSummary) -> Table:
    table = Table("Heads, neurons and experts that do", ["Block", "Unit", "Share"], numeric={0, 2})
    shares = trace.writing_neuron_shares or [float("nan")] * len(trace.writing_neurons)
    found: list[tuple[float, str, float]]
    found = [(b, f"neuron {n}", s) for (b, n), s in zip(trace.writing_neurons, shares)]
    found += [(b, f"head {h}", s) for b, h, s in trace.writing_heads]
    found += [(b, f"expert {e} (holds them)", s) for b, e, s in trace.writing_experts]
    ranked = sorted(found, key=lambda item: -abs(item[2]) if item[2] == item[2] else 0.0)
    table.rows = [[str(b), name, percent(s)] for b, name, s in ranked[:MOST]]
    if len(ranked) > MOST:
        table.title += f" ({MOST} of {len(ranked)})"
    return table


def readers_table(trace: TraceSummary) -> Table:
    """Sink heads, block by block."""
    table = Table("Sink heads, which read it", ["Block", "Heads"], numeric={0})
    for block in sorted({block for block, _ in trace.reading_heads}):
        heads = [head for place, head in trace.reading_heads if place == block]
        table.rows.append([str(block), ranges(heads)])
    return table
