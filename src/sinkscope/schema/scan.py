"""The schema of `scan`."""

from __future__ import annotations

from typing_extensions import TypedDict

from sinkscope.schema.base import Measured, Open


class ScanNull(TypedDict, total=False):
    """What the sink is held against. Computed in detect/nulls.

    uniform_alpha         received attention of P0 under uniform attention [share]
    uniform_late_share    late share of P0 under uniform attention [share]
    random_target_p99     99th percentile of alpha over random target positions, median head [share]
    heads_above_random_target_p99  heads whose alpha lies above their own such percentile [share]
    untrained_late_share  late share of the same architecture untrained, one for each seed [share]
    untrained_sink_rate   its sink rate at the bound named by the key [share]
    untrained             why there is no untrained null
    """

    uniform_alpha: float | None
    uniform_late_share: float | None
    random_target_p99: float
    heads_above_random_target_p99: float
    untrained_late_share: list[float]
    untrained_sink_rate: dict[str, float]
    untrained: str


class Delimiter(TypedDict):
    """A kind of token away from P0 that receives attention. Computed in detect/attention.

    token, id  its text and its id
    hits       how often such a token receives more than 0.3 in a head
    received   mean attention it then receives [share]
    """

    token: str
    id: int
    hits: int
    received: float


class Massive(TypedDict, total=False):
    """Massive activations (Sun et al., arXiv 2402.17762). Computed in detect/residual.

    rule_met  whether an activation is above 100 and above 1,000 times the median magnitude
    max_abs   largest magnitude, at the point of the largest ratio [activation]
    ratio     the largest ratio to the median magnitude [ratio]
    point     read point of that ratio
    p0_ratio  the largest such ratio at P0, mean over prompts [ratio]
    p0_point  its read point
    channels  [channel, magnitude] of P0's largest channels there
    reason    why there are no such numbers
    """

    rule_met: bool
    max_abs: float
    ratio: float
    point: int
    p0_ratio: float
    p0_point: int
    channels: list[list[int | float]]
    reason: str


class SecondaryRun(TypedDict):
    """A later token that lies along the sink direction for some blocks.

    start     first read point
    lifetime  number of read points
    tokens    how many tokens did so
    """

    start: int
    lifetime: int
    tokens: int


class Secondary(TypedDict, total=False):
    """Secondary sinks (Wong et al., arXiv 2512.22213). Computed in detect/residual.

    runs    the most common runs
    reason  why there are none
    """

    runs: list[SecondaryRun]
    reason: str


class ResidualIdentity(TypedDict, total=False):
    """Whether each block's output is its input plus its writes. Computed in observe/residual.

    verified       whether it holds on this model
    largest_error  largest departure over the norm of the stream [ratio]
    form           form of the last block
    writes         [module, scale] of what the last block adds
    reason         why it does not hold
    """

    verified: bool
    largest_error: float | None
    form: str
    writes: list[list[str | float]]
    reason: str


class ScanSummary(Open):
    """What `scan` found under one BOS policy. Computed in detect/summary.

    p0_sink               whether the model has a sink at P0 detect/decision
    sink_rate             bound -> heads whose alpha of P0 exceeds it [share]
    sink_rate_after_2     the same without the first two blocks [share]
    sink_rate_by_type     the same by layer type [share]
    late_share            mean attention on P0 by queries of the second half, over heads [share]
                          detect/attention
    late_share_by_type    the same by layer type [share]
    uniform_late_share    the same under uniform attention [share] detect/attention
    reader                attention reader -> blocks it read
    position_zero         what stands at P0, with counts
    sink_heads            [block, head, late share] of each sinking head, largest first, at most 200
    sink_head_count       number of sinking heads detect/decision
    null                  what the sink is held against
    delimiters            tokens away from P0 that receive much
    massive               massive activations
    secondary             later tokens that lie along the sink direction
    residual_identity     whether the residual stream adds up
    notes                 what a reader must know to read the numbers rightly
    """

    p0_sink: bool
    sink_rate: dict[str, Measured]
    sink_rate_after_2: dict[str, Measured]
    sink_rate_by_type: dict[str, dict[str, Measured]]
    late_share: Measured
    late_share_by_type: dict[str, Measured]
    uniform_late_share: float | None
    reader: dict[str, int]
    position_zero: list[str]
    sink_heads: list[list[int | float]]
    sink_head_count: int
    null: ScanNull
    delimiters: list[Delimiter]
    massive: Massive
    secondary: Secondary
    residual_identity: ResidualIdentity
    notes: list[str]
