"""The schema of `verify`."""

from __future__ import annotations

from typing import Any

from typing_extensions import TypedDict

from sinkscope.schema.base import Measured, Open, Threshold


class StageSummary(Open):
    """One stage of the circuit: whether it was shown, and by how much. In causal/summary."""

    stage: int  # number, from 1; 4 is the sink itself
    name: str  # recognition, amplification, induction, sink
    passed: bool | None = None  # None where it was not tested, or is undetermined
    outcome: str = ""  # shown, not shown, undetermined or not tested
    # change of the sink through P0's key when the stage is taken away, over intact; -1 is gone; the
    # change in all where that path is not at hand [ratio]
    necessity: Measured | None = None
    total: Measured | None = None  # the same in all, the other positions included [ratio]
    # what arises where the stage is given to another position, sink margin [nat]; for amplification
    # what the circuit alone keeps of the sink [ratio]
    sufficiency: Measured | None = None
    specificity: float | None = None  # of necessity: effect of the control over it [ratio]
    sufficiency_specificity: float | None = None  # the same of what arises elsewhere [ratio]
    dose: float | None = None  # Spearman correlation of dose and effect [1]
    # part of the effect that passes through the next stage [ratio, causal/families/mediation]
    mediation: Measured | float | None = None
    edits: list[str] = []  # the edits that these numbers are of
    # of stage 4: mean late share of the sink heads, intact [share, causal/summary]
    reading_heads_late_share: Measured | None = None


class TestRow(Open):
    """One edit beside its control; changes are paired over prompts. In causal/testing."""

    __test__ = False  # not a test of pytest

    id: str  # name of the test, as docs/measures.md explains it
    edit: str  # what was done to the model, in words
    # necessity (of P0's sink), sufficiency (at another position), identity (does the sink need P0's
    # token or position id) or mediation (what passes through the next stage)
    kind: str = "necessity"
    claim: bool = True  # whether the row decides; doses and variants are shown beside it
    # the edits, as `sinkscope.intervene.edits` reads them back
    edit_json: list[dict[str, Any]] = []
    control: str = ""  # the control in words
    arrow: str = ""  # the arrow of the circuit that is tested
    block: int | None = None  # where the edit acts
    position: int | None = None  # where the edit acts
    dose: float | None = None  # how much of it, where it has doses
    prompts: int = 0  # it was run on in full; a row that decides nothing takes a few
    confirmed: bool = True  # run in full; a row that is not was screened through P0's key alone
    # what goes through P0's key with everything else held; -1 is gone
    # [ratio, intervene/p0_path]
    key_change: Measured | None = None
    others_change: Measured | None = None  # sink_change less key_change [ratio]
    # in all, mean late share of the reading heads; -1 is gone; None where only screened [ratio]
    sink_change: Measured | None = None
    control_change: Measured | None = None  # the same of the control, in all [ratio]
    control_key_change: Measured | None = None  # of random sets, through P0's key [ratio]
    margin_change: Measured | None = None  # sink margin at the position [nat]
    control_margin_change: Measured | None = None  # the same of the control [nat]
    p: float | None = None  # one-sided, edit against control [1]
    p_holm: float | None = None  # adjusted over the rows of its id [1]
    control_p_holm: float | None = None  # that the control does something itself
    ce_change: Measured | None = None  # loss for each token, on the same text positions [nat]
    kl: Measured | None = None  # from the intact prediction [nat]
    p0_norm: float | None = None  # of the edited P0, over the median norm [ratio]
    p0_cosine: float | None = None  # of the edited P0 to u [1]
    mass_moved_to: dict[str, Any] | None = None  # position that gained most: position, token, share
    # None for a row that has no control of its own, and where prompts are too few to say
    passed: bool | None = None
    # shown, absent (the interval lies within nothing), in part (it ends below the bound),
    # unspecific (the control does it too) or undetermined [causal/power]
    outcome: str = ""
    needs: int | None = None  # prompts it takes for p to be able to reach its bound at all
    note: str = ""  # what must be known to read the row
    control_p: float | None = None  # that the control does something itself, one-sided [1]
    specificity: float | None = None  # effect of the control over that of the edit [ratio]
    role: str | None = None  # what an identity row decides
    # variance of the sink that the token at P0 explains [causal/families/identity]
    identity: dict[str, Any] | None = None
    follows_ids: bool | None = None  # whether P0's own stream follows its position id
    moved: dict[str, Any] | None = None  # what turned up where P0's position id went
    share: Measured | None = None  # sink left where one token is repeated [share]
    uniform: float | None = None  # the same under uniform attention [share]
    edited: str | None = None  # of a mediation row: the edit, in words
    taken: Measured | None = None  # what it takes without the hold, relative to intact [ratio]
    mediated: Measured | None = None  # part that the hold gives back, at P0 [ratio]
    control_mediated: Measured | None = None  # the same at another position [ratio]


