"""Where the columns of the drawing stand, on a page and on a phone, and what is drawn on."""

from __future__ import annotations

from dataclasses import dataclass, field

from markupsafe import escape


@dataclass(frozen=True)
class Layout:
    """The columns, in units of the drawing.

    share  how far the name of a unit ends before its dot
    sizes  of the two lines in a box, so that neither touches its frame
    over   height of a line for the name of a block above what it writes; 0: it stands beside
    """

    width: int = 880
    label: int = 78
    unit: int = 246
    share: int = 60
    node: int = 328
    node_wide: int = 138
    bus: int = 520
    tiles: int = 596
    end: int = 866
    over: int = 0
    sizes: tuple[int, int] = (12, 11)
    headings: tuple[str, str, str] = (
        "Who writes what sets it apart",
        "Position zero's stream",
        "Which heads read it",
    )


NARROW = Layout(
    width=370,
    label=62,
    unit=136,
    share=58,
    node=148,
    node_wide=104,
    bus=274,
    tiles=300,
    end=366,
    over=16,
    sizes=(11, 10),
    headings=("Writers", "Stream", "Readers"),
)


@dataclass
class Sheet:
    """Elements by layer, so that edges lie below what they join."""

    at: Layout
    edges: list[str] = field(default_factory=list)
    marks: list[str] = field(default_factory=list)

    def text(self, x: float, y: float, words: str, style: str = "", tip: str = "") -> None:
        """A line of text, with what it says when pointed at."""
        self.marks.append(
            f'<text x="{x:.1f}" y="{y:.1f}" {style}{tip_of(tip)}>{escape(words)}</text>'
        )


def tip_of(words: str) -> str:
    """What an element says when pointed at, as its attribute."""
    return f' data-tip="{escape(words)}"' if words else ""
