"""The schema of `trace`."""

from __future__ import annotations

from typing_extensions import TypedDict

from sinkscope.schema.base import Measured, Open


class NormEmergence(TypedDict, total=False):
    """Rise of P0's norm over the others'. In circuit/amplification."""

    # block whose write makes the log ratio cross half of its rise; -1: the embedding
    block: int | None
    largest_ratio: float | None  # largest ratio of norms [ratio]
    untrained_ratio: float | None  # the same of the architecture untrained [ratio, circuit/null]
    plateau: list[str] | None  # first and last read point of the plateau
    untrained: str  # why there is no untrained ratio


class DirectionEmergence(TypedDict, total=False):
    """Rise of P0 along the sink direction u. In circuit/amplification."""

    block: int | None  # block whose write makes P0 cross half of its rise along u
    distance: float  # cosine of P0 to u, less the others', at the read point [1]
    deviations: float  # the same in standard deviations of the others [1]
    p0_along: float  # cosine of P0 to u there, mean over first tokens [1]


class Emergence(TypedDict, total=False):
    """Both ways to tell where P0 is set apart."""

    norm: NormEmergence  # by its norm
    direction: DirectionEmergence  # by its direction


class AttentionOutput(TypedDict):
    """What attention adds: P0 over the median of later positions. In circuit/unmixed."""

    block: int  # the first block with attention
    norm: float  # ratio of norms [ratio]
    variance: float  # ratio of variances over channels [ratio]


class ConeFit(TypedDict):
    """Values in a cone (Peng et al., arXiv 2603.06591), means. In circuit/unmixed."""

    block: int  # the first block with attention
    axis: float  # norm of the mean unit value [1]
    r2: float | None  # fit of the cone to the norm of the output [1]
    isotropy: float  # participation ratio around the axis [1]
    unmixedness_p0: float  # sum of squared attention of the query P0 [1]
    unmixedness_others: float  # the same of later queries [1]


class Recognised(TypedDict, total=False):
    """What sets P0 apart before anything amplifies it. In circuit/recognition."""

    threshold: float  # AUROC from which P0 counts as recognised [1]
    positions: int  # other positions that were taken
    texts: int  # prompts that they are from
    tokens: int  # different token ids among them
    sinks: int  # other positions that were left out, since they hold the sink too
    measures: list[str]  # those that separate P0 at the recognition point
    auroc: dict[str, dict[str, float | None]]  # measure -> read point -> held-out AUROC [1]
    reason: str | None  # why nothing was measured
    probe_reason: str | None  # why linear probes were not
    attention_output: AttentionOutput  # what attention adds at P0 and behind it
    cone: ConeFit  # fit of the cone of values


class Margins(TypedDict, total=False):
    """Sink margin of the reading heads, log-odds of attending to P0. In circuit/induction."""

    mean: Measured  # mean over heads [nat]
    from_direction: Measured  # with P0's key from u alone [nat]
    share_from_direction: float | None  # the latter over the former [ratio]
    query_bias: Measured  # part of the logit on P0 that the query bias makes [nat]
    share_query_bias: float | None  # that part over the logit [ratio]
    reason: str  # why there are no margins


class Attribution(TypedDict, total=False):
    """The reading heads' logit on P0, split exactly, norms frozen. In circuit/keys."""

    logit: float  # mean logit on P0 [nat]
    heads: int  # how many reading heads
    parts: dict[str, float]  # the largest contributions: embedding, sublayers [nat]
    bias: float  # part that biases make [nat]
    error: float  # largest error of the split [nat]
    neurons: list[list[int | float]]  # [block, neuron, share] of the logit
    writing_heads: list[list[int | float]]  # [block, head, share] of the logit
    unit_error: float  # error of the split into units [ratio]
    reason: str  # why the logit is not attributed


class Sent(TypedDict):
    """Where a router sends tokens. In circuit/routing."""

    share: list[float]  # part of the tokens sent to each expert [share]
    weight: list[float]  # mean weight of each expert where chosen [1]
    # mean router margin between the last chosen and the first not chosen [nat]
    margin: float | None


