"""The schema of `scan`."""

from __future__ import annotations

from typing_extensions import TypedDict

from sinkscope.schema.base import Measured, Open


class SinkFinding(TypedDict):
    """Where the model sinks. In detect/decision."""

    kind: str  # p0, learned, positions, tokens, none, or not visible
    words: list[str]  # what must be said beside it: weak, few heads, part of the prompts
    heads: int  # how many heads sink there
    of: int  # how many heads have late queries that see P0
    prompts: int  # in how many prompts P0 sinks
    positions: list[int]  # positions that hold the sink
    tokens: list[str]  # texts of the tokens that hold it, most mass first


class SinkBeside(TypedDict):
    """A sink that other heads have beside that at P0. In detect/decision."""

    kind: str  # learned, positions or tokens
    heads: int  # how many heads sink there
    positions: list[int]  # positions that hold the sink
    tokens: list[str]  # texts of the tokens that hold it, most mass first


UNKNOWN: SinkFinding = {
    "kind": "",
    "words": [],
    "heads": 0,
    "of": 0,
    "prompts": 0,
    "positions": [],
    "tokens": [],
}


class ScanNull(TypedDict, total=False):
    """What the sink is held against. In detect/nulls."""

    uniform_alpha: float | None  # received attention of P0 under uniform attention [share]
    uniform_late_share: float | None  # late share of P0 under uniform attention [share]
    # 99th percentile of the late share over random keys, median head [share]
    random_target_p99: float | None
    # heads whose late share of P0 lies above their own such percentile [share]
    heads_above_random_target_p99: float | None
    # late share of the same architecture untrained, one for each seed [share]
    untrained_late_share: list[float]
    untrained_sink_rate: dict[str, float]  # its sink rate at the bound named by the key [share]
    untrained: str  # why there is no untrained null


class Delimiter(TypedDict):
    """A kind of token away from P0 that receives attention. In detect/attention."""

    token: str  # its text
    id: int  # its token id
    hits: int  # how often such a token receives more than 0.3 in a head
    received: float  # mean attention it then receives [share]


class Massive(TypedDict, total=False):
    """Massive activations (Sun et al., arXiv 2402.17762). In detect/residual."""

    rule_met: bool  # whether an activation is above 100 and above 1,000 times the median magnitude
    max_abs: float  # largest magnitude, at the point of the largest ratio [activation]
    ratio: float  # the largest ratio to the median magnitude [ratio]
    point: int  # read point of that ratio
    p0_ratio: float  # the largest such ratio at P0, mean over prompts [ratio]
    p0_point: int  # its read point
    channels: list[list[int | float]]  # [channel, magnitude] of P0's largest channels there
    reason: str  # why there are no such numbers


class SecondaryRun(TypedDict):
    """A later token that lies along the sink direction for some blocks."""

    start: int  # first read point
    lifetime: int  # number of read points
    tokens: int  # how many tokens did so


class Secondary(TypedDict, total=False):
    """Secondary sinks (Wong et al., arXiv 2512.22213). In detect/residual."""

    runs: list[SecondaryRun]  # the most common runs
    reason: str  # why there are none


class ResidualIdentity(TypedDict, total=False):
    """Whether each block's output is its input plus its writes. In observe/residual."""

    verified: bool  # whether it holds on this model
    largest_error: float | None  # largest departure over the norm of the stream [ratio]
    form: str  # form of the last block
    writes: list[list[str | float]]  # [module, scale] of what the last block adds
    reason: str  # why it does not hold


class ScanSummary(Open):
    """What `scan` found under one BOS policy. In detect/summary."""

    # whether the model has a sink at P0; None where prompts are too short, or no late query sees P0
    p0_sink: bool | None  # [detect/decision]
    sink: SinkFinding = UNKNOWN  # where it sinks, and how; kind is empty in an older result
    beside: list[SinkBeside] = []  # where other heads sink, beside those that sink at P0
    sink_rate: dict[str, Measured]  # bound -> heads whose alpha of P0 exceeds it [share]
    sink_rate_after_2: dict[str, Measured] = {}  # the same without the first two blocks [share]
    sink_rate_by_type: dict[str, dict[str, Measured]] = {}  # the same by layer type [share]
    # mean attention on P0 by queries of the second half, over heads [share, detect/attention]
    late_share: Measured
    late_share_by_type: dict[str, Measured] = {}  # the same by layer type [share]
    uniform_late_share: float | None  # the same under uniform attention [share, detect/attention]
    reader: dict[str, int] = {}  # attention reader -> blocks it read
    position_zero: list[str]  # what stands at P0, with counts
    # [block, head, late share] of each sinking head, largest first
    sink_heads: list[list[int | float]] = []
    sink_head_count: int | None = None  # number of sinking heads [detect/decision]
    null: ScanNull = {}  # what the sink is held against
    delimiters: list[Delimiter] = []  # tokens away from P0 that receive much
    massive: Massive = {}  # massive activations
    secondary: Secondary = {}  # later tokens that lie along the sink direction
    residual_identity: ResidualIdentity = {}  # whether the residual stream adds up
    notes: list[str] = []  # what a reader must know to read the numbers rightly
