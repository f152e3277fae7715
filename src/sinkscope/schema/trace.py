"""The schema of `trace`."""

from __future__ import annotations

from typing_extensions import TypedDict

from sinkscope.schema.base import Measured, Open


class NormEmergence(TypedDict, total=False):
    """Rise of P0's norm over the others'. Computed in circuit/amplification.

    block            block whose write makes the log ratio cross half of its rise; -1: the embedding
    largest_ratio    largest ratio of norms [ratio]
    untrained_ratio  the same of the architecture untrained [ratio] circuit/null
    plateau          first and last read point of the plateau
    untrained        why there is no untrained ratio
    """

    block: int | None
    largest_ratio: float | None
    untrained_ratio: float | None
    plateau: list[str] | None
    untrained: str


class DirectionEmergence(TypedDict, total=False):
    """Rise of P0 along the sink direction u. Computed in circuit/amplification.

    block       block whose write makes P0 cross half of its rise along u
    distance    cosine of P0 to u, less the others', at the read point [1]
    deviations  the same in standard deviations of the others [1]
    p0_along    cosine of P0 to u there, mean over first tokens [1]
    """

    block: int | None
    distance: float
    deviations: float
    p0_along: float


class Emergence(TypedDict, total=False):
    """Both ways to tell where P0 is set apart.

    norm       by its norm
    direction  by its direction
    """

    norm: NormEmergence
    direction: DirectionEmergence


class AttentionOutput(TypedDict):
    """P0 over the median of later positions, of what attention adds. Computed in circuit/unmixed.

    block     the first block with attention
    norm      ratio of norms [ratio]
    variance  ratio of variances over channels [ratio]
    """

    block: int
    norm: float
    variance: float


class ConeFit(TypedDict):
    """Values in a cone (Peng et al., arXiv 2603.06591), means. Computed in circuit/unmixed.

    block               the first block with attention
    axis                norm of the mean unit value [1]
    r2                  fit of the cone to the norm of the output [1]
    isotropy            participation ratio around the axis [1]
    unmixedness_p0      sum of squared attention of the query P0 [1]
    unmixedness_others  the same of later queries [1]
    """

    block: int
    axis: float
    r2: float | None
    isotropy: float
    unmixedness_p0: float
    unmixedness_others: float


class Recognised(TypedDict, total=False):
    """What sets P0 apart before anything amplifies it. Computed in circuit/recognition.

    threshold         AUROC from which P0 counts as recognised [1]
    auroc             read point -> AUROC of a linear probe for P0 [1]
    reason            why it was not measured
    attention_output  what attention adds at P0 and behind it
    cone              fit of the cone of values
    """

    threshold: float
    auroc: dict[str, float]
    reason: str
    attention_output: AttentionOutput
    cone: ConeFit


class Margins(TypedDict, total=False):
    """Sink margin of the reading heads: log-odds of attending to P0. Computed in circuit/induction.

    mean                  mean over heads [nat]
    from_direction        with P0's key from u alone [nat]
    share_from_direction  the latter over the former [ratio]
    query_bias            part of the logit on P0 that the query bias makes [nat]
    share_query_bias      that part over the logit [ratio]
    reason                why there are no margins
    """

    mean: Measured
    from_direction: Measured
    share_from_direction: float | None
    query_bias: Measured
    share_query_bias: float | None
    reason: str


class Attribution(TypedDict, total=False):
    """The reading heads' logit on P0, split exactly, norms frozen. Computed in circuit/keys.

    logit          mean logit on P0 [nat]
    heads          how many reading heads
    parts          the largest contributions: embedding, sublayers [nat]
    bias           part that biases make [nat]
    error          largest error of the split [nat]
    neurons        [block, neuron, share] of the logit
    writing_heads  [block, head, share] of the logit
    unit_error     error of the split into units [ratio]
    reason         why the logit is not attributed
    """

    logit: float
    heads: int
    parts: dict[str, float]
    bias: float
    error: float
    neurons: list[list[int | float]]
    writing_heads: list[list[int | float]]
    unit_error: float
    reason: str


class Sent(TypedDict):
    """Where a router sends tokens. Computed in circuit/routing.

    share   part of the tokens sent to each expert [share]
    weight  mean weight of each expert where chosen [1]
    margin  mean router margin between the last chosen and the first not chosen [logit]
    """

    share: list[float]
    weight: list[float]
    margin: float | None


class Routed(TypedDict):
    """P0 beside the other positions, in one block.

    p0      the first tokens
    others  the other positions
    """

    p0: Sent
    others: Sent


class DirectionStability(TypedDict, total=False):
    """Whether u depends on the token at P0 or on the text. Computed in circuit/summary.

    first_tokens             how many first tokens
    text                     least cosine of P0 within a prompt and its token alone [1]
    cosine                   mean pairwise cosine over first tokens, at the read point [1]
    cosine_at_embedding      the same at the embedding [1]
    cosine_between_policies  cosine of the directions without and with BOS [1] circuit/trace
    """

    first_tokens: int
    text: float | None
    cosine: float | None
    cosine_at_embedding: float | None
    cosine_between_policies: float | None


class StepDown(TypedDict):
    """The block that takes the norm away again. Computed in circuit/concentration.

    block              that block
    write              its write along u [activation]
    norm_ratio_before, norm_ratio_after  norm of P0 over the others', before and behind it [ratio]
    """

    block: int
    write: float
    norm_ratio_before: float
    norm_ratio_after: float


