"""What the drawing of a circuit says, before any geometry: rows of blocks, writers and readers.

The share of a writer is its part of all that sets position zero apart for the sink heads, as
`trace` reports it; where position zero rises more than once, its part of what the rise of its phase
writes. Blocks that neither write nor read are left out together.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from xarray import DataArray

from sinkscope.report import frames
from sinkscope.report.phases import phases_of, span
from sinkscope.report.text import number_of, percent, short, visible
from sinkscope.result import Measured, Result, TraceSummary

LEAST = 0.01  # writers below this share are not drawn
NEEDED = 0.2  # unless the sink changes by this much without them
MOST_UNITS = 6  # units of one sublayer that are drawn one by one
NAMES = {"attention": "attention", "mlp": "MLP", "other": "mixer"}


@dataclass
class Unit:
    """A head, neuron or expert that writes; `tip` is what it says when pointed at."""

    label: str
    share: float
    tip: str


@dataclass
class Writer:
    """A sublayer of a block with the units in it that make its output.

    without  change of the sink when this output at P0 is ablated (-1 is gone), where tested
    """

    kind: str
    share: float
    units: list[Unit] = field(default_factory=list)
    without: Measured | None = None


@dataclass
class Reader:
    """A head: its late share of P0, whether it counts as reading, and its tip."""

    share: float
    reads: bool
    tip: str


@dataclass
class PictureRow:
    """A block, or several neighbouring ones (first..last) in which nothing happens.

    notes   what happens to P0 in it: a few words, and what they mean
    begins  whether a later phase begins here, so that what was written counts anew
    """

    first: int
    last: int
    writers: list[Writer] = field(default_factory=list)
    readers: list[Reader] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)
    begins: bool = False

    @property
    def empty(self) -> bool:
        """Whether nothing is written or read here."""
        reads = any(reader.reads for reader in self.readers)
        return not (self.writers or self.notes or reads)


@dataclass
class _Written:
    """Who writes along one direction: sublayer -> share, and [block, unit, share] of the units."""

    shares: dict[str, float]
    neurons: list[Any]
    heads: list[Any]
    experts: list[Any] = field(default_factory=list)


@dataclass
class Picture:
    """Everything in the drawing: what stands at position zero, rows in block order, the sink.

    embedding  its share; None where each phase has shares of its own
    whole      what a share is a share of
    """

    start: str
    embedding: float | None
    rows: list[PictureRow]
    sink: str
    whole: str


def picture_of(result: Result, bos: str) -> Picture | None:
    """The picture of a traced circuit; None where nothing writes and nothing reads."""
    trace = result.summary.trace[bos]
    late = late_shares(result, bos)
    blocks = len(late) if late is not None else 1 + _last_block(trace)
    margins = frames.group(result, "trace", bos).get("margin")
    rows = [_row(result, bos, block, late, margins) for block in range(blocks)]
    if all(row.empty for row in rows):
        return None
    scan = result.summary.scan.get(bos)
    held = "any first token"
    if scan is not None and len(scan.position_zero) == 1:
        held = visible(scan.position_zero[0].rsplit(" × ", 1)[0])
    share = number_of(scan.late_share) if scan is not None else None
    sink = f"{percent(share)} of all late attention" if share is not None else ""
    several = phases_of(trace)
    whole = "what its phase writes, or takes back" if several else "all that adds to it"
    return Picture(
        start=held,
        embedding=None if several else trace.write_shares.get("embedding", 0.0),
        rows=_folded(rows),
        sink=sink,
        whole=f"share of {whole}",
    )


def _written(trace: TraceSummary) -> list[_Written]:
    """Who writes along the sink direction, or along that of each phase."""
    shares = trace.writing_neuron_shares or [0.0] * len(trace.writing_neurons)
    neurons = [[*at, share] for at, share in zip(trace.writing_neurons, shares)]
    if not phases_of(trace):
        experts = trace.writing_experts
        return [_Written(trace.write_shares, neurons, trace.writing_heads, experts)]
    return [
        _Written(
            {str(name): float(share) for name, share in (*row["writers"], *row["takers"])},
            row["writing_neurons"],
            row["writing_heads"],
        )
        for row in trace.phases
    ]


def late_shares(result: Result, bos: str) -> np.ndarray | None:
    """[block, head] late share of P0, from the trace or from a scan beside it."""
    for command, name in (("trace", "late"), ("scan", "p0_late")):
        data = frames.group(result, command, bos)
        if name not in data:
            continue
        if command == "trace":
            return np.asarray(data[name].values, dtype=np.float64)
        share, at = frames.late_share(data), frames.blocks(data)
        spread = np.full((int(data.sizes.get("point", at[-1] + 2)) - 1, share.shape[1]), np.nan)
        spread[at] = share
        return spread
    return None


def _last_block(trace: TraceSummary) -> int:
    named = [int(name.split(".")[0]) for name in trace.write_shares if name[0].isdigit()]
    reading = [block for block, _ in trace.reading_heads]
    return max([0, *named, *reading])


def _row(
    result: Result, bos: str, block: int, late: np.ndarray | None, margins: DataArray | None
) -> PictureRow:
    trace = result.summary.trace[bos]
    row = PictureRow(block, block, notes=_notes(trace, block), begins=_begins(trace, block))
    written = _written(trace)
    for name in dict.fromkeys([*trace.write_shares, *(n for one in written for n in one.shares)]):
        place, _, kind = name.partition(".")
        if place != str(block):
            continue
        cut = without(result, bos, block, kind)
        found = [one for one in written if name in one.shares]
        for one in found:
            share = one.shares[name]
            units = _units(one, block, kind, share)
            if abs(share) >= LEAST or units or abs(number_of(cut) or 0.0) >= NEEDED:
                row.writers.append(Writer(kind, share, units, cut))
        if not found and abs(number_of(cut) or 0.0) >= NEEDED:
            row.writers.append(Writer(kind, 0.0, [], cut))
    reading = {head for place, head in trace.reading_heads if place == block}
    if late is not None:
        for head, share in enumerate(late[block]):
            if np.isfinite(share):
                tip = f"Block {block}, head {head}: {percent(float(share))} of its late attention"
                if margins is not None:
                    tip += f", sink margin {short(float(margins.values[block, head]))} nats"
                row.readers.append(Reader(float(share), head in reading, tip))
    else:
        row.readers = [
            Reader(1.0, True, f"Block {block}, head {head} attends to P0")
            for head in sorted(reading)
        ]
    return row


def _units(written: _Written, block: int, kind: str, total: float) -> list[Unit]:
    """The named units of a sublayer, largest first, and one for all the others together."""
    found: list[tuple[str, float]] = []
    if kind == "attention":
        found = [(f"head {h}", s) for b, h, s in written.heads if b == block]
    elif kind == "mlp":
        experts = [(e, s) for b, e, s in written.experts if b == block]
        neurons = [(n, s) for b, n, s in written.neurons if b == block]
        if experts:
            inside = f"neurons {', '.join(str(n) for n, _ in neurons[:8])}" if neurons else ""
            return _shown([(f"expert {e}", s) for e, s in experts], block, total, inside)
        found = [(f"neuron {n}", s) for n, s in neurons]
    return _shown(found, block, total)


def _shown(
    found: list[tuple[str, float]], block: int, total: float, inside: str = ""
) -> list[Unit]:
    ranked = sorted(found, key=lambda item: -abs(item[1]))
    named = ranked[:MOST_UNITS]
    units = [
        Unit(
            label,
            share,
            f"Block {block}, {label}: {percent(share)} of what sets position zero apart"
            + (f" ({inside})" if inside else ""),
        )
        for label, share in named
    ]
    rest = total - sum(share for _, share in named)
    if named and abs(rest) >= LEAST:
        left = len(ranked) - len(named)
        label = f"{left} more" if left else "all others"
        units.append(Unit(label, rest, f"Block {block}, everything else: {percent(rest)}"))
    return units


def without(result: Result, bos: str, block: int, kind: str) -> Measured | None:
    """Change of the sink (through P0's key) with this output at P0 ablated, where tested."""
    verified = result.summary.verify.get(bos)
    wanted = {"attention": "N1", "mlp": "N3"}.get(kind)
    for test in verified.tests if verified is not None else ():
        if test.id == wanted and test.block == block:
            return test.key_change or test.sink_change
    return None


def _folded(rows: list[PictureRow]) -> list[PictureRow]:
    """Neighbouring rows in which nothing happens become one."""
    folded: list[PictureRow] = []
    for row in rows:
        if row.empty and folded and folded[-1].empty:
            folded[-1].last = row.last
        else:
            folded.append(PictureRow(row.first, row.last) if row.empty else row)
    return folded


def _notes(trace: TraceSummary, block: int) -> list[tuple[str, str]]:
    """What happens to P0 in a block, in words."""
    notes = []
    several = phases_of(trace)
    for number, row in enumerate(several, 1):
        if row["emergence_block"] == block:
            tip = f"Emergence block of phase {number}: its output carries it over half of its rise"
            notes.append((f"phase {number} rises", tip))
        if row["fall"] is not None and row["fall"][0] == block:
            tip = f"Phase {number} is taken back in {span(*row['fall'])}"
            notes.append((f"phase {number} falls", tip))
    if trace.emergence_block == block and not several:
        notes.append(
            ("P0 separated", "The emergence block (l*): its output separates position zero")
        )
    point = trace.recognition_point or ""
    if point.startswith(f"{block}.") or point == f"x{block + 1}":
        tip = "From here on position zero can be separated from others, whatever the tokens are"
        notes.append(("P0 recognised", tip))
    return notes


def _begins(trace: TraceSummary, block: int) -> bool:
    """Whether a phase but the first begins to rise in this block."""
    return any(row["rise"][0] == block for row in phases_of(trace)[1:])
