"""What a page is made of: sections of words, figures, drawings and tables.

A command's module (`commands.py` lists them) says what it has to show in these terms; the template
and the exporter know nothing of commands. Everything is kept by panel: the BOS policy it was
measured under, or "" for what has none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from typing import Any, ClassVar, TypeAlias

from markupsafe import Markup

from sinkscope.report.charts import Chart
from sinkscope.report.embed import share_scales, spec_of
from sinkscope.report.listing import Index
from sinkscope.report.text import typeset

# A question and a sentence that answers it, for the end of a command (`brief.py`)
Said: TypeAlias = tuple[str, str]
WEAK = "Weak"
QUESTIONS = (
    *("Sink", "Where", "Since", "Made by", "Read by", "Proved", "Unless", "Used", "To do"),
    *("Formed", "Stages", "Settled", "Written", "Beside", "Row"),
    WEAK,
)

# label -> kind (share, count, ratio or word) and value: what two runs are compared by
Headline: TypeAlias = dict[str, tuple[str, Any]]


@dataclass
class Table:
    """A table of strings; `numeric` columns are aligned to the right, a `verbatim` one is copied
    from a terminal, which prints it unbroken on a line of its own."""

    title: str
    columns: list[str]
    rows: list[list[str]] = field(default_factory=list)
    numeric: set[int] = field(default_factory=set)
    verbatim: int | None = None


def table_of(
    title: str, rows: Iterable[Any], columns: Mapping[str, Callable[..., str]], numeric: set[int]
) -> Table:
    """A table with a line for each of `rows`; a column is its title and how a row is shown in it.

    A row is one argument of what shows it, or a tuple of them.
    """
    cells = [[show(*_held(row)) for show in columns.values()] for row in rows]
    return Table(title, list(columns), cells, numeric)


def turned(table: Table) -> Table:
    """Rows and columns exchanged: a few thresholds below each other fit a narrow terminal."""
    grid = [table.columns, *table.rows]
    first, *rest = ([row[i] for row in grid] for i in range(len(table.columns)))
    return Table(table.title, first, rest, set(range(1, len(first))))


@dataclass
class Findings:
    """What one command found under one BOS policy, in words.

    headline   the first sentence; `sentences` the others
    keys       the few numbers at the top: value, what it is, what it is compared with
    limit      what this does not show
    answers    those of these sentences that a terminal shows by itself, by question
    tables     the tables that go with it in a terminal
    """

    headline: str
    sentences: list[str] = field(default_factory=list)
    keys: list[tuple[str, str, str]] = field(default_factory=list)
    limit: str = ""
    notes: list[str] = field(default_factory=list)
    answers: list[Said] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.headline, self.limit = typeset(self.headline), typeset(self.limit)
        self.sentences = [*map(typeset, self.sentences)]
        self.notes = [*map(typeset, self.notes)]


@dataclass
class Words:
    """Findings side by side, a column a panel."""

    panels: dict[str, Findings]
    kind: ClassVar[str] = "words"


@dataclass
class Tables:
    """Tables of each panel.

    stacked  panels stand below each other
    quiet    titles are not shown
    folded   each table opens on demand
    """

    panels: dict[str, list[Table]]
    stacked: bool = False
    quiet: bool = False
    folded: bool = False
    kind: ClassVar[str] = "tables"


@dataclass
class Drawing:
    """A picture made here as inline SVG, one a panel; elements with data-tip explain themselves."""

    name: str
    title: str
    caption: str
    panels: dict[str, Markup]
    narrow: dict[str, Markup] = field(default_factory=dict)  # the same for a narrow screen
    kind: ClassVar[str] = "drawing"


@dataclass
class Stage:
    """One stage of the circuit in the strip.

    state  shown, failed, undetermined, untested, or seen (observed by a trace, not tested)
    rows   what it rests on: label, value, interval
    why    why it is not shown, where it is not
    """

    number: int
    name: str
    state: str
    words: str
    rows: list[tuple[str, str, str]] = field(default_factory=list)
    why: str = ""


@dataclass
class Strip:
    """The stages side by side."""

    panels: dict[str, list[Stage]]
    kind: ClassVar[str] = "strip"


@dataclass
class Variant:
    """One choice of a figure's selectors: a label, a caption and a chart for each panel.

    name  of its file when it is exported; by default that of the figure
    axis  what it is drawn over, where the reader may choose: one choice for the whole page
    """

    label: str
    caption: str
    charts: dict[str, Chart]
    name: str = ""
    axis: str = ""

    @cached_property
    def specs(self) -> dict[str, dict[str, Any]]:
        """The charts as packed specs; panels side by side share their scales."""
        made = {panel: spec_of(chart) for panel, chart in self.charts.items()}
        if len(made) > 1:
            share_scales(list(made.values()))
        return made


@dataclass
class Figure:
    """One figure: variants to choose from (often one), each with a chart a panel.

    choice  what the labels of its variants are a choice of

    With axes there is a variant for each label and axis, in this order.
    """

    name: str
    title: str
    variants: list[Variant]
    wide: bool = False
    choice: str = "Measure"
    kind: ClassVar[str] = "figure"

    @property
    def labels(self) -> list[str]:
        """What its first selector offers."""
        return list(dict.fromkeys(one.label for one in self.variants))

    @property
    def axes(self) -> list[str]:
        """What its second selector offers."""
        return list(dict.fromkeys(one.axis for one in self.variants))

    @property
    def panels(self) -> list[str]:
        """Every panel that some variant has a chart for."""
        return list(dict.fromkeys(panel for one in self.variants for panel in one.charts))


@dataclass
class Maps:
    """Attention maps to look through: what the page's script needs of each panel."""

    panels: dict[str, Any]
    kind: ClassVar[str] = "maps"


