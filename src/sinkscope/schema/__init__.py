"""The schema of `summary.json`: pydantic models, open to new keys, never renaming old ones.

`scan`, `trace`, `verify` and `mix` hold one entry for each BOS policy (`with`, `without`);
`timeline` is one object, and `replication` has an entry for each published experiment. A command
that was not run leaves no key. docs/summary.md lists every key; it is made from these classes.
"""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field

from sinkscope.schema.advise import Advice
from sinkscope.schema.base import Environment, Made, Measured, ModelInfo, Open, PromptInfo
from sinkscope.schema.mix import MixRow, MixSummary
from sinkscope.schema.replication import ReplicationSummary
from sinkscope.schema.scan import ScanSummary
from sinkscope.schema.timeline import RunSummary, TimelineSummary
from sinkscope.schema.trace import TraceSummary
from sinkscope.schema.verify import StageSummary, TestRow, VerifySummary

__all__ = [
    "SCHEMA",
    "Advice",
    "Environment",
    "Made",
    "Measured",
    "MixRow",
    "MixSummary",
    "ModelInfo",
    "PromptInfo",
    "ReplicationSummary",
    "RunSummary",
    "ScanSummary",
    "StageSummary",
    "Summary",
    "TestRow",
    "TimelineSummary",
    "TraceSummary",
    "VerifySummary",
]
SCHEMA = "1"


class Summary(Open):
    """Everything in summary.json."""

    # version of this schema; its key is `schema`
    schema_version: str = Field(default=SCHEMA, alias="schema")
    model: ModelInfo  # which model was looked at
    prompts: PromptInfo  # which tokens were looked at
    environment: Environment  # versions and settings that the numbers depend on
    command: dict[str, Any] = {}  # name and settings of each command
    made: Made | None = None  # date, duration, memory and command line
    scan: dict[str, ScanSummary] = {}  # BOS policy -> what `scan` found
    trace: dict[str, TraceSummary] = {}  # BOS policy -> what `trace` found
    verify: dict[str, VerifySummary] = {}  # BOS policy -> what `verify` found
    timeline: TimelineSummary | None = None  # what `timeline` found
    advise: dict[str, Advice] = {}  # question -> what `advise` answers
    mix: dict[str, MixSummary] = {}  # BOS policy -> what `mix` found
    replication: dict[str, ReplicationSummary] = {}  # published experiment -> what it gave here

    model_config = ConfigDict(extra="allow", populate_by_name=True, protected_namespaces=())