class VerdictPart(TypedDict):
    """What carries a part of the sink. In causal/p0_verdict."""

    verdict: str  # one of the classes
    # token, position id, causal mask, distance, query bias, or nothing tested [causal/carriers]
    by: str
    heads: int  # sink heads that it carries; a head may be carried by two
    share_of_heads: float  # their part of all sink heads [share]
    mass: Measured  # the part of the sink that they hold [share]


class VerdictDetail(TypedDict, total=False):
    """What a verdict rests on. In causal/verdict."""

    blocks: str | None  # two-block or deeper
    emergence_block: int | None  # see trace
    amplification: str | None  # norm, direction or both
    because: str  # why this verdict
    carried_by: str  # what carries the sink where it is no circuit of P0
    parts: list[VerdictPart]  # what carries the sink, part by part
    asked_by: str  # of a circuit: query bias, where its heads lose the sink without it
    necessary: list[str]  # edits that the sink was shown to need
    tokens: list[int]  # ids of the tokens that heads sink at wherever they stand
    positions: list[int]  # positions that heads sink at whatever stands there


class CircuitSize(TypedDict, total=False):
    """Units of the circuit that is faithful. In causal/families/faithfulness."""

    components: int  # how many units
    share: float  # their part of all units [share]
    of: int  # all units
    traced: int  # how many of them the trace lists
    faithful: int | None  # how many it takes to be faithful, in the order of the ranking
    needed: int | None  # how many it takes to be faithful and complete


class TriedSet(TypedDict):
    """A set of units that was tried as the circuit. In causal/families/faithfulness."""

    components: int  # how many units
    share: float  # their part of all units [share]
    faithfulness: Measured | None  # sink kept by these alone, relative to intact [ratio]
    completeness: Measured | None  # sink kept by all others [ratio]


class CircuitCurve(TypedDict, total=False):
    """Faithfulness over the size of the circuit, in short. In causal/families/faithfulness."""

    # which effects the sets of circuit_growth are of: key (through P0's key, everything else held)
    # or total (in all)
    path: str
    # what decided the order of the units: path (effects through P0's key), logits (to first order)
    # or trace (only what was traced)
    ranking: str
    # area under faithfulness over the part of all units, as MIB has it; 0.999 is all of it
    # [ratio, causal/areas]
    cpr: float | None
    cmd: float | None  # area between faithfulness and 1 [ratio, causal/areas]
    faithfulness: Measured | None  # of the circuit, through P0's key [ratio]
    completeness: Measured | None  # the same of all but the circuit [ratio]
    random: Measured | None  # mean faithfulness of random sets of as many units [ratio]


class Cost(TypedDict, total=False):
    """What the tests cost. In intervene/engine."""

    passes: float  # forward passes over the prompts of the tests, parts of passes counted as parts
    suffix_passes: bool  # whether blocks before an edit could be skipped


class PhaseNeed(TypedDict):
    """A phase of P0 when the one before it is removed. In causal/phase_needs."""

    phase: int  # number of the phase that is looked at, from 1
    removed: int  # number of the phase whose writers are replaced at P0
    writers: list[str]  # these writers
    # needed, in part, not needed, undetermined; not removed where half of the other may be left
    outcome: str
    # what is left of its log norm ratio at its peak [ratio]; None for a phase by direction
    norm_left: Measured | None
    # what is left of its readers' late share, through P0's key [ratio]; None where no head reads
    share_left: Measured | None
    removed_norm_left: Measured | None  # the same of the removed phase
    removed_share_left: Measured | None  # the same of the removed phase


class VerifySummary(Open):
    """What `verify` proved or refuted under one BOS policy. In causal/verdict."""

    # p0-circuit, bos-token, position-embedding, learned-sink, query-bias, rotary-distance, other,
    # none or undetermined; of a sink in parts these with + between
    verdict: str
    verdict_detail: VerdictDetail = {}  # what the verdict rests on
    missing: list[str] = []  # what a verdict would still need
    stages: list[StageSummary] = []  # the stages of the circuit
    tests: list[TestRow] = []  # every test beside its control
    # sink kept when only the circuit is left at P0, relative to intact
    # [ratio, causal/families/faithfulness]
    faithfulness: Measured | None = None
    # sink kept when only the complement is left [ratio, causal/families/faithfulness]
    completeness: Measured | None = None
    circuit_size: CircuitSize = {}  # how large that circuit is
    circuit_growth: list[TriedSet] = []  # every set of units that was tried, by size
    circuit_curve: CircuitCurve = {}  # faithfulness over size, in short
    # where P0 rises more than once: whether each phase but the first needs the one before it
    phase_needs: list[PhaseNeed] = []
    # every bound that decided, with its reason [causal/thresholds]
    thresholds: dict[str, Threshold] = {}
    what_would_change_it: list[str] = []  # sentences
    cost: Cost = {}  # what the tests cost [intervene/engine]
    notes: list[str] = []  # what a reader must know to read the numbers rightly