Part: TypeAlias = Words | Tables | Index | Drawing | Strip | Figure | Maps


@dataclass
class Section:
    """A heading, a sentence on what the section is about, and its parts in reading order.

    concluded  what it comes to, by panel; a section that comes to something is folded under that
    group      the question it belongs to; it stands above the first section of a group
    unfolded   it stands open from the start
    """

    name: str
    title: str
    lead: str
    parts: list[Part] = field(default_factory=list)
    concluded: Mapping[str, str] = field(default_factory=dict)
    group: str = ""
    unfolded: bool = False

    @property
    def conclusions(self) -> list[tuple[str, str]]:
        """(panel, conclusion), once where all panels come to the same."""
        told = [(panel, typeset(said)) for panel, said in self.concluded.items() if said]
        return told[:1] if len({said for _, said in told}) == 1 < len(told) else told

    @property
    def figures(self) -> list[Figure]:
        """Its figures alone."""
        return [part for part in self.parts if isinstance(part, Figure)]

    @property
    def runs(self) -> list[tuple[str, list[Part]]]:
        """Parts of the same kind that follow each other, since figures stand side by side."""
        return [(kind, list(run)) for kind, run in groupby(self.parts, key=lambda part: part.kind)]


@dataclass(frozen=True)
class Plot:
    """A figure to be drawn: its words, and `draw`, called with what a panel holds."""

    name: str
    title: str
    caption: str
    draw: Callable[..., Chart | None]
    wide: bool = False

    def on(self, panels: Mapping[str, Any]) -> list[Figure]:
        """The figure over these panels; nothing where no chart could be drawn."""
        drawn = {panel: self.draw(*_held(one)) for panel, one in panels.items()}
        kept = {panel: chart for panel, chart in drawn.items() if chart is not None}
        variant = Variant("", self.caption, kept)
        return [Figure(self.name, self.title, [variant], self.wide)] if kept else []


def plots(panels: Mapping[str, Any], *planned: Plot) -> list[Figure]:
    """The figures that can be drawn; a panel holds one argument of `draw`, or a tuple of them."""
    return [made for plot in planned for made in plot.on(panels)]


def _held(one: Any) -> tuple[Any, ...]:
    return one if isinstance(one, tuple) else (one,)


def concluded(conclude: Callable[..., str], panels: Mapping[str, Any]) -> dict[str, str]:
    """What each panel comes to; a panel holds one argument of `conclude`, or a tuple of them."""
    return {panel: conclude(*_held(one)) for panel, one in panels.items()}


def tables(
    panels: dict[str, Any], make: Callable[..., Iterable[Table | None]], **options: bool
) -> list[Tables]:
    """Tables made for each panel, without the empty ones; nothing if all are."""
    made = {panel: present(make(*_held(one))) for panel, one in panels.items()}
    kept = {panel: found for panel, found in made.items() if found}
    return [Tables(kept, **options)] if kept else []


def with_tables(figures: list[Figure], found: list[Tables]) -> list[Part]:
    """Figures with the tables that go with them; no tables without figures."""
    return [*figures, *found] if figures else []


def present(found: Iterable[Table | None]) -> list[Table]:
    """The tables that exist and have rows."""
    return [table for table in found if table is not None and table.rows]
