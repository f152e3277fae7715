"""The circuit as inline SVG: token zero at the bottom, blocks upwards, the sink direction as a bus.

Left, who writes what sets it apart into position zero's stream; the width of an edge is its
share, and the bus grows by what has been written so far. Right, the heads that read it: one tile a
head, filled by its late share. Colours are the page's custom properties, so that the drawing
follows its theme.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from markupsafe import Markup, escape

from sinkscope.report.circuit.picture import NAMES, Picture, PictureRow, Reader, Writer
from sinkscope.report.text import number_of, percent

WIDTH = 880
LABEL, UNIT, NODE, BUS, TILES, END = 78, 246, 334, 520, 596, 866
LINE, COMPACT, FULL = 21.0, 9.0, 26.0  # heights: a unit, a row that only reads, when few and many
MANY = 20  # from this many reading rows on they are drawn compactly
THIN, THICK = 0.8, 26.0  # width of an edge of share 0 and 1
LEAST_SHOWN = 0.0005
NODE_WIDE, NODE_HIGH = 126, 36.0
COLOURS = {"attention": "second", "mlp": "third", "other": "fourth"}


@dataclass
class _Sheet:
    """Elements by layer, so that edges lie below what they join."""

    edges: list[str] = field(default_factory=list)
    marks: list[str] = field(default_factory=list)

    def text(self, x: float, y: float, words: str, style: str = "", tip: str = "") -> None:
        self.marks.append(
            f'<text x="{x:.1f}" y="{y:.1f}" {style}{_tip(tip)}>{escape(words)}</text>'
        )


def _tip(words: str) -> str:
    return f' data-tip="{escape(words)}"' if words else ""


def share_text(share: float) -> str:
    """A share as people read it; what rounds to nothing has no sign."""
    return percent(0.0 if abs(share) < LEAST_SHOWN else share)


def width_of(share: float) -> float:
    """Width of an edge, in units of the drawing."""
    return THIN + (THICK - THIN) * min(abs(share), 1.0)


def draw(picture: Picture, title: str) -> Markup:
    """The drawing of a picture, as one <svg> element."""
    sheet = _Sheet()
    reading = sum(1 for row in picture.rows if not row.writers and not row.empty)
    only = COMPACT if reading > MANY else FULL
    heights = [_height(row, only) for row in picture.rows]
    top, foot = 60.0, 64.0
    total = top + sum(heights) + foot
    y = total - foot  # rows are laid upwards
    written = max(picture.embedding or 0.0, 0.0)
    bus = [(total - foot + 8, written)]
    for row, height in zip(picture.rows, heights):
        _label(sheet, row, y, y - height, only)
        if row.begins:
            bus.append((y - 2, written))
            written = 0.0
            bus.append((y - 6, written))
        written = _writers(sheet, row, y, written, bus)
        _readers(sheet, row, y - height / 2, only)
        y -= height
    bus.append((top - 8, written))
    _headings(sheet, picture, top)
    _token(sheet, picture, total - foot)
    return Markup(
        f'<svg class="circuit" viewBox="0 0 {WIDTH} {total:.0f}" width="{WIDTH}"'
        f' height="{total:.0f}"'
        ' xmlns="http://www.w3.org/2000/svg" role="img" font-family="var(--font)" font-size="12"'
        f' fill="var(--ink)"><title>{escape(title)}</title>'
        f'<g fill="none">{"".join(sheet.edges)}</g>{_bus(bus)}{"".join(sheet.marks)}</svg>'
    )


def _height(row: PictureRow, only: float) -> float:
    if row.empty:
        return 24.0
    if not row.writers:
        return only if not row.notes else FULL + 16 * len(row.notes)
    lines = sum(max(len(writer.units) * LINE, NODE_HIGH) + 12 for writer in row.writers)
    return max(lines + 14, FULL + 16 * len(row.notes))


def _label(sheet: _Sheet, row: PictureRow, bottom: float, top: float, only: float) -> None:
    if not (row.writers or row.empty or row.notes) and only == COMPACT:
        if row.first % 4 == 0:
            sheet.text(
                LABEL - 16, (bottom + top) / 2 + 3, str(row.first), _QUIET_END + ' font-size="9"'
            )
        return
    middle = (bottom + top) / 2
    if row.empty:
        name = f"Blocks {row.first}–{row.last}" if row.last > row.first else f"Block {row.first}"
        sheet.text(10, middle + 4, name, _QUIET)
        return
    sheet.text(10, middle + 4, f"Block {row.first}", 'font-weight="600"')
    for line, (words, tip) in enumerate(row.notes):
        style = 'fill="var(--accent)" font-size="11"'
        sheet.text(10, middle + 20 + 14 * line, words, style, tip)
    if row.writers:
        for y in (bottom, top):
            rule = f'<path d="M10 {y:.1f}H{END}" stroke="var(--line)"/>'
            if rule not in sheet.edges:
                sheet.edges.append(rule)


_QUIET = 'fill="var(--quiet)"'
_QUIET_END = 'fill="var(--quiet)" text-anchor="end"'


def _writers(
    sheet: _Sheet, row: PictureRow, bottom: float, written: float, bus: list[tuple[float, float]]
) -> float:
    """Draw a row's writers upwards from `bottom`; returns what has been written after them."""
    y = bottom - 13
    for writer in row.writers:
        high = max(len(writer.units) * LINE, NODE_HIGH)
        middle = y - high / 2
        _node(sheet, writer, row.first, middle)
        for number, unit in enumerate(writer.units):
            at = middle + (number + 0.5 - len(writer.units) / 2) * LINE
            _unit(sheet, unit.label, unit.share, unit.tip, writer.kind, at, middle)
        _edge(sheet, NODE + NODE_WIDE, middle, BUS, middle - 22, writer.share, writer.kind)
        half = width_of(writer.share) / 2
        bus.append((middle - 22 + half, written))
        written += writer.share
        bus.append((middle - 22 - half, written))
        y -= high + 12
    return written


