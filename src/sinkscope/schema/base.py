"""What every part of the schema shares, and where the numbers come from.

The field list of each docstring says what a key means, its unit in brackets, and the module that
computes it where that is not the one the class names; `docs/summary.md` is made of these lists.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from typing_extensions import TypedDict


class Measured(BaseModel):
    """A measured value with its 95 % interval; low and high are None where none can be given."""

    value: float | None
    low: float | None = None
    high: float | None = None


class Open(BaseModel):
    """Keys may be added freely, never renamed."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())


class Threshold(TypedDict):
    """A bound that decided something.

    value   the bound
    reason  why it is what it is
    """

    value: float
    reason: str


class ModelInfo(Open):
    """Which model was looked at. Computed in subject/load.

    id              as it was asked for: folder name, Hub id, or bundled
    revision        Hub commit, where there is one
    architecture    class of transformers
    weights_sha256  hash of the weight files, or of the weights of a model in memory
    parameters      number of parameters
    """

    id: str
    revision: str | None = None
    architecture: str
    weights_sha256: str
    parameters: int


class PromptInfo(Open):
    """Which tokens were looked at. Computed in subject/prompts.

    kind    text, random, repeat or ids
    n       number of prompts
    length  tokens in the longest prompt
    sha256  BOS policy -> hash of the token ids
    source  where the text came from
    """

    kind: str
    n: int
    length: int
    sha256: dict[str, str]
    source: str = ""


class Environment(Open):
    """Versions and settings that the numbers depend on. Computed in provenance.

    sinkscope, torch, transformers, python  versions
    platform  operating system and processor
    device    where the model ran
    dtype     dtype of the weights
    seed      seed of every random choice
    threads   CPU threads of torch
    """

    sinkscope: str
    torch: str
    transformers: str
    python: str
    platform: str
    device: str
    dtype: str
    seed: int
    threads: int
