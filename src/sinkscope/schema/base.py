"""What every part of the schema shares, and where the numbers come from.

The comment beside or above a field says what the key means, in brackets its unit and the module
that computes it where that is not the one its class names. `docs/summary.md` is made of these.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict
from typing_extensions import TypedDict


class Measured(BaseModel):
    """A measured value with its 95 % interval; low and high are None where none can be given."""

    value: float | None  # None where there is none
    low: float | None = None  # 95 % interval
    high: float | None = None  # its upper end


class Open(BaseModel):
    """Keys may be added freely, never renamed."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())


class Threshold(TypedDict):
    """A bound that decided something."""

    value: float  # the bound
    reason: str  # why it is what it is


def bounds_of(module: Mapping[str, Any]) -> dict[str, Threshold]:
    """Name -> value and reason, of a module whose REASONS say why its bounds are what they are."""
    return {name: {"value": module[name], "reason": why} for name, why in module["REASONS"].items()}


class WeightFormat(Open):
    """How the weights were stored, where not as they were computed with. In subject/gguf."""

    container: str  # kind of file
    label: str  # the type that most parameters have, such as Q4_1
    types: dict[str, int]  # parameters of each type


class ModelInfo(Open):
    """Which model was looked at. In subject/identity."""

    id: str  # as it was asked for: folder name, Hub id, or bundled
    revision: str | None = None  # Hub commit, where there is one
    architecture: str  # class of transformers
    weights_sha256: str  # hash of the weight files, or of the weights of a model in memory
    parameters: int  # number of parameters
    weights: WeightFormat | None = None  # how they were stored, where that matters
    adapter_of: str | None = None  # base that an adapter was merged into


class PromptInfo(Open):
    """Which tokens were looked at. In subject/prompts."""

    kind: str  # text, random, repeat or ids
    n: int  # number of prompts
    length: int  # tokens in the longest prompt
    sha256: dict[str, str]  # BOS policy -> hash of the token ids
    source: str = ""  # where the text came from
    # BOS policy -> what stands at positions 0, 1, 2, most frequent first, with counts
    positions: dict[str, list[list[str]]] = {}


class Made(Open):
    """When and how a result was made, where a command line made it. In cli/common."""

    date: str  # start, in UTC
    seconds: float  # duration, loading of the model included [s]
    peak_memory: int | None = None  # most memory the process held [byte]
    peak_gpu_memory: int | None = None  # most memory torch held on a GPU [byte]
    command: str  # the command line that repeats it


class Environment(Open):
    """Versions and settings that the numbers depend on. In provenance."""

    sinkscope: str  # version
    torch: str  # version
    transformers: str  # version
    python: str  # version
    platform: str  # operating system and processor
    device: str  # where the model ran
    dtype: str  # dtype of the weights
    seed: int  # seed of every random choice
    threads: int  # CPU threads of torch
