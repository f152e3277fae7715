"""The schema of `verify`."""

from __future__ import annotations

from typing import Any

from typing_extensions import TypedDict

from sinkscope.schema.base import Measured, Open, Threshold


class StageSummary(Open):
    """One stage of the circuit: whether it was shown, and by how much. Computed in causal/summary.

    stage        number, from 1; 4 is the sink itself
    name         recognition, amplification, induction, sink
    passed       None where it was not tested
    necessity    change of the sink when the stage is taken away, over intact; -1 is gone [ratio]
    sufficiency  what arises where the stage is given to another position, sink margin [nat]; for
                 amplification what the circuit alone keeps of the sink [ratio]
    specificity  effect of the control over the effect [ratio]
    dose         Spearman correlation of dose and effect [1]
    mediation    part of the effect that passes through the next stage [ratio]
                 causal/families/mediation
    edits        the edits that these numbers are of
    late_share   of stage 4: mean late share of the reading heads, intact [share]
    """

    stage: int
    name: str
    passed: bool | None = None
    necessity: Measured | None = None
    sufficiency: Measured | None = None
    specificity: float | None = None
    dose: float | None = None
    mediation: Measured | float | None = None
    edits: list[str] = []
    late_share: Measured | None = None


class TestRow(Open):
    """One edit beside its control. Changes are paired over prompts and relative to intact.

    Computed in causal/testing.

    id                           name of the test, as docs/measures.md explains it
    edit                         what was done to the model, in words
    edit_json                    the edits, as `sinkscope.intervene.edits` reads them back
    control                      the control in words
    kind                         necessity (of P0's sink), sufficiency (at another position),
                                 identity, or mediation
    arrow                        the arrow of the circuit that is tested
    block, position              where the edit acts
    dose                         how much of it, where it has doses
    claim                        whether the row decides; doses and variants are shown beside it
    sink_change, control_change  change of the mean late share of the reading heads; -1 is gone
                                 [ratio]
    margin_change, control_margin_change  change of the sink margin at the position [nat]
    p, p_holm                    one-sided, edit against control; adjusted over its rows
    control_p_holm               that the control does something itself
    ce_change, kl                on the same text positions [nat]
    p0_norm, p0_cosine           of the edited P0: over the median norm, and to u [1]
    mass_moved_to                position that gained most: position, token, share
    passed                       None for a row that has no control of its own
    note                         what must be known to read the row
    """

    __test__ = False  # not a test of pytest

    id: str
    edit: str
    kind: str = "necessity"
    claim: bool = True
    edit_json: list[dict[str, Any]] = []
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


class VerdictDetail(TypedDict, total=False):
    """What a verdict rests on. Computed in causal/verdict.

    blocks           two-block or deeper
    emergence_block  see trace
    amplification    norm, direction or both
    because          why this verdict
    carried_by       what carries the sink where it is no circuit of P0
    necessary        edits that the sink was shown to need
    tokens           ids of the tokens that heads sink at wherever they stand
    """

    blocks: str | None
    emergence_block: int | None
    amplification: str | None
    because: str
    carried_by: str
    necessary: list[str]
    tokens: list[int]


class CircuitSize(TypedDict, total=False):
    """Units of the circuit that is faithful. Computed in causal/families/faithfulness.

    components  how many units
    share       their part of all units [share]
    of          all units
    traced      how many of them the trace lists
    needed      how many it takes to be faithful and complete
    """

    components: int
    share: float
    of: int
    traced: int
    needed: int | None


class TriedSet(TypedDict):
    """A set of units that was tried as the circuit. Computed in causal/families/faithfulness.

    components    how many units
    share         their part of all units [share]
    faithfulness  sink kept by these alone, relative to intact [ratio]
    completeness  sink kept by all others [ratio]
    """

    components: int
    share: float
    faithfulness: Measured | None
    completeness: Measured | None


class Cost(TypedDict, total=False):
    """What the tests cost. Computed in intervene/engine.

    passes         forward passes over the prompts of the tests, parts of passes counted as parts
    suffix_passes  whether blocks before an edit could be skipped
    """

    passes: float
    suffix_passes: bool


class VerifySummary(Open):
    """What `verify` proved or refuted under one BOS policy. Computed in causal/verdict.

    verdict               p0-circuit, bos-token, position-embedding, learned-sink, query-bias,
                          other, none or undetermined
    verdict_detail        what the verdict rests on
    missing               what a verdict would still need
    stages                the stages of the circuit
    tests                 every test beside its control
    faithfulness          sink kept when only the circuit is left at P0, relative to intact [ratio]
                          causal/families/faithfulness
    completeness          sink kept when only the complement is left [ratio]
                          causal/families/faithfulness
    circuit_size          how large that circuit is
    circuit_growth        every set of units that was tried
    thresholds            every bound that decided, with its reason causal/thresholds
    what_would_change_it  sentences
    cost                  what the tests cost intervene/engine
    notes                 what a reader must know to read the numbers rightly
    """

    verdict: str
    verdict_detail: VerdictDetail = {}
    missing: list[str] = []
    stages: list[StageSummary] = []
    tests: list[TestRow] = []
    faithfulness: Measured | None = None
    completeness: Measured | None = None
    circuit_size: CircuitSize = {}
    circuit_growth: list[TriedSet] = []
    thresholds: dict[str, Threshold] = {}
    what_would_change_it: list[str] = []
    cost: Cost = {}
    notes: list[str] = []
