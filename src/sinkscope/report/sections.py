"""The figures of the page, in order: what is drawn, under which heading and with which words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from sinkscope.report import charts, curves, depth, frames
from sinkscope.report.embed import share_scales, spec_of

if TYPE_CHECKING:
    from xarray import Dataset

Draw = Callable[["Dataset"], "charts.Chart | None"]
Part = tuple[str, str, str, Draw]


@dataclass
class Variant:
    """One choice of a figure's selector: a label, a caption and a spec for each BOS policy."""

    label: str
    caption: str
    specs: dict[str, dict[str, Any]]


@dataclass
class Figure:
    """One figure: variants to choose from (often one), each with a panel a BOS policy."""

    name: str
    title: str
    variants: list[Variant]
    wide: bool = False


@dataclass
class Section:
    """A heading, a sentence on what the section is about, and its figures."""

    name: str
    title: str
    lead: str
    figures: list[Figure] = field(default_factory=list)


def heads_section(data: dict[str, Dataset]) -> Section:
    """The block × head heat map with its selector."""
    variants = []
    for measure in charts.MEASURES:
        specs = _specs(data, partial(_heads, name=measure.name))
        if specs:
            variants.append(Variant(measure.label, measure.caption, specs))
    lead = (
        "Every tile is one head; depth runs to the right. Click a tile to see its attention map "
        "below. An empty tile is a head that no late query can use to see position zero."
    )
    types = {kind for one in data.values() for kind in frames.layer_types(one)}
    others = sorted(types - {"full"})
    if others:
        kinds = ", ".join(f"{kind[0]} for {kind}" for kind in others)
        lead += f" A letter under a block marks attention that is not full: {kinds}."
    figure = Figure("heat", "Heads, block by block", variants, wide=True)
    return Section("heads", "Which heads", lead, [figure] if variants else [])


def _heads(data: Dataset, name: str) -> charts.Chart | None:
    return None if charts.head_values(data, name) is None else charts.heads_chart(data, name)


NULLS: Part = (
    "ranked",
    "All heads, ranked, beside the nulls",
    "Heads are sorted by the attention that position zero receives in them. The dashed line is "
    "what even attention would give (one a kind of attention); the untrained copies of the "
    "architecture (one line a seed) and the 99th percentile of random target positions show what "
    "arises without a sink.",
    curves.ranked_chart,
)
STREAM: tuple[Part, ...] = (
    (
        "norm",
        "Length of P0’s residual stream",
        "How many times longer the residual stream of position zero is than that of the median "
        "token. Line: median over prompts; band: all prompts. Dashed: 1, no amplification.",
        depth.norm_chart,
    ),
    (
        "cosine",
        "Direction of P0’s residual stream",
        "Mean cosine between the streams of position zero of prompts that start with different "
        "tokens. Near 1: it no longer matters which token comes first. Dashed: 0, unrelated "
        "directions.",
        depth.cosine_chart,
    ),
)
RECEIVED: Part = (
    "received",
    "Attention received, by position",
    "Mean attention each position receives from the queries that can see it, one line a block; "
    "dots mark position zero. A sink stands far above the dashed line, which is the attention a "
    "position would receive if every query spread its own evenly over a full causal window. "
    "Further right, neighbours share a point, which shows the highest of them.",
    curves.received_chart,
)
MASSIVE: tuple[Part, ...] = (
    (
        "massive",
        "Largest activation over the median one",
        "At position zero and at the other positions. The dashed line marks the factor of 1000 "
        "of the usual rule for massive activations.",
        depth.massive_chart,
    ),
    (
        "channels",
        "Channels that carry it",
        "The channels of position zero with the largest activations, and where along the depth "
        "they are large. Empty: not among the largest there.",
        depth.channels_chart,
    ),
)
READING: tuple[Part, ...] = (
    (
        "values",
        "Norm of P0’s value vectors",
        "A dot a key-value head. Far below 1 (dashed), reading position zero adds almost "
        "nothing, which makes it a place to rest attention.",
        depth.value_chart,
    ),
    (
        "rank",
        "Stable rank of the head update",
        "With position zero and without it. Where the two part, what heads read at position zero "
        "dominates their output.",
        depth.rank_chart,
    ),
    (
        "qk-cosine",
        "Cosine of query and key",
        "Mean cosine of the queries with the key of position zero and with other keys, median "
        "head. Dashed: 0.",
        depth.qk_cosine_chart,
    ),
    (
        "qk-logit",
        "Attention logit and its parts",
        "The logit at position zero and elsewhere, and how much of it comes from the query bias "
        "and from the rotation, median head.",
        depth.qk_logit_chart,
    ),
    (
        "key-norm",
        "Norms of keys and queries",
        "A key at position zero that is short while its logit is high points to direction, not "
        "length. Median head.",
        depth.key_norm_chart,
    ),
)
ELSEWHERE: tuple[Part, ...] = (
    (
        "elsewhere",
        "Where attention goes",
        "Mean head of each block: share on position zero (later queries), on sinks at other "
        "positions, and on a learned sink logit.",
        depth.elsewhere_chart,
    ),
    (
        "secondary",
        "Tokens along the sink direction",
        "Share of later tokens whose stream lies within |cosine| > 0.9 of the sink direction: "
        "candidates for secondary sinks.",
        depth.secondary_chart,
    ),
)


def sections(data: dict[str, Dataset]) -> list[Section]:
    """All sections that these scans can fill, in reading order."""
    planned = [
        heads_section(data),
        Section(
            "position-zero",
            "What becomes of position zero",
            "How its residual stream departs from that of the other tokens along the depth.",
            _figures(data, STREAM),
        ),
        Section(
            "received",
            "Attention by position",
            "Whether it is position zero alone that draws attention.",
            _figures(data, (RECEIVED,), wide=True),
        ),
        Section(
            "massive",
            "Massive activations",
            "A few channels with values far beyond the rest often mark a sink token.",
            _figures(data, MASSIVE),
        ),
        Section(
            "reading",
            "What heads read there",
            "The value they get from position zero, and why its key matches their queries.",
            _figures(data, READING),
        ),
        Section(
            "elsewhere",
            "Where else attention sinks",
            "Sinks need not sit at position zero, nor at a position at all.",
            _figures(data, ELSEWHERE),
        ),
    ]
    return [section for section in planned if section.figures]


def single_charts() -> tuple[Part, ...]:
    """Name, title, caption and function of every chart but the heat maps."""
    return (NULLS, *STREAM, RECEIVED, *MASSIVE, *READING, *ELSEWHERE)


def nulls_figure(data: dict[str, Dataset]) -> Figure:
    """The ranked heads beside their nulls."""
    return _figures(data, (NULLS,), wide=True)[0]


def _figures(data: dict[str, Dataset], parts: tuple[Part, ...], wide: bool = False) -> list[Figure]:
    made = []
    for name, title, caption, draw in parts:
        specs = _specs(data, draw)
        if specs:
            made.append(Figure(name, title, [Variant("", caption, specs)], wide))
    return made


def _specs(data: dict[str, Dataset], draw: Draw) -> dict[str, dict[str, Any]]:
    drawn = {bos: draw(one) for bos, one in data.items()}
    specs = {bos: spec_of(chart) for bos, chart in drawn.items() if chart is not None}
    if len(specs) > 1:
        share_scales(list(specs.values()))
    return specs
