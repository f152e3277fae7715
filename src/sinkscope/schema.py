"""The schema of `summary.json`: pydantic models, open to new keys, never renaming old ones.

`scan`, `trace`, `verify` and `mix` hold one entry for each BOS policy (`with`, `without`);
`timeline` is one object, and `replication` has an entry for each
published experiment. A command that was not run leaves no key.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

SCHEMA = "1"


class Measured(BaseModel):
    """A measured value with its 95 % interval; low and high are None where none can be given."""

    value: float | None
    low: float | None = None
    high: float | None = None


class _Open(BaseModel):
    """Keys may be added freely, never renamed."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())


class ModelInfo(_Open):
    """Which model was looked at."""

    id: str
    revision: str | None = None
    architecture: str
    weights_sha256: str
    parameters: int


class PromptInfo(_Open):
    """Which tokens were looked at."""

    kind: str
    n: int
    length: int
    sha256: dict[str, str]
    source: str = ""


class Environment(_Open):
    """Versions and settings that the numbers depend on."""

    sinkscope: str
    torch: str
    transformers: str
    python: str
    platform: str
    device: str
    dtype: str
    seed: int
    threads: int


class ScanSummary(_Open):
    """What `scan` found under one BOS policy. Rates and shares lie in 0..1.

    sink_heads is [block, head, late share] of each sinking head; the other dicts are explained in
    docs/measures.md.
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
    sink_heads: list[list[Any]]
    sink_head_count: int
    null: dict[str, Any]
    delimiters: list[dict[str, Any]]
    massive: dict[str, Any]
    secondary: dict[str, Any]
    residual_identity: dict[str, Any]
    notes: list[str]


class TraceSummary(_Open):
    """What `trace` found under one BOS policy: how the sink is built, observed and not yet proved.

    Blocks, heads, neurons and experts count from 0. Shares are parts of what P0's components write
    along the sink direction, so they add up to 1. Read point `x{l}` is the input of block `l`.

    emergence_block        block whose write makes P0 cross half of its rise; -1 is the embedding
    emergence              the same by `norm` and by `direction`, each with its numbers
    amplification          norm, direction, both, or None
    recognition_point      first read point at which P0 can be told apart whatever its token
    recognition            unmixedness, cone fit, separability by read point
    concentration          C_k: part of the positive write along u made by the first k blocks
    concentration_log_norm the same of the log norm ratio
    writing_neurons        [block, neuron] of the fewest neurons that carry 90 % of the MLPs' write
    writing_heads          [block, head, share]
    writing_experts        [block, expert, share]
    write_shares           share of `embedding`, `0.attention`, `0.mlp`, ..
    reading_heads          [block, head]; reading_block is the first of them
    spike_ratio            part of the vocabulary (spike_vocabulary items) that ends on the sink's
                           side when placed at P0
    margins, attribution   sink margin in nats, and its exact split over P0's contributions
    routing                which experts P0 is routed to, in routed families
    """

    emergence_block: int | None
    amplification: str | None
    recognition_point: str | None
    writing_neurons: list[list[int]]
    writing_heads: list[list[Any]]
    writing_experts: list[list[Any]]
    reading_heads: list[list[int]]
    emergence: dict[str, Any] = Field(default_factory=dict)
    recognition: dict[str, Any] = Field(default_factory=dict)
    concentration: dict[str, float | None] = Field(default_factory=dict)
    concentration_log_norm: dict[str, Any] = Field(default_factory=dict)
    writing_neuron_shares: list[float] = Field(default_factory=list)
    k90: int | None = None
    write_shares: dict[str, float] = Field(default_factory=dict)
    reading_block: int | None = None
    spike_ratio: float | None = None
    spike_vocabulary: int | None = None
    margins: dict[str, Any] = Field(default_factory=dict)
    attribution: dict[str, Any] = Field(default_factory=dict)
    routing: dict[str, Any] = Field(default_factory=dict)
    direction_stability: dict[str, Any] = Field(default_factory=dict)
    step_down: Any = None
    secondary: Any = None
    notes: list[str] = Field(default_factory=list)


class StageSummary(_Open):
    """One stage of the circuit: whether it was shown, and by how much.

    passed       None where it was not tested
    necessity    change of the sink when the stage is taken away, relative to intact (-1 = gone)
    sufficiency  what arises where the stage is given to another position (nats of sink margin)
    specificity  effect of the control over the effect
    dose         Spearman correlation of dose and effect
    mediation    part of the effect that passes through the next stage
    """

    stage: int
    name: str
    passed: bool | None = None
    necessity: Measured | None = None
    sufficiency: Measured | None = None
    specificity: float | None = None
    dose: float | None = None
    mediation: Measured | float | None = None


class TestRow(_Open):
    """One edit beside its control. Changes are paired over prompts and relative to intact.

    kind                         necessity (of P0's sink) or sufficiency (at another position)
    claim                        whether the row decides; doses and variants are shown beside it
    sink_change, control_change  change of the mean late share of the reading heads; -1 is gone
    margin_change, control_margin_change  change of the sink margin at the position, nats
    p, p_holm                    one-sided, edit against control; adjusted over the rows of its id
    control_p_holm               that the control does something itself
    ce_change, kl                on the same text positions, nats a token
    p0_norm, p0_cosine           of the edited P0: over the median norm, and to the sink direction
    mass_moved_to                position that gained most: position, token, share
    passed                       None for a row that has no control of its own
    """

    __test__ = False  # not a test of pytest

    id: str
    edit: str
    kind: str = "necessity"
    claim: bool = True
    edit_json: list[dict[str, Any]] = Field(default_factory=list)
    control: str = ""
    arrow: str = ""
    block: int | None = None
    position: int | None = None
    dose: float | None = None
    sink_change: Measured | None = None
    control_change: Measured | None = None
    margin_change: Measured | None = None
    control_margin_change: Measured | None = None
    p: float | None = None
    p_holm: float | None = None
    control_p_holm: float | None = None
    ce_change: Measured | None = None
    kl: Measured | None = None
    p0_norm: float | None = None
    p0_cosine: float | None = None
    mass_moved_to: dict[str, Any] | None = None
    passed: bool | None = None
    note: str = ""


class VerifySummary(_Open):
    """What `verify` proved or refuted under one BOS policy.

    verdict               p0-circuit, bos-token, position-embedding, learned-sink, query-bias,
                          other, none or undetermined
    verdict_detail        blocks: two-block or deeper; amplification: norm, direction or both
    missing               what a verdict would still need
    thresholds            every bound that decided, with its reason
    faithfulness          sink kept when only the circuit is left at P0, relative to intact
    completeness          sink kept when only the complement is left
    circuit_size          components of that circuit, their share of all, traced: how many of them
                          the trace lists, needed: how many it takes to be faithful and complete
    circuit_growth        components, share, faithfulness and completeness of every set tried
    what_would_change_it  sentences
    """

    verdict: str
    verdict_detail: dict[str, Any] = Field(default_factory=dict)
    missing: list[str] = Field(default_factory=list)
    stages: list[StageSummary] = Field(default_factory=list)
    tests: list[TestRow] = Field(default_factory=list)
    faithfulness: Measured | None = None
    completeness: Measured | None = None
    circuit_size: dict[str, Any] = Field(default_factory=dict)
    circuit_growth: list[dict[str, Any]] = Field(default_factory=list)
    thresholds: dict[str, Any] = Field(default_factory=dict)
    what_would_change_it: list[str] = Field(default_factory=list)
    cost: dict[str, Any] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)


class MixRow(_Open):
    """One condition of `mix`: what was done to the model, and what became of it.

    what           the edit in words; control names the condition it is held against
    sink_left      late share of P0 in the sinking heads, relative to intact (1 = all of it)
    mass_removed   attention that late queries lost at the key acted on, mean of those heads
    p0_norm        norm of P0's stream over intact, mean of the read points behind block 0;
                   p0_norm_error: its largest departure from 1, at any read point and prompt
    spread, spread_change      at the last read point; the change relative to intact
    influence, influence_change  by Jacobian norms
    effective_rank, effective_rank_without_p0  mean over read points behind the first block
    ce_change, kl  on the same text positions, nats a token
    use            used, only there, undetermined; None for controls
    out_of_distribution  the model was never trained on such input
    """

    name: str
    what: str
    control: str | None = None
    sink_left: Measured | None = None
    mass_removed: Measured | None = None
    p0_norm: Measured | None = None
    p0_norm_error: float | None = None
    spread: Measured | None = None
    spread_change: Measured | None = None
    influence: Measured | None = None
    influence_change: Measured | None = None
    effective_rank: Measured | None = None
    effective_rank_without_p0: Measured | None = None
    ce_change: Measured | None = None
    kl: Measured | None = None
    use: str | None = None
    out_of_distribution: bool = False


class MixSummary(_Open):
    """What `mix` found under one BOS policy: what the sink is for.

    verdict         used, only there, undetermined, or no sink: does the loss need the sink here
    mixing          more, less, no different, or undetermined: mixing without the sink
    sentence        both in words
    sink_heads      [block, head] by the rule of `scan`; sink_heads_late_share is over these
    spread          condition -> spread of a one-token change at the last read point
    jacobian        condition -> influence of other tokens, by Jacobian norms
    effective_rank  condition -> mean over read points behind the first block, P0 included
    row_entropy, smoothness  of attention rows, `with_p0` and `without_p0`
    conditions      a row each, controls among them
    dose            condition -> steps of dose, sink left, ce_change, kl
    mediation       how much of the rise goes through the sink's masses
    length, depth   sweeps
    theorem         least slack of the spectral theorem, and whether it holds
    path_bound      how far the frozen norms stay below their bound, on small models
    reach           condition -> share of (read point, later position) that a change reaches
    pairs           how many prompts were perturbed, by which kinds of swap
    paraphrases     spread of paraphrase pairs, where a file was given
    """

    verdict: str
    mixing: str
    sentence: str
    sink_heads: list[list[int]]
    sink_heads_late_share: Measured
    spread: dict[str, Measured]
    jacobian: dict[str, Measured] = Field(default_factory=dict)
    effective_rank: dict[str, Measured] = Field(default_factory=dict)
    row_entropy: dict[str, Measured] = Field(default_factory=dict)
    smoothness: dict[str, Measured] = Field(default_factory=dict)
    conditions: list[MixRow] = Field(default_factory=list)
    dose: dict[str, list[dict[str, Any]]] = Field(default_factory=dict)
    mediation: dict[str, Any] = Field(default_factory=dict)
    length: list[dict[str, Any]] = Field(default_factory=list)
    depth: list[dict[str, Any]] = Field(default_factory=list)
    theorem: dict[str, Any] = Field(default_factory=dict)
    path_bound: dict[str, Any] = Field(default_factory=dict)
    reach: dict[str, Measured] = Field(default_factory=dict)
    pairs: dict[str, Any] = Field(default_factory=dict)
    paraphrases: dict[str, Any] = Field(default_factory=dict)
    thresholds: dict[str, Any] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)


class Summary(_Open):
    """Everything in summary.json."""

    schema_version: str = Field(default=SCHEMA, alias="schema")
    model: ModelInfo
    prompts: PromptInfo
    environment: Environment
    command: dict[str, Any] = Field(default_factory=dict)
    scan: dict[str, ScanSummary] = Field(default_factory=dict)
    trace: dict[str, TraceSummary] = Field(default_factory=dict)
    verify: dict[str, VerifySummary] = Field(default_factory=dict)
    timeline: dict[str, Any] = Field(default_factory=dict)
    mix: dict[str, MixSummary] = Field(default_factory=dict)
    replication: dict[str, Any] = Field(default_factory=dict)

    model_config = ConfigDict(extra="allow", populate_by_name=True, protected_namespaces=())