class LaterWrite(TypedDict):
    """A block after the emergence that still writes. Computed in circuit/concentration.

    block  that block
    share  its share of the positive write along u [share]
    """

    block: int
    share: float


class Quadratic(TypedDict):
    """Quadratic form of gated neurons (Sun et al., arXiv 2603.05498). Computed in circuit/weights.

    channel         output channel
    eigenvalue      the largest [1]
    rank_one_share  its share of the spectrum [share]
    overlap         signal -> cosine of the leading eigenvector to it [1]
    """

    channel: int
    eigenvalue: float
    rank_one_share: float
    overlap: dict[str, float]


class WeightView(TypedDict, total=False):
    """What the writing neurons of a block detect. Computed in circuit/weights.

    block              that block
    neurons            its writing neurons
    attention, stream  input map -> cosine of each neuron's row to P0's signal there [1]
    quadratic          of gated neurons
    """

    block: int
    neurons: list[int]
    attention: dict[str, list[float]]
    stream: dict[str, list[float]]
    quadratic: Quadratic


class TypeOfLayer(TypedDict, total=False):
    """Layers of one type. Computed in circuit/summary.

    blocks         how many
    reading_heads  how many of their heads sink at P0
    late_share     mean late share of their heads [share]
    margin         mean sink margin of their heads [nat]
    """

    blocks: int
    reading_heads: int
    late_share: float
    margin: float


class NamedToken(TypedDict):
    """A vocabulary item.

    id, token  its id and its text
    """

    id: int
    token: str


class VocabularyScan(TypedDict, total=False):
    """Every vocabulary item put at P0. Computed in circuit/vocabulary.

    point        read point at which it was told whether an item becomes the sink
    not_sinking  items that do not, at most twenty
    """

    point: str
    not_sinking: list[NamedToken]


class TraceSummary(Open):
    """What `trace` found under one BOS policy: how the sink is built, observed and not yet proved.

    Blocks, heads, neurons and experts count from 0. Shares are parts of what P0's components write
    along the sink direction, so they add up to 1. Read point `x{l}` is the input of block `l`.
    Computed in circuit/find.

    p0_sink                whether the model has a sink at P0 detect/decision
    emergence_block        block whose write makes P0 cross half of its rise; -1 is the embedding
    emergence              the same by `norm` and by `direction`, each with its numbers
    amplification          norm, direction, both, or None
    recognition_point      first read point at which P0 can be told apart whatever its token
    recognition            unmixedness, cone fit, separability by read point
    read_point             where the sink direction u was taken
    concentration          C_k: positive write along u of the first k blocks [share]
                           circuit/concentration
    concentration_log_norm  the same of the log norm ratio [share] circuit/concentration
    writing_neurons        [block, neuron] of the fewest neurons that carry 90 % of the MLPs' write
                           circuit/components
    writing_neuron_shares  their shares of the whole write [share] circuit/components
    k90                    how many neurons carry 90 % of the MLPs' write circuit/components
    writing_heads          [block, head, share] circuit/components
    writing_experts        [block, expert, share] circuit/components
    writing_shared_neurons  [block, neuron, share] of experts that every token passes
                           circuit/components
    writing_whole          [sublayer, share] of sublayers that are not split into units
                           circuit/components
    write_shares           share of `embedding`, `0.attention`, `0.mlp`, .. [share] circuit/writes
    reading_heads          [block, head] that sink at P0 circuit/reading
    reading_block          the first block that has one
    spike_ratio            vocabulary items that end on the sink's side when placed at P0 [share]
                           circuit/vocabulary
    spike_vocabulary       how many items were tried circuit/vocabulary
    vocabulary             which of them do not
    margins                sink margin of the reading heads
    attribution            exact split of their logit over P0's contributions
    routing                block -> which experts P0 is routed to, in routed families
    direction_stability    over first tokens, texts and BOS policies
    step_down              where the norm is taken away again
    secondary              blocks behind the emergence that still write
    weights                what the writing neurons detect
    by_type                layer type -> heads and margins
    notes                  what a reader must know to read the numbers rightly
    """

    emergence_block: int | None
    amplification: str | None
    recognition_point: str | None
    writing_neurons: list[list[int]]
    writing_heads: list[list[int | float]]
    writing_experts: list[list[int | float]]
    reading_heads: list[list[int]]
    emergence: Emergence = {}
    recognition: Recognised = {}
    concentration: dict[str, float | None] = {}
    concentration_log_norm: dict[str, float] = {}
    writing_neuron_shares: list[float] = []
    k90: int | None = None
    write_shares: dict[str, float] = {}
    reading_block: int | None = None
    spike_ratio: float | None = None
    spike_vocabulary: int | None = None
    margins: Margins = {}
    attribution: Attribution = {}
    routing: dict[str, Routed] = {}
    direction_stability: DirectionStability = {}
    step_down: StepDown | None = None
    secondary: list[LaterWrite] = []
    notes: list[str] = []
    p0_sink: bool | None = None
    read_point: str | None = None
    writing_shared_neurons: list[list[int | float]] = []
    writing_whole: list[list[str | float]] = []
    weights: list[WeightView] = []
    by_type: dict[str, TypeOfLayer] = {}
    vocabulary: VocabularyScan = {}
