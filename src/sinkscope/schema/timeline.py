"""The schema of `timeline`."""

from __future__ import annotations

from typing_extensions import TypedDict

from sinkscope.schema.base import Measured, Open


class EmergencePoint(TypedDict):
    """When a signal emerged above its null. In training_runs/emergence."""

    step: int  # first checkpoint of the sustained crossing [step]
    low: float | None  # checkpoint before the crossing, 95 % sure; None: there is none [step]
    high: float  # checkpoint behind the crossing, 95 % sure [step]
    before: int | None  # the checkpoint before it [step]


class TrainingStage(TypedDict):
    """A stage of training between two change points. In training_runs/stages."""

    start: int  # first checkpoint of it [step]
    stop: int  # last checkpoint of it [step]
    low: int | None  # the gap of the grid in which it began, from [step]
    high: int  # to [step]


class Settling(TypedDict):
    """How the settling signal went. In training_runs/settling."""

    announced: int | None  # when it was announced first [step]
    since: int | None  # from when on it held [step]
    bounds: dict[str, float]  # signal -> bound on its change
    rule: str  # the rule in words


class Extent(TypedDict):
    """How much of each checkpoint was looked at. In training_runs/pilot."""

    first_blocks: int  # blocks that were looked at
    blocks: int  # blocks of the model
    read_point: int  # where the sink direction is taken
    whole_models: bool  # whether whole models were loaded


class SignalScore(TypedDict):
    """How well a signal tells the remaining loss of a run left out. In training_runs/judging."""

    name: str  # signal or baseline
    alone: float | None  # R² of the prediction from it alone, median over runs [1]
    added: float | None  # gain in R² over the baselines [1]
    rank: float | None  # Spearman correlation with the remaining loss [1]
    runs: dict[str, float | None]  # run -> R² alone [1]


class Judgement(TypedDict):
    """The signals held against each other."""

    signals: list[SignalScore]  # a row for each
    reason: str  # why there are none


class RunSummary(Open):
    """What `timeline` found in one training run. In training_runs/summary."""

    steps: list[int]  # checkpoints that could be measured [step]
    unit: str  # what steps count: step, index, epoch or tokens [training_runs/sources]
    # when the sink emerged; None too where the first checkpoint has it [step, training_runs/course]
    emergence_step: int | None
    present_from_start: bool | None = None  # whether the first checkpoint has the sink
    # [first, last] checkpoint of every stretch with the sink [step]
    sink_spans: list[list[int]] = []
    # first checkpoint without it, where it is gone at the end [step]
    vanished_step: int | None = None
    emergence: dict[str, EmergencePoint | None]  # when the sink, the norm and the direction emerged
    stages: list[TrainingStage]  # stages of training
    # BIC for each number of stages, from one on [1, training_runs/stages]
    stages_bic: list[float | None]
    settled_step: int | None  # when the circuit had settled for good [step, training_runs/settling]
    settled: Settling  # how the settling signal went
    concentration: dict[str, Measured]  # C_k of the last checkpoint [share, training_runs/signals]
    # late share of the last checkpoint, mean over the heads of the blocks looked at [share]
    first_blocks_late_share: Measured
    # norm of P0 over the others', at the read point of the last checkpoint [ratio]
    norm_ratio: float | None
    emergence_block: int  # of the last checkpoint [training_runs/signals]
    # of the last checkpoint on the prompts [nat, training_runs/checkpoint_metrics]
    loss: float | None
    looked_at: Extent  # how much of each checkpoint was looked at
    # 99th percentile of each signal over untrained models, or why there is none
    # [training_runs/pilot]
    null: dict[str, float] | str
    broken: dict[str, str] = {}  # checkpoint -> what is wrong with it [training_runs/measured]
    notes: list[str] = []  # what a reader must know to read the numbers rightly


class TimelineSummary(RunSummary):
    """What `timeline` found: the first run's keys, and beside them every run's."""

    runs: dict[str, RunSummary]  # run -> what was found in it
    # how well each signal tells the loss that remains [training_runs/judging]
    judgement: Judgement | None = None
