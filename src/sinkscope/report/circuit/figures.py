"""The figures of a trace, stage by stage, in reading order, with their words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sinkscope.report.circuit import charts as circuit_charts
from sinkscope.report.circuit import reading as circuit_reading
from sinkscope.report.circuit import stages as circuit_stages

if TYPE_CHECKING:
    from xarray import Dataset

    from sinkscope.report.scan.charts import Chart
    from sinkscope.result import TraceSummary


@dataclass(frozen=True)
class Made:
    """A chart of the summary and the arrays of one BOS policy, with its words."""

    name: str
    title: str
    caption: str
    draw: Callable[[TraceSummary, Dataset], Chart | None]
    wide: bool = False


# name, title, lead, charts
SECTIONS: tuple[tuple[str, str, str, tuple[Made, ...]], ...] = (
    (
        "recognition",
        "Stage 1: told apart",
        "Position zero attends to itself alone, so what its attention adds is not mixed. That is "
        "the only thing the causal mask gives it.",
        (
            Made(
                "auroc",
                "By what it can be told apart",
                "Held-out AUROC against the same token ids at other positions, so that identity "
                "cannot help. Dashed: 0.99, from which it counts as told apart; one measure "
                "suffices.",
                circuit_stages.auroc_chart,
            ),
            Made(
                "unmixed",
                "How little is mixed, by position",
                "Sum of squared attention, mean over heads: 1 at position zero by the mask, about "
                "1/(t+1) where attention is even.",
                circuit_stages.unmixed_chart,
            ),
            Made(
                "variance",
                "How strong the attention output is, by position",
                "Variance over channels of what attention adds, over the median position’s.",
                circuit_stages.variance_chart,
            ),
        ),
    ),
    (
        "amplification",
        "Stage 2: amplified",
        "Norm and direction are kept apart, since either can do the work. The band marks the "
        "block whose write carries the curve over half of its rise.",
        (
            Made(
                "trace-norm",
                "Length of its stream",
                "Mean over prompts. Dashed: 1, no amplification.",
                circuit_stages.norm_chart,
            ),
            Made(
                "trace-direction",
                "Direction of its stream",
                "Unit vectors: how far position zero stands from the others along the sink "
                "direction u, and how alike it is over first tokens.",
                circuit_stages.direction_chart,
            ),
            Made(
                "write-shares",
                "Who writes, block by block",
                "Share of everything written along u before the heads read it. Bars below zero "
                "write against it.",
                circuit_charts.shares_chart,
            ),
            Made(
                "neurons",
                "How few neurons do it",
                "Strongest first, within the block that writes most. The dashed line is 90 %.",
                circuit_charts.neurons_chart,
            ),
            Made(
                "concentration",
                "How early it is written",
                "C_k: the part of the positive write that the first k blocks make, and the same of "
                "the log norm.",
                circuit_charts.concentration_chart,
            ),
            Made(
                "vocabulary",
                "The whole vocabulary at position zero",
                "Every item is put there in turn; it becomes the sink where it ends on the sink’s "
                "side of the midpoint (and, with a norm plateau, above half of it).",
                circuit_stages.vocabulary_chart,
            ),
        ),
    ),
    (
        "induction",
        "Stage 3: read",
        "The sink margin of a head is its logit on position zero less the log-sum-exp of all "
        "others, mean over late queries. At 0 nats position zero takes half.",
        (
            Made(
                "margin",
                "Sink margin, head by head",
                "Blue: above the others together.",
                circuit_reading.margin_chart,
                True,
            ),
            Made(
                "alone",
                "What the direction alone achieves",
                "Reading heads, a point each: the margin as it is, and with position zero’s key "
                "computed from the sink direction alone, at its own norm.",
                circuit_reading.alone_chart,
            ),
            Made(
                "attribution",
                "Whose write makes the logit",
                "With norms frozen the logit is linear in what was added to position zero’s "
                "stream, so the parts add up to it. Mean over reading heads.",
                circuit_reading.attribution_chart,
            ),
        ),
    ),
    (
        "routing",
        "Where it is routed",
        "In blocks with experts: which of them position zero is sent to, and which the others.",
        (
            Made(
                "routing",
                "Experts chosen",
                "Blocks whose experts write along the sink direction, and the first routed one.",
                circuit_reading.routing_chart,
                True,
            ),
        ),
    ),
)
