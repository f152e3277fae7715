"""The schema of `summary.json`: pydantic models, open to new keys, never renaming old ones.

`scan`, `trace`, `verify` and `mix` hold one entry for each BOS policy (`with`, `without`);
`timeline` is one object, and `replication` has an entry for each published experiment. A command
that was not run leaves no key. docs/summary.md lists every key; it is made from these classes.
"""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field

from sinkscope.schema.base import Environment, Measured, ModelInfo, Open, PromptInfo
from sinkscope.schema.mix import MixRow, MixSummary
from sinkscope.schema.replication import ReplicationSummary
from sinkscope.schema.scan import ScanSummary
from sinkscope.schema.timeline import RunSummary, TimelineSummary
from sinkscope.schema.trace import TraceSummary
from sinkscope.schema.verify import StageSummary, TestRow, VerifySummary

__all__ = [
    "SCHEMA",
    "Environment",
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
    """Everything in summary.json.

    schema       version of this schema
    model        which model was looked at
    prompts      which tokens were looked at
    environment  versions and settings that the numbers depend on
    command      name and settings of each command
    scan, trace, verify, mix  BOS policy -> what the command found
    timeline     what `timeline` found
    replication  published experiment -> what it gave here
    """

    schema_version: str = Field(default=SCHEMA, alias="schema")
    model: ModelInfo
    prompts: PromptInfo
    environment: Environment
    command: dict[str, Any] = {}
    scan: dict[str, ScanSummary] = {}
    trace: dict[str, TraceSummary] = {}
    verify: dict[str, VerifySummary] = {}
    timeline: TimelineSummary | None = None
    mix: dict[str, MixSummary] = {}
    replication: dict[str, ReplicationSummary] = {}

    model_config = ConfigDict(extra="allow", populate_by_name=True, protected_namespaces=())