class Routed(TypedDict):
    """P0 beside the other positions, in one block."""

    p0: Sent  # the first tokens
    others: Sent  # the other positions


class DirectionStability(TypedDict, total=False):
    """Whether u depends on the token at P0 or on the text. In circuit/summary."""

    first_tokens: int  # how many first tokens
    text: float | None  # least cosine of P0 within a prompt and its token alone [1]
    cosine: float | None  # mean pairwise cosine over first tokens, at the read point [1]
    cosine_at_embedding: float | None  # the same at the embedding [1]
    # cosine of the directions without and with BOS [1, circuit/trace]
    cosine_between_policies: float | None


class StepDown(TypedDict):
    """The block that takes the norm away again. In circuit/concentration."""

    block: int  # that block
    write: float  # its write along u [activation]
    norm_ratio_before: float  # norm of P0 over the others' before it [ratio]
    norm_ratio_after: float  # the same behind it [ratio]


class LaterWrite(TypedDict):
    """A block after the emergence that still writes. In circuit/concentration."""

    block: int  # that block
    share: float  # its share of the positive write along u [share]


class Quadratic(TypedDict):
    """Quadratic form of gated neurons (Sun et al., arXiv 2603.05498). In circuit/weights."""

    channel: int  # output channel
    eigenvalue: float  # the largest [1]
    rank_one_share: float  # its share of the spectrum [share]
    overlap: dict[str, float]  # signal -> cosine of the leading eigenvector to it [1]


class WeightView(TypedDict, total=False):
    """What the writing neurons of a block detect. In circuit/weights."""

    block: int  # that block
    neurons: list[int]  # its writing neurons
    # input map -> cosine of each row to what attention adds at P0 [1]
    attention: dict[str, list[float]]
    stream: dict[str, list[float]]  # the same to P0's stream [1]
    quadratic: Quadratic  # of gated neurons


class NamedWriters(TypedDict, total=False):
    """How the named writers were checked. In circuit/writers."""

    # the sink direction, or what the sink heads read: what shares of writers are parts of
    shares_of: str
    kept: float | None  # share of P0 that the sink heads keep without them, over intact
    of_heads: int  # how many sink heads they are named for, and `kept` is of; 0: all
    rejected: list[list[int | str]]  # [block, kind, index] of what was not named for that reason
    prompts: float | None  # their part of what raises the heads' logits, prompts' first tokens
    vocabulary: float | None  # the same over first tokens drawn evenly from the vocabulary [share]


class TypeOfLayer(TypedDict, total=False):
    """Layers of one type. In circuit/summary."""

    blocks: int  # how many
    reading_heads: int  # how many of their heads sink at P0
    late_share: float  # mean late share of their heads [share]
    margin: float  # mean sink margin of their heads [nat]


class NamedToken(TypedDict):
    """A vocabulary item."""

    id: int  # its token id
    token: str  # its text


class VocabularyScan(TypedDict, total=False):
    """Vocabulary items put at P0. In circuit/vocabulary."""

    point: str  # read point at which it was told whether an item becomes the sink
    of: int  # items of the vocabulary; where fewer were tried, they were drawn at random
    ratio: Measured  # those that do; an interval where items were drawn [share]
    not_sinking: list[NamedToken]  # items that do not, at most twenty


class PhaseRow(TypedDict):
    """One rise and fall of P0 along depth. In circuit/phases and circuit/phase_parts."""

    by: str  # norm, or direction where the norm does not rise
    rise: list[int]  # first and last block of the rise; [-1, -1]: the embedding
    emergence_block: int  # block whose write crosses half of the peak; -1: the embedding
    peak: str  # read point of the peak
    height: float  # norm ratio there [ratio]; by direction the gap on the unit sphere [1]
    plateau: list[str]  # first and last read point between rise and fall
    fall: list[int] | None  # first and last block that take it back; none where it lasts
    # [sublayer, share of what the rise writes along its u]; most read: as in the summary
    writers: list[list[str | float]]
    takers: list[list[str | float]]  # [sublayer, share of what the fall takes back, negative]
    writing_neurons: list[list[int | float]]  # [block, neuron, share] of its k90 set
    writing_heads: list[list[int | float]]  # [block, head, share] of its k90 set
    reading_heads: list[list[int]]  # [block, head] over three times uniform attention in it
    sink_heads: list[list[int]]  # those of them that are sink heads
    concentration: dict[str, float]  # C_k along its u, of its own blocks [share]
    most_read: bool  # whether the keys of the summary are of this phase


