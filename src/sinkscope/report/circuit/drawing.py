"""The circuit as inline SVG: token zero at the bottom, blocks upwards, the sink direction as a bus.

Left, who writes what sets it apart into position zero's stream; the width of an edge is its
share, and the bus grows by what has been written so far. Right, the heads that read it: one tile a
head, filled by its late share. Colours are the page's custom properties, so that the drawing
follows its theme.
"""

from __future__ import annotations

from markupsafe import Markup, escape

from sinkscope.report.circuit.layout import NARROW, Layout, Sheet, tip_of
from sinkscope.report.circuit.picture import NAMES, Picture, PictureRow, Reader, Writer
from sinkscope.report.text import number_of, percent, percent_change

LINE, COMPACT, FULL = 21.0, 9.0, 26.0  # heights: a unit, a row that only reads, when few and many
MANY = 20  # from this many reading rows on they are drawn compactly
THIN, THICK = 0.8, 26.0  # width of an edge of share 0 and 1
LEAST_SHOWN = 0.0005
NODE_HIGH = 36.0
COLOURS = {"attention": "second", "mlp": "third", "other": "fourth"}


def share_text(share: float) -> str:
    """A share as people read it; what rounds to nothing has no sign."""
    return percent(0.0 if abs(share) < LEAST_SHOWN else share)


def width_of(share: float) -> float:
    """Width of an edge, in units of the drawing."""
    return THIN + (THICK - THIN) * min(abs(share), 1.0)


def draw(picture: Picture, title: str) -> Markup:
    """The drawing of a picture, as one <svg> element."""
    return _drawn(picture, title, Layout(), "circuit")


def draw_narrow(picture: Picture, title: str) -> Markup:
    """The same for a screen that is as narrow as a phone's."""
    return _drawn(picture, title, NARROW, "circuit-narrow")


def _drawn(picture: Picture, title: str, layout: Layout, name: str) -> Markup:
    sheet = Sheet(layout)
    reading = sum(1 for row in picture.rows if not row.writers and not row.empty)
    only = COMPACT if reading > MANY else FULL
    heights = [_height(row, only, layout.over) for row in picture.rows]
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
        f'<svg class="{name}" viewBox="0 0 {sheet.at.width} {total:.0f}" width="{sheet.at.width}"'
        f' height="{total:.0f}"'
        ' xmlns="http://www.w3.org/2000/svg" role="img" font-family="var(--font)" font-size="12"'
        f' fill="var(--ink)"><title>{escape(title)}</title>'
        f'<g fill="none">{"".join(sheet.edges)}</g>{_bus(sheet, bus)}{"".join(sheet.marks)}</svg>'
    )


def _height(row: PictureRow, only: float, over: int) -> float:
    if row.empty:
        return 24.0
    if not row.writers:
        return only if not row.notes else FULL + 16 * len(row.notes)
    lines = sum(max(len(writer.units) * LINE, NODE_HIGH) + 12 for writer in row.writers)
    return over * (1 + len(row.notes)) + max(lines + 14, FULL + 16 * len(row.notes))


def _label(sheet: Sheet, row: PictureRow, bottom: float, top: float, only: float) -> None:
    if not (row.writers or row.empty or row.notes) and only == COMPACT:
        if row.first % 4 == 0:
            style = _QUIET_END + ' font-size="9"'
            sheet.text(sheet.at.label - 16, (bottom + top) / 2 + 3, str(row.first), style)
        return
    middle = (bottom + top) / 2
    if row.empty:
        name = f"Blocks {row.first}–{row.last}" if row.last > row.first else f"Block {row.first}"
        sheet.text(10, middle + 4, name, _QUIET)
        return
    over = sheet.at.over and bool(row.writers)
    first = top + 15 if over else middle + 4
    sheet.text(10, first, f"Block {row.first}", 'font-weight="600"')
    for line, (words, tip) in enumerate(row.notes):
        style = 'fill="var(--accent)" font-size="11"'
        sheet.text(10, first + 16 + 14 * line, words, style, tip)
    if row.writers:
        for y in (bottom, top):
            rule = f'<path d="M10 {y:.1f}H{sheet.at.end}" stroke="var(--line)"/>'
            if rule not in sheet.edges:
                sheet.edges.append(rule)


_QUIET = 'fill="var(--quiet)"'
_QUIET_END = 'fill="var(--quiet)" text-anchor="end"'


