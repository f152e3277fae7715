"""The schema of `timeline`."""

from __future__ import annotations

from typing_extensions import TypedDict

from sinkscope.schema.base import Measured, Open


class EmergencePoint(TypedDict):
    """When a signal emerged above its null. Computed in training_runs/emergence.

    step       first checkpoint of the sustained crossing [step]
    low, high  95 % interval of the crossing; low is None where the first checkpoint is above [step]
    before     the checkpoint before it [step]
    """

    step: int
    low: float | None
    high: float
    before: int | None


class TrainingStage(TypedDict):
    """A stage of training between two change points. Computed in training_runs/stages.

    start, stop  first and last checkpoint of it [step]
    low, high    the gap of the grid in which it began [step]
    """

    start: int
    stop: int
    low: int | None
    high: int


class Settling(TypedDict):
    """How the settling signal went. Computed in training_runs/settling.

    announced  when it was announced first [step]
    since      from when on it held [step]
    bounds     signal -> bound on its change
    rule       the rule in words
    """

    announced: int | None
    since: int | None
    bounds: dict[str, float]
    rule: str


class Extent(TypedDict):
    """How much of each checkpoint was looked at. Computed in training_runs/pilot.

    first_blocks  blocks that were looked at
    blocks        blocks of the model
    read_point    where the sink direction is taken
    whole_models  whether whole models were loaded
    """

    first_blocks: int
    blocks: int
    read_point: int
    whole_models: bool


class SignalScore(TypedDict):
    """How well a signal tells the remaining loss of a run left out.

    Computed in training_runs/judging.

    name   signal or baseline
    alone  R² of the prediction from it alone, median over runs [1]
    added  gain in R² over the baselines [1]
    rank   Spearman correlation with the remaining loss [1]
    runs   run -> R² alone [1]
    """

    name: str
    alone: float | None
    added: float | None
    rank: float | None
    runs: dict[str, float | None]


class Judgement(TypedDict):
    """The signals held against each other.

    signals  a row for each
    reason   why there are none
    """

    signals: list[SignalScore]
    reason: str


class RunSummary(Open):
    """What `timeline` found in one training run. Computed in training_runs/summary.

    steps            checkpoints that could be measured [step]
    unit             what steps count: step, index, epoch or tokens training_runs/sources
    emergence_step   when the sink emerged [step] training_runs/course
    emergence        when the sink, the norm and the direction emerged
    stages           stages of training
    stages_bic       BIC for each number of stages, from one on [1] training_runs/stages
    settled_step     when the circuit had settled for good [step] training_runs/settling
    settled          how the settling signal went
    concentration    C_k of the last checkpoint [share] training_runs/signals
    late_share       of the last checkpoint, mean over the heads looked at [share]
    norm_ratio       norm of P0 over the others', at the read point of the last checkpoint [ratio]
    emergence_block  of the last checkpoint training_runs/signals
    loss             of the last checkpoint on the prompts [nat] training_runs/checkpoint_metrics
    looked_at        how much of each checkpoint was looked at
    null             99th percentile of each signal over untrained models, or why there is none
                     training_runs/pilot
    broken           checkpoint -> what is wrong with it training_runs/sweep
    notes            what a reader must know to read the numbers rightly
    """

    steps: list[int]
    unit: str
    emergence_step: int | None
    emergence: dict[str, EmergencePoint | None]
    stages: list[TrainingStage]
    stages_bic: list[float | None]
    settled_step: int | None
    settled: Settling
    concentration: dict[str, Measured]
    late_share: Measured
    norm_ratio: float | None
    emergence_block: int
    loss: float | None
    looked_at: Extent
    null: dict[str, float] | str
    broken: dict[str, str]
    notes: list[str]


class TimelineSummary(RunSummary):
    """What `timeline` found: the first run's keys, and beside them every run's.

    runs       run -> what was found in it
    judgement  how well each signal tells the loss that remains training_runs/judging
    """

    runs: dict[str, RunSummary]
    judgement: Judgement