def _node(sheet: _Sheet, writer: Writer, block: int, middle: float) -> None:
    colour = COLOURS.get(writer.kind, "fourth")
    name = NAMES.get(writer.kind, writer.kind)
    tip = f"Block {block}, {name}: {share_text(writer.share)} of what sets position zero apart"
    cut = number_of(writer.without)
    if cut is not None:
        tip += f"; without it the sink changes by {percent(cut)}"
    sheet.marks.append(
        f'<rect x="{NODE}" y="{middle - NODE_HIGH / 2:.1f}"'
        f' width="{NODE_WIDE}" height="{NODE_HIGH}"'
        f' rx="5" fill="var(--paper)" stroke="var(--{colour})" stroke-width="1.5"'
        f' tabindex="0"{_tip(tip)}/>'
    )
    at = middle + 4 if cut is None else middle - 3
    centre = 'text-anchor="middle" pointer-events="none"'
    sheet.text(NODE + NODE_WIDE / 2, at, f"{name} {share_text(writer.share)}", centre)
    if cut is not None:
        words = f"sink {percent(cut)} without"
        sheet.text(
            NODE + NODE_WIDE / 2, middle + 12, words, f'{centre} font-size="11" fill="var(--quiet)"'
        )


def _unit(
    sheet: _Sheet, label: str, share: float, tip: str, kind: str, y: float, node: float
) -> None:
    colour = COLOURS.get(kind, "fourth")
    sheet.text(UNIT - 60, y + 4, label, 'text-anchor="end"', tip)
    sheet.text(UNIT - 12, y + 4, share_text(share), f'text-anchor="end" {_QUIET}', tip)
    sheet.marks.append(
        f'<circle cx="{UNIT}" cy="{y:.1f}" r="4.5" fill="var(--{colour})"{_tip(tip)} tabindex="0"/>'
    )
    _edge(sheet, UNIT, y, NODE, node, share, kind)


def _edge(
    sheet: _Sheet, x0: float, y0: float, x1: float, y1: float, share: float, kind: str
) -> None:
    """A curve whose width is the share; dashed where it writes against the direction."""
    colour = COLOURS.get(kind, "fourth")
    against = ' stroke-dasharray="4 3"' if share <= -LEAST_SHOWN else ""
    half = (x1 - x0) / 2
    sheet.edges.append(
        f'<path d="M{x0} {y0:.1f}C{x0 + half} {y0:.1f} {x1 - half} {y1:.1f} {x1} {y1:.1f}"'
        f' stroke="var(--{colour})" stroke-opacity=".45"'
        f' stroke-width="{width_of(share):.1f}"{against}/>'
    )


