"""The figures of a scan, in reading order: what is drawn, under which heading, in which words."""

from __future__ import annotations

from xarray import Dataset

from sinkscope.report import embed, frames
from sinkscope.report.parts import Figure, Maps, Plot, Section, Variant, with_tables
from sinkscope.report.parts import tables as tables_of
from sinkscope.report.scan import charts, conclusions, curves, depth, tables
from sinkscope.result import Result

NULLS = Plot(
    "ranked",
    "All heads, ranked, beside the nulls",
    "Heads are sorted by the attention that position zero receives in them. The dashed line is "
    "what even attention would give (one a kind of attention); the 99th percentile of random keys, "
    "and the untrained copies of the architecture where they were asked for (one line a seed), "
    "show what arises without a sink.",
    curves.ranked_chart,
    wide=True,
)
NORM = Plot(
    "norm",
    "Length of P0's residual stream",
    "How many times longer the residual stream of position zero is than that of the median "
    "token. Line: median over prompts; band: all prompts. Dashed: 1, no amplification. Where a "
    "trace found that it rises more than once, bands mark the blocks of every rise and fall, and "
    "the bar below those whose heads read it.",
    depth.norm_chart,
)
COSINE = Plot(
    "cosine",
    "Direction of P0's residual stream",
    "Mean cosine between the streams of position zero of prompts that start with different "
    "tokens. Near 1: it no longer matters which token comes first. Dashed: 0, unrelated "
    "directions.",
    depth.cosine_chart,
)
RECEIVED = Plot(
    "received",
    "Attention received, by position",
    "Mean attention each position receives from the queries that can see it, one line a block; "
    "dots mark position zero. A sink stands far above the dashed line, which is the attention a "
    "position would receive if every query spread its own evenly over a full causal window. "
    "Further right, neighbours share a point, which shows the highest of them.",
    curves.received_chart,
    wide=True,
)
MASSIVE = (
    Plot(
        "massive",
        "Largest activation over the median one",
        "At position zero and at the other positions. The dashed line marks the factor of 1000 "
        "of the usual rule for massive activations.",
        depth.massive_chart,
    ),
    Plot(
        "channels",
        "Channels that carry it",
        "The channels of position zero with the largest activations, and where along the depth "
        "they are large. Empty: not among the largest there.",
        depth.channels_chart,
    ),
)
READING = (
    Plot(
        "values",
        "Norm of P0's value vectors",
        "A dot a key-value head. Far below 1 (dashed), reading position zero adds almost "
        "nothing, which makes it a place to rest attention.",
        depth.value_chart,
    ),
    Plot(
        "rank",
        "Stable rank of the head update",
        "With position zero and without it. Where the two part, what heads read at position zero "
        "dominates their output.",
        depth.rank_chart,
    ),
    Plot(
        "qk-cosine",
        "Cosine of query and key",
        "Mean cosine of the queries with the key of position zero and with other keys, median "
        "head. Dashed: 0.",
        depth.qk_cosine_chart,
    ),
    Plot(
        "qk-logit",
        "Attention logit and its parts",
        "The logit at position zero and elsewhere, and how much of it comes from the query bias "
        "and from the rotation, median head.",
        depth.qk_logit_chart,
    ),
    Plot(
        "key-norm",
        "Norms of keys and queries",
        "A key at position zero that is short while its logit is high points to direction, not "
        "length. Median head.",
        depth.key_norm_chart,
    ),
)
ELSEWHERE = (
    Plot(
        "elsewhere",
        "Where attention goes",
        "Mean head of each block: share on position zero (later queries), on sinks at other "
        "positions, and on a learned sink logit.",
        depth.elsewhere_chart,
    ),
    Plot(
        "secondary",
        "Tokens along the sink direction",
        "Share of later tokens whose stream lies within |cosine| > 0.9 of the sink direction: "
        "candidates for secondary sinks.",
        depth.secondary_chart,
    ),
)


def heads_section(data: dict[str, Dataset], concluded: dict[str, str]) -> Section:
    """The block × head heat map with its selector, and the strongest heads."""
    variants = []
    for measure in charts.MEASURES:
        drawn = {bos: charts.heads_chart(one, measure.name) for bos, one in data.items()}
        known = {bos: chart for bos, chart in drawn.items() if chart is not None}
        if known:
            name = f"heads-{measure.name.replace('_', '-')}"
            variants.append(Variant(measure.label, measure.caption, known, name))
    lead = (
        "Every tile is one head; depth runs to the right. Click a tile to see its attention map "
        "below. An empty tile is a head that no late query can use to see position zero."
    )
    types = {kind for one in data.values() for kind in frames.layer_types(one)}
    others = sorted(types - {"full"})
    if others:
        kinds = ", ".join(f"{kind[0]} for {kind}" for kind in others)
        lead += f" A letter under a block marks attention that is not full: {kinds}."
    heat = [Figure("heat", "Heads, block by block", variants, wide=True)] if variants else []
    strongest = tables_of(data, lambda one: [tables.heads_table(one)])
    return Section("heads", "Which heads", lead, with_tables(heat, strongest), concluded)


def maps_section(data: dict[str, Dataset]) -> Section:
    """Attention maps to look through; without parts where none were kept."""
    lead = (
        "One head on one prompt. Rows are queries, columns are keys; a sink at position zero is a "
        "filled first column."
    )
    found = {bos: packed for bos, one in data.items() if (packed := embed.maps_of(one))}
    told = {bos: conclusions.maps(packed) for bos, packed in found.items()}
    return Section("maps", "Attention maps", lead, [Maps(found)] if found else [], told)


def comparison(result: Result, against: Result) -> tuple[list[Figure], str]:
    """Where the late share moved, head by head; or a sentence why that cannot be drawn."""
    here, there = frames.datasets(result), frames.datasets(against)
    shared = [bos for bos in here if bos in there]
    caption = "Late share of every head in this run minus the other. Neutral: no change."
    change = Plot("difference", "Change, head by head", caption, charts.difference_chart, wide=True)
    made = change.on({bos: (here[bos], there[bos]) for bos in shared})
    if shared and not made:
        return [], "The models differ in blocks or heads, so heads cannot be matched one to one."
    return made, ""
