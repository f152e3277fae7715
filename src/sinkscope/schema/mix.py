"""The schema of `mix`."""

from __future__ import annotations

from typing_extensions import TypedDict

from sinkscope.schema.base import Measured, Open, Threshold


class MixRow(Open):
    """One condition of `mix`: what was done to the model, and what became of it.

    Computed in mixing/summary.

    name           name of the condition
    what           the edit in words
    control        the condition it is held against
    sink_left      late share of P0 in the sinking heads, relative to intact (1 = all of it) [ratio]
    mass_removed   attention that late queries lost at the key acted on, mean of those heads [share]
    p0_norm        norm of P0's stream over intact, mean of read points behind block 0 [ratio]
    p0_norm_error  its largest departure from 1, at any read point and prompt [ratio]
    spread, spread_change  at the last read point; the change relative to intact [ratio]
                   mixing/perturbation
    influence, influence_change  by Jacobian norms; the change relative to intact [ratio]
                   mixing/influence
    effective_rank, effective_rank_without_p0  mean over read points behind the first block [1]
                   mixing/collapse
    ce_change, kl  on the same text positions, for each token [nat] mixing/dose
    use            used, only there, undetermined; None for controls
    out_of_distribution  whether the model was never trained on such input
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


class DoseStep(TypedDict):
    """One dose of a condition. Computed in mixing/dose.

    dose       part of the attention removed [share], or how many units were cut
    left       late share left in the sinking heads, relative to intact [ratio]
    removed    attention removed [share]
    ce_change  change of the loss for each token [nat]
    kl         KL from the intact prediction for each token [nat]
    """

    dose: int | float
    left: Measured
    removed: Measured
    ce_change: Measured
    kl: Measured


class MixMediation(TypedDict, total=False):
    """Effect of the circuit's cut on the spread, split. Computed in mixing/mediation.

    defined          whether the cut changes the spread at all
    total            effect of the cut [ratio]
    through          effect of the attention masses alone [ratio]
    direct           effect of everything else [ratio]
    share            through over total [ratio]
    share_by_direct  1 - direct over total [ratio]
    reason           why there is no mediation
    """

    defined: bool
    total: Measured
    through: Measured
    direct: Measured
    share: Measured
    share_by_direct: Measured
    reason: str


class LengthRow(TypedDict):
    """One length of the sweep. Computed in mixing/sweeps.

    length          tokens
    late_share      late share of P0, sinking heads [share]
    spread          spread at the last read point [ratio]
    spread_without  the same with the sink's mass redistributed [ratio]
    spread_change   the latter against the former [ratio]
    repeat          distance of the last two states with the last token repeated [activation]
    repeat_without  the same with the sink's mass redistributed [activation]
    """

    length: int
    late_share: Measured
    spread: Measured
    spread_without: Measured
    spread_change: Measured
    repeat: Measured
    repeat_without: Measured


class DepthRow(TypedDict):
    """The sink gone from one block. Computed in mixing/sweeps.

    block          that block
    heads          how many sinking heads it has
    spread_change  change of the spread, relative to intact [ratio]
    """

    block: int
    heads: int
    spread_change: Measured


class Theorem(TypedDict, total=False):
    """Spectral theorem (Queipo-de-Llano et al., arXiv 2510.06477). Computed in mixing/collapse.

    holds                whether it holds for every stream
    least_slack          least slack of its first inequality [1]
    least_entropy_slack  least slack of the bound on the entropy [nat]
    streams              how many streams were tried
    rounding             what rounding may take [1]
    """

    holds: bool
    least_slack: float
    least_entropy_slack: float | None
    streams: int
    rounding: float


class PathBound(TypedDict, total=False):
    """Path-sum bound (Barbero et al., arXiv 2504.02732). Computed in mixing/paths.

    holds          whether no frozen norm exceeds it
    largest_ratio  largest frozen norm over its bound [ratio]
    median_ratio   median of these ratios [ratio]
    tokens         tokens of the prompt
    reason         why there is no bound
    """

    holds: bool
    largest_ratio: float
    median_ratio: float
    tokens: int
    reason: str


class PairCounts(TypedDict, total=False):
    """What was perturbed. Computed in mixing/pairs.

    n      prompts
    kinds  kinds of swap
    """

    n: int
    kinds: list[str]


class Paraphrases(TypedDict, total=False):
    """Pairs of a file. Computed in mixing/perturbation.

    n              pairs
    skipped        lines that could not be used
    spread         condition -> spread at the last read point [ratio]
    spread_change  condition -> its change, relative to intact [ratio]
    """

    n: int
    skipped: int
    spread: dict[str, Measured]
    spread_change: dict[str, Measured]


class MixSummary(Open):
    """What `mix` found under one BOS policy: what the sink is for. Computed in mixing/summary.

    verdict         used, only there, undetermined, or no sink: does the loss need the sink here
    mixing          more, less, no different, or undetermined: mixing without the sink
    sentence        both in words
    sink_heads      [block, head] in which the sink is taken away mixing/conditions
    late_share      late share of P0 in these heads [share] mixing/sweeps
    spread          condition -> spread of a one-token change at the last read point [ratio]
                    mixing/perturbation
    jacobian        condition -> influence of other tokens, by Jacobian norms [ratio]
                    mixing/influence
    effective_rank  condition -> mean over read points behind the first block, P0 included [1]
                    mixing/collapse
    row_entropy, smoothness  of attention rows, `with_p0` and `without_p0` [1] mixing/entropy
    conditions      a row each, controls among them
    dose            condition -> steps of dose
    mediation       how much of the rise goes through the sink's masses
    length, depth   sweeps over length and over depth
    theorem         whether the spectral theorem holds, and how tightly
    path_bound      how far the frozen norms stay below their bound, on small models
    reach           condition -> (read point, later position) that a change reaches [share]
                    mixing/perturbation
    pairs           how many prompts were perturbed, by which kinds of swap
    paraphrases     spread of paraphrase pairs, where a file was given
    thresholds      every bound that decided, with its reason mixing/thresholds
    notes           what a reader must know to read the numbers rightly
    """

    verdict: str
    mixing: str
    sentence: str
    sink_heads: list[list[int]]
    late_share: Measured
    spread: dict[str, Measured]
    jacobian: dict[str, Measured] = {}
    effective_rank: dict[str, Measured] = {}
    row_entropy: dict[str, Measured] = {}
    smoothness: dict[str, Measured] = {}
    conditions: list[MixRow] = []
    dose: dict[str, list[DoseStep]] = {}
    mediation: MixMediation = {}
    length: list[LengthRow] = []
    depth: list[DepthRow] = []
    theorem: Theorem = {}
    path_bound: PathBound = {}
    reach: dict[str, Measured] = {}
    pairs: PairCounts = {}
    paraphrases: Paraphrases = {}
    thresholds: dict[str, Threshold] = {}
    notes: list[str] = []