def _bus(points: list[tuple[float, float]]) -> str:
    """The stream of P0 as a band as wide as what has been written so far."""
    scale = max([1e-9, *(value for _, value in points)])
    half = [(y, max(width_of(max(value, 0.0) / scale), 2.0) / 2) for y, value in points]
    right = [f"{BUS + w:.1f} {y:.1f}" for y, w in half]
    left = [f"{BUS - w:.1f} {y:.1f}" for y, w in reversed(half)]
    tip = "Position zero’s stream: its width is what has been written of what sets it apart"
    return f'<path d="M{"L".join([*right, *left])}Z" fill="var(--accent)"{_tip(tip)}/>'


def _readers(sheet: _Sheet, row: PictureRow, middle: float, only: float) -> None:
    if not row.readers or row.empty:
        return
    compact = not row.writers and only == COMPACT
    wide = min(22.0, (END - TILES - 46) / len(row.readers))
    high = 7.0 if compact else min(16.0, max(wide, 9.0))
    reading = [reader for reader in row.readers if reader.reads]
    if reading:
        mean = sum(reader.share for reader in reading) / len(reading)
        sheet.edges.append(
            f'<path d="M{BUS} {middle:.1f}H{TILES - 6}" stroke="var(--accent)" stroke-opacity=".5"'
            f' stroke-width="{0.6 + (2.4 if compact else 5) * mean:.1f}"/>'
            f'<path d="M{TILES - 9} {middle - 4:.1f}l6 4l-6 4z" fill="var(--accent)"/>'
        )
    tiles = [
        _tile(r, TILES + i * wide, middle - high / 2, wide, high) for i, r in enumerate(row.readers)
    ]
    sheet.marks.append(f'<g fill="var(--accent)" stroke="var(--accent)">{"".join(tiles)}</g>')
    if not compact:
        count = f"{len(reading)} of {len(row.readers)}"
        at = TILES + len(row.readers) * wide + 6
        sheet.text(at, middle + 4, count, f'{_QUIET} font-size="11"')


def _tile(reader: Reader, x: float, y: float, wide: float, high: float) -> str:
    gap = 1.5 if wide > 6 else 0.3
    tip = _tip(reader.tip) if reader.reads else ""
    line = ".9" if reader.reads else ".25"
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{wide - gap:.1f}" height="{high:.1f}"'
        f' fill-opacity="{reader.share:.2f}" stroke-opacity="{line}" stroke-width=".7"{tip}/>'
    )


def _headings(sheet: _Sheet, picture: Picture, top: float) -> None:
    for x, words, below in (
        (UNIT, "Who writes what sets it apart", picture.whole),
        (BUS, "Position zero’s stream", "as wide as what was written so far"),
        ((TILES + END) / 2, "Which heads read it", picture.sink),
    ):
        sheet.text(x, top - 40, words, 'text-anchor="middle" font-weight="600"')
        sheet.text(x, top - 24, below, f'text-anchor="middle" font-size="11" {_QUIET}')


def _token(sheet: _Sheet, picture: Picture, y: float) -> None:
    """Token zero, at the foot of the bus."""
    words = f"position zero: {picture.start}"
    wide = 9 * min(len(words), 34) * 0.72 + 24
    share, tip = "", ""
    if picture.embedding is not None:
        share = f"embedding {share_text(picture.embedding)}"
        tip = (
            f"The embedding makes {share_text(picture.embedding)} of what sets position zero apart"
        )
    sheet.marks.append(
        f'<rect x="{BUS - wide / 2:.1f}" y="{y + 10:.1f}" width="{wide:.1f}" height="28" rx="14"'
        f' fill="var(--paper)" stroke="var(--accent)" stroke-width="1.5"{_tip(tip)} tabindex="0"/>'
    )
    shown = words if len(words) <= 34 else words[:33] + "…"
    sheet.text(BUS, y + 28, shown, 'text-anchor="middle" pointer-events="none"')
    sheet.text(BUS, y + 54, share, f'text-anchor="middle" font-size="11" {_QUIET}')
