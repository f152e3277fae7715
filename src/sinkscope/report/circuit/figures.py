"""The figures of a trace, stage by stage, in reading order, with their words."""

from __future__ import annotations

from sinkscope.report.circuit import charts as circuit_charts
from sinkscope.report.circuit import reading as circuit_reading
from sinkscope.report.circuit import stages as circuit_stages
from sinkscope.report.parts import Plot

# name, title, lead, charts
SECTIONS: tuple[tuple[str, str, str, tuple[Plot, ...]], ...] = (
    (
        "recognition",
        "Stage 1: recognition",
        "Position zero attends to itself alone, so what its attention adds is not mixed. That is "
        "the only thing the causal mask gives it.",
        (
            Plot(
                "auroc",
                "By what it can be recognised",
                "Held-out AUROC against the same token ids at other positions, so that identity "
                "cannot help. Dashed: 0.99, from which it counts as recognised; one measure "
                "suffices.",
                circuit_stages.auroc_chart,
            ),
            Plot(
                "unmixed",
                "How little is mixed, by position",
                "Sum of squared attention, mean over heads: 1 at position zero by the mask, about "
                "1/(t+1) where attention is even.",
                circuit_stages.unmixed_chart,
            ),
            Plot(
                "variance",
                "How strong the attention output is, by position",
                "Variance over channels of what attention adds, over the median position's.",
                circuit_stages.variance_chart,
            ),
        ),
    ),
    (
        "amplification",
        "Stage 2: amplification",
        "Norm and direction are kept apart, since either can do the work. The band marks the "
        "emergence block, whose output carries the curve over half of its rise.",
        (
            Plot(
                "trace-norm",
                "Length of its stream",
                "Mean over prompts. Dashed: 1, no amplification. Where it rises more than once, "
                "bands mark the blocks of every rise and fall, and the bar below those whose heads "
                "read it.",
                circuit_stages.norm_chart,
            ),
            Plot(
                "trace-direction",
                "Direction of its stream",
                "Unit vectors: how far position zero stands from the others along the sink "
                "direction u, and how alike it is over first tokens.",
                circuit_stages.direction_chart,
            ),
            Plot(
                "write-shares",
                "Who writes, block by block",
                "Share of all that raises the sink heads' logits on position zero over those on "
                "others; along u where no head reads. Bars below zero are against it.",
                circuit_charts.shares_chart,
            ),
            Plot(
                "neurons",
                "How few neurons do it",
                "Strongest first, within the block that writes most. The dashed line is 90 %.",
                circuit_charts.neurons_chart,
            ),
            Plot(
                "concentration",
                "How early it is written",
                "C_k: the part of the positive output that the first k blocks make, and the same "
                "of the log norm.",
                circuit_charts.concentration_chart,
            ),
            Plot(
                "vocabulary",
                "The vocabulary at position zero",
                "Items are put there in turn, all of them or as many as half a pass over the "
                "prompts allows, drawn at random; one becomes the sink where it ends on the sink's "
                "side of the midpoint (and, with a norm plateau, above half of it).",
                circuit_stages.vocabulary_chart,
            ),
        ),
    ),
    (
        "induction",
        "Stage 3: induction",
        "The sink margin of a head is the log-odds of attending to position zero: its logit less "
        "the log-sum-exp of all others, mean over late queries. At 0 nats position zero takes "
        "half.",
        (
            Plot(
                "margin",
                "Sink margin, head by head",
                "Blue: above the others together.",
                circuit_reading.margin_chart,
                True,
            ),
            Plot(
                "alone",
                "What the direction alone achieves",
                "Sink heads, a point each: the margin as it is, and with position zero's key "
                "computed from the sink direction alone, at its own norm.",
                circuit_reading.alone_chart,
            ),
            Plot(
                "attribution",
                "Whose output makes the logit",
                "With norms frozen the logit is linear in what was added to position zero's "
                "stream, so the parts add up to it. Mean over sink heads.",
                circuit_reading.attribution_chart,
            ),
        ),
    ),
    (
        "routing",
        "Where it is routed",
        "In blocks with experts: which of them position zero is sent to, and which the others.",
        (
            Plot(
                "routing",
                "Experts chosen",
                "Blocks whose experts write along the sink direction, and the first routed one.",
                circuit_reading.routing_chart,
                True,
            ),
        ),
    ),
)
