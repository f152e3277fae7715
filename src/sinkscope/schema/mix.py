"""The schema of `mix`."""

from __future__ import annotations

from typing_extensions import TypedDict

from sinkscope.schema.base import Measured, Open, Threshold


class MixRow(Open):
    """What was done to the model in one condition, and what became of it. In mixing/summary."""

    name: str  # name of the condition
    what: str  # the edit in words
    control: str | None = None  # the condition it is held against
    # late share of P0 in the sinking heads, relative to intact (1 = all of it) [ratio]
    sink_left: Measured | None = None
    # attention that late queries lost at the key acted on, mean of those heads [share]
    mass_removed: Measured | None = None
    # norm of P0's stream over intact, mean of read points behind block 0 [ratio]
    p0_norm: Measured | None = None
    # its largest departure from 1, at any read point and prompt [ratio]
    p0_norm_error: float | None = None
    spread: Measured | None = None  # at the last read point [ratio, mixing/perturbation]
    spread_change: Measured | None = None  # relative to intact [ratio]
    # of other tokens, by Jacobian norms [ratio, mixing/influence]
    influence: Measured | None = None
    influence_change: Measured | None = None  # relative to intact [ratio]
    # mean over read points behind block 0 [1, mixing/collapse]
    effective_rank: Measured | None = None
    effective_rank_without_p0: Measured | None = None  # the same without P0 [1, mixing/collapse]
    # of the loss for each token, on the same text positions [nat, mixing/dose]
    ce_change: Measured | None = None
    kl: Measured | None = None  # from the intact prediction for each token [nat, mixing/dose]
    # used; harmful; changes predictions; present, not needed; undetermined; None for controls, and
    # where there is no sink [mixing/dose]
    use: str | None = None
    out_of_distribution: bool = False  # whether the model was never trained on such input


class DoseStep(TypedDict):
    """One dose of a condition. In mixing/dose."""

    dose: int | float  # part of the attention removed [share], or how many units were cut
    left: Measured  # late share left in the sinking heads, relative to intact [ratio]
    removed: Measured  # attention removed [share]
    ce_change: Measured  # change of the loss for each token [nat]
    kl: Measured  # KL from the intact prediction for each token [nat]


class MixMediation(TypedDict, total=False):
    """Effect of the circuit's cut on the spread, split. In mixing/mediation."""

    defined: bool  # whether the cut changes the spread at all
    total: Measured  # effect of the cut [ratio]
    through: Measured  # effect of the attention masses alone [ratio]
    direct: Measured  # effect of everything else [ratio]
    share: Measured  # through over total [ratio]
    share_by_direct: Measured  # 1 - direct over total [ratio]
    reason: str  # why there is no mediation


class LengthRow(TypedDict):
    """One length of the sweep. In mixing/sweeps."""

    length: int  # tokens
    sink_heads_late_share: Measured  # late share of P0, sink heads [share]
    spread: Measured  # spread at the last read point [ratio]
    spread_without: Measured  # the same with the sink's mass redistributed [ratio]
    spread_change: Measured  # the latter against the former [ratio]
    repeat: Measured  # distance of the last two states with the last token repeated [activation]
    repeat_without: Measured  # the same with the sink's mass redistributed [activation]


class DepthRow(TypedDict):
    """The sink gone from one block. In mixing/sweeps."""

    block: int  # that block
    heads: int  # how many sinking heads it has
    spread_change: Measured  # change of the spread, relative to intact [ratio]


class Theorem(TypedDict, total=False):
    """Spectral theorem (Queipo-de-Llano et al., arXiv 2510.06477). In mixing/collapse."""

    holds: bool  # whether it holds for every stream
    least_slack: float  # least slack of its first inequality [1]
    least_entropy_slack: float | None  # least slack of the bound on the entropy [nat]
    streams: int  # how many streams were tried
    rounding: float  # what rounding may take [1]


class PathBound(TypedDict, total=False):
    """Path-sum bound (Barbero et al., arXiv 2504.02732). In mixing/paths."""

    holds: bool  # whether no frozen norm exceeds it
    largest_ratio: float  # largest frozen norm over its bound [ratio]
    median_ratio: float  # median of these ratios [ratio]
    tokens: int  # tokens of the prompt
    reason: str  # why there is no bound


class PairCounts(TypedDict, total=False):
    """What was perturbed. In mixing/pairs."""

    n: int  # prompts
    kinds: list[str]  # kinds of swap


class Paraphrases(TypedDict, total=False):
    """Pairs of a file. In mixing/perturbation."""

    n: int  # pairs
    skipped: int  # lines that could not be used
    spread: dict[str, Measured]  # condition -> spread at the last read point [ratio]
    spread_change: dict[str, Measured]  # condition -> its change, relative to intact [ratio]


class MixSummary(Open):
    """What `mix` found under one BOS policy: what the sink is for. In mixing/summary."""

    # does the loss need the sink here: used; harmful; changes predictions (and not this loss);
    # present, not needed; undetermined; or no sink
    verdict: str
    sentence: str  # the same in words [mixing/dose]
    mixing: str  # more, less, no different, or undetermined: mixing without the sink
    sink_heads: list[list[int]]  # [block, head] in which the sink is taken away [mixing/conditions]
    sink_heads_late_share: Measured  # late share of P0, sink heads [share, mixing/sweeps]
    # condition -> spread of a one-token change at the last read point [ratio, mixing/perturbation]
    spread: dict[str, Measured]
    # condition -> influence of other tokens, by Jacobian norms [ratio, mixing/influence]
    jacobian: dict[str, Measured] = {}
    # condition -> mean over read points behind the first block, P0 included [1, mixing/collapse]
    effective_rank: dict[str, Measured] = {}
    # of attention rows, `with_p0` and `without_p0` [1, mixing/entropy]
    row_entropy: dict[str, Measured] = {}
    smoothness: dict[str, Measured] = {}  # the same [1, mixing/entropy]
    conditions: list[MixRow] = []  # a row each, controls among them
    dose: dict[str, list[DoseStep]] = {}  # condition -> steps of dose
    mediation: MixMediation = {}  # how much of the rise goes through the sink's masses
    length: list[LengthRow] = []  # sweep over length
    depth: list[DepthRow] = []  # sweep over depth
    theorem: Theorem = {}  # whether the spectral theorem holds, and how tightly
    path_bound: PathBound = {}  # how far the frozen norms stay below their bound, on small models
    # condition -> (read point, later position) that a change reaches [share, mixing/perturbation]
    reach: dict[str, Measured] = {}
    pairs: PairCounts = {}  # how many prompts were perturbed, by which kinds of swap
    paraphrases: Paraphrases = {}  # spread of paraphrase pairs, where a file was given
    # every bound that decided, with its reason [mixing/thresholds]
    thresholds: dict[str, Threshold] = {}
    notes: list[str] = []  # what a reader must know to read the numbers rightly