def _writers(
    sheet: Sheet, row: PictureRow, bottom: float, written: float, bus: list[tuple[float, float]]
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
        ends = (sheet.at.node + sheet.at.node_wide, middle, sheet.at.bus, middle - 22)
        _edge(sheet, *ends, writer.share, writer.kind)
        half = width_of(writer.share) / 2
        bus.append((middle - 22 + half, written))
        written += writer.share
        bus.append((middle - 22 - half, written))
        y -= high + 12
    return written


def _node(sheet: Sheet, writer: Writer, block: int, middle: float) -> None:
    colour = COLOURS.get(writer.kind, "fourth")
    name = NAMES.get(writer.kind, writer.kind)
    tip = f"Block {block}, {name}: {share_text(writer.share)} of what sets position zero apart"
    cut = number_of(writer.without)
    if cut is not None:
        tip += f"; without it the sink changes by {_cut(cut)}"
    sheet.marks.append(
        f'<rect x="{sheet.at.node}" y="{middle - NODE_HIGH / 2:.1f}"'
        f' width="{sheet.at.node_wide}" height="{NODE_HIGH}"'
        f' rx="5" fill="var(--paper)" stroke="var(--{colour})" stroke-width="1.5"'
        f' tabindex="0"{tip_of(tip)}/>'
    )
    x, y = sheet.at.node + sheet.at.node_wide / 2, middle + 4 if cut is None else middle - 3
    centre = 'text-anchor="middle" pointer-events="none" font-size='
    sheet.text(x, y, f"{name} {share_text(writer.share)}", f'{centre}"{sheet.at.sizes[0]}"')
    if cut is not None:
        words = f"{'' if sheet.at.over else 'sink '}{_cut(cut)} without"
        sheet.text(x, middle + 12, words, f'{centre}"{sheet.at.sizes[1]}" fill="var(--quiet)"')


def _cut(change: float) -> str:
    """A change of the sink with its sign, so that it is not read as what is left."""
    shown = percent_change(change)
    return shown if shown.startswith("−") else f"{'±' if shown.startswith('0.0') else '+'}{shown}"


def _unit(
    sheet: Sheet, label: str, share: float, tip: str, kind: str, y: float, node: float
) -> None:
    colour, x = COLOURS.get(kind, "fourth"), sheet.at.unit
    sheet.text(x - sheet.at.share, y + 4, label, 'text-anchor="end"', tip)
    sheet.text(x - 12, y + 4, share_text(share), f'text-anchor="end" {_QUIET}', tip)
    sheet.marks.append(
        f'<circle cx="{x}" cy="{y:.1f}" r="4.5" fill="var(--{colour})"{tip_of(tip)} tabindex="0"/>'
    )
    _edge(sheet, x, y, sheet.at.node, node, share, kind)


def _edge(
    sheet: Sheet, x0: float, y0: float, x1: float, y1: float, share: float, kind: str
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


def _bus(sheet: Sheet, points: list[tuple[float, float]]) -> str:
    """The stream of P0 as a band as wide as what has been written so far."""
    scale = max([1e-9, *(value for _, value in points)])
    half = [(y, max(width_of(max(value, 0.0) / scale), 2.0) / 2) for y, value in points]
    right = [f"{sheet.at.bus + w:.1f} {y:.1f}" for y, w in half]
    left = [f"{sheet.at.bus - w:.1f} {y:.1f}" for y, w in reversed(half)]
    tip = "Position zero's stream: its width is what has been written of what sets it apart"
    return f'<path d="M{"L".join([*right, *left])}Z" fill="var(--accent)"{tip_of(tip)}/>'


def _readers(sheet: Sheet, row: PictureRow, middle: float, only: float) -> None:
    if not row.readers or row.empty:
        return
    compact = not row.writers and only == COMPACT
    counted = not compact and not sheet.at.over
    at = sheet.at.tiles
    room = sheet.at.end - at - (0 if sheet.at.over else 46)
    wide = min(22.0, room / len(row.readers))
    high = 7.0 if compact else min(16.0, max(wide, 9.0))
    reading = [reader for reader in row.readers if reader.reads]
    if reading:
        mean = sum(reader.share for reader in reading) / len(reading)
        sheet.edges.append(
            f'<path d="M{sheet.at.bus} {middle:.1f}H{at - 6}" stroke="var(--accent)"'
            f' stroke-opacity=".5" stroke-width="{0.6 + (2.4 if compact else 5) * mean:.1f}"/>'
            f'<path d="M{at - 9} {middle - 4:.1f}l6 4l-6 4z" fill="var(--accent)"/>'
        )
    tiles = [
        _tile(r, at + i * wide, middle - high / 2, wide, high) for i, r in enumerate(row.readers)
    ]
    sheet.marks.append(f'<g fill="var(--accent)" stroke="var(--accent)">{"".join(tiles)}</g>')
    if counted:
        count = f"{len(reading)} of {len(row.readers)}"
        sheet.text(at + len(row.readers) * wide + 6, middle + 4, count, f'{_QUIET} font-size="11"')


def _tile(reader: Reader, x: float, y: float, wide: float, high: float) -> str:
    gap = 1.5 if wide > 6 else 0.3
    tip = tip_of(reader.tip) if reader.reads else ""
    line = ".9" if reader.reads else ".25"
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{wide - gap:.1f}" height="{high:.1f}"'
        f' fill-opacity="{reader.share:.2f}" stroke-opacity="{line}" stroke-width=".7"{tip}/>'
    )


def _headings(sheet: Sheet, picture: Picture, top: float) -> None:
    at = sheet.at
    places = (at.unit, at.bus, (at.tiles + at.end) / 2)
    below = (picture.whole, "as wide as what was written so far", picture.sink)
    for x, words, small in zip(places, at.headings, below):
        sheet.text(x, top - 40, words, 'text-anchor="middle" font-weight="600"')
        if not at.over:
            sheet.text(x, top - 24, small, f'text-anchor="middle" font-size="11" {_QUIET}')


def _token(sheet: Sheet, picture: Picture, y: float) -> None:
    """Token zero, at the foot of the bus."""
    words = f"position zero: {picture.start}"
    wide = 9 * min(len(words), 34) * 0.72 + 24
    x = min(float(sheet.at.bus), sheet.at.width - wide / 2 - 2)
    share, tip = "", ""
    if picture.embedding is not None:
        share = f"embedding {share_text(picture.embedding)}"
        tip = (
            f"The embedding makes {share_text(picture.embedding)} of what sets position zero apart"
        )
    sheet.marks.append(
        f'<rect x="{x - wide / 2:.1f}" y="{y + 10:.1f}" width="{wide:.1f}" height="28"'
        f' rx="14" fill="var(--paper)" stroke="var(--accent)" stroke-width="1.5"{tip_of(tip)}'
        ' tabindex="0"/>'
    )
    shown = words if len(words) <= 34 else words[:33] + "…"
    sheet.text(x, y + 28, shown, 'text-anchor="middle" pointer-events="none"')
    sheet.text(x, y + 54, share, f'text-anchor="middle" font-size="11" {_QUIET}')
