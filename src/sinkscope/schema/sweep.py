"""The schema of a sweep's own summary.json: a row a run and BOS policy, and what failed."""

from __future__ import annotations

from typing import Any

from typing_extensions import TypedDict

from sinkscope.schema.base import Measured, Open


class PhaseSpan(TypedDict):
    """One rise and fall of P0 along depth, in short. In circuit/phases."""

    rise: list[int]  # first and last block of the rise; [-1, -1]: the embedding
    fall: list[int] | None  # first and last block that take it back; none where it lasts
    readers: int  # how many heads read it
    most_read: bool  # whether the other figures are of this phase


class SweepRow(Open):
    """What one run found under one BOS policy, in one line. In model_runs/rows."""

    run: str  # its folder, beside which its report lies
    model: str  # what it is called
    family: str  # class of transformers
    parameters: int  # number of parameters
    blocks: int | None = None  # number of blocks; None without arrays of a scan
    settings: dict[str, Any] = {}  # those that vary
    bos: str  # BOS policy
    position_zero: str = ""  # what stands at P0 most often
    p0_sink: bool | None = None  # whether the model has a sink at P0 [detect/decision]
    kind: str = ""  # p0, learned, positions, tokens, none, or not visible [detect/decision]
    late_share: Measured | None = None  # of P0 [share, detect/attention]
    uniform_late_share: float | None = None  # the same under uniform attention [share]
    sink_heads: int | None = None  # how many heads sink [detect/decision]
    heads: int | None = None  # of how many that see P0 [detect/decision]
    emergence_block: int | None = None  # -1 is the embedding [circuit/amplification]
    # [sublayer, share] of the two that write most of what the sink heads read
    # [share, circuit/components]
    writers: list[list[str | float]] = []
    phases: list[PhaseSpan] = []  # rises and falls of P0
    verdict: str | None = None  # None where nothing was tested [causal/verdict]
    expected: str | None = None  # what is known of a constructed model
    missing: list[str] = []  # what the verdict would still need
    test_passes: float | None = None  # passes that the tests cost [intervene/engine]
    incomplete: str = ""  # why there is no trace, or no verdict


class FailedRun(TypedDict):
    """A run that could not be measured. In model_runs/sweep."""

    model: str  # what it is called
    settings: dict[str, Any]  # those that vary
    reason: str  # one sentence


class SweepSummary(Open):
    """What a sweep found. Times stand apart, in times.csv, for they differ at every attempt."""

    schema_version: str = "1"  # version of this schema
    sinkscope: str  # version
    torch: str  # version
    transformers: str  # version
    name: str  # of the sweep: its file, without the ending
    do: str  # run or scan
    threads: int  # CPU threads of torch in each run
    models: list[str]  # what they are called, as in the file
    runs: int  # models × settings
    settings: dict[str, Any] = {}  # of all runs alike
    rows: list[SweepRow] = []  # run by run, BOS policy by BOS policy
    failed: list[FailedRun] = []  # runs that could not be measured