class TraceSummary(Open):
    """What `trace` found under one BOS policy: how the sink is built, observed and not yet proved.

    Where P0 rises more than once (`phases`), emergence block, writing neurons and heads, direction
    and read point are those of the phase that most sink heads read.

    Blocks, heads, neurons and experts count from 0. Shares are parts of what raises the sink heads'
    logits on P0 over the other positions, or the sink direction where no head reads: those of
    embedding and sublayers that raise it add up to 1. Read point `x{l}` is the input of block `l`.
    In circuit/find.
    """

    # block whose write makes P0 cross half of its rise; -1 is the embedding
    emergence_block: int | None
    amplification: str | None  # norm, direction, both, or None
    # first read point at which P0 is separable whatever its token
    recognition_point: str | None
    # [block, neuron] of the fewest components that make 90 % [circuit/writers]
    writing_neurons: list[list[int]]
    writing_heads: list[list[int | float]]  # [block, head, share] [circuit/components]
    writing_experts: list[list[int | float]]  # [block, expert, share] [circuit/components]
    reading_heads: list[list[int]]  # [block, head] that sink at P0 [circuit/reading]
    # every rise and fall of P0 along depth, in its order
    phases: list[PhaseRow] = []
    emergence: Emergence = {}  # the same by `norm` and by `direction`, each with its numbers
    recognition: Recognised = {}  # unmixedness, cone fit, separability by read point
    # C_k: positive write along u of the first k blocks [share, circuit/concentration]
    concentration: dict[str, float | None] = {}
    # the same of the log norm ratio [share, circuit/concentration]
    concentration_log_norm: dict[str, float] = {}
    # their shares [share, circuit/components]
    writing_neuron_shares: list[float] = []
    k90: int | None = None  # how many neurons are among them [circuit/components]
    named: NamedWriters = {}  # what the sink loses without the named writers, and over which tokens
    # share of `embedding`, `0.attention`, `0.mlp`, .. [share, circuit/components]
    write_shares: dict[str, float] = {}
    reading_block: int | None = None  # the first block that has one
    # vocabulary items that end on the sink's side when placed at P0 [share, circuit/vocabulary]
    spike_ratio: float | None = None
    spike_vocabulary: int | None = None  # how many items were tried [circuit/vocabulary]
    margins: Margins = {}  # sink margin of the reading heads
    attribution: Attribution = {}  # exact split of their logit over P0's contributions
    routing: dict[str, Routed] = {}  # block -> which experts P0 is routed to, in routed families
    direction_stability: DirectionStability = {}  # over first tokens, texts and BOS policies
    step_down: StepDown | None = None  # where the norm is taken away again
    secondary: list[LaterWrite] = []  # blocks behind the emergence that still write
    notes: list[str] = []  # what a reader must know to read the numbers rightly
    p0_sink: bool | None = None  # whether the model has a sink at P0 [detect/decision]
    read_point: str | None = None  # where the sink direction u was taken
    # [block, neuron, share] of experts that every token passes [circuit/components]
    writing_shared_neurons: list[list[int | float]] = []
    # [sublayer, share] of sublayers that are not split into units [circuit/components]
    writing_whole: list[list[str | float]] = []
    weights: list[WeightView] = []  # what the writing neurons detect
    by_type: dict[str, TypeOfLayer] = {}  # layer type -> heads and margins
    vocabulary: VocabularyScan = {}  # which of them do not
