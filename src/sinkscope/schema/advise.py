"""The schema of `advise`."""

from __future__ import annotations

from typing_extensions import NotRequired, TypedDict

from sinkscope.schema.base import Measured, Open


class AdviceLine(TypedDict):
    """A line for the user's own tool. In advice/lines."""

    tool: str  # the tool it is for
    purpose: NotRequired[str]  # what it sets there, such as an int4 KV cache; older results lack it
    line: str  # what to paste
    version: str  # version or commit in which the setting was read
    source: str  # file or page in which it was read
    note: str  # what to know before pasting


class AdviceRow(TypedDict, total=False):
    """One thing that was done to the model, and what it costs."""

    what: str  # in words
    ce_change: Measured  # change of the loss on the same text [nat]
    kl: Measured  # KL from the intact prediction for each token [nat]
    control: bool  # whether it is there to be compared with


class Outlier(TypedDict):
    """A linear map whose input is far larger at one position than elsewhere. In advice/outliers."""

    module: str  # its path
    size: float  # the largest magnitude that it is given [activation]
    median: float  # median over positions of the largest magnitude there [activation]
    position: int  # where the largest stands
    token: str  # the token there
    channel: int  # its channel


class StreamingHead(TypedDict):
    """A head that an answer names, and what it looks at. In advice/cache_heads and idle_heads.

    Of short caches a key-value head with its attention on first and recent tokens, from behind the
    window (the least of its query heads); of idle heads a query head with its late share of P0.
    """

    block: int  # its block
    head: int  # its number in the block
    mass: float  # attention on those tokens [share]


class Advice(Open):
    """The answer to one question. In advice/advise."""

    question: str  # as a user would ask it
    answer: str  # in a word or two; "does not apply" and "undetermined" are answers
    sentence: str  # the answer in a sentence
    value: Measured | None = None  # the number that decided [nat or as the sentence says]
    # what a gate can be held against: name -> word or number; None where it is undetermined
    facts: dict[str, str | float | None] = {}
    rows: list[AdviceRow] = []  # the evidence
    lines: list[AdviceLine] = []  # what to paste
    without: list[str] = []  # tools that have no such setting
    outliers: list[Outlier] = []  # of the question on quantisation
    heads: list[StreamingHead] = []  # heads of short caches, and idle ones
    limits: str = ""  # what this does not show
