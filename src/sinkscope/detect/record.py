"""Everything that a scan measures, before it is put into arrays and a summary."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sinkscope.detect.attention import AttentionStats
from sinkscope.detect.decision import Sinks
from sinkscope.detect.heads import HeadStats
from sinkscope.detect.residual import ResidualStats
from sinkscope.errors import Missing
from sinkscope.observe.prefill import Prefill
from sinkscope.observe.residual import ResidualProof
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts, PromptSettings


@dataclass(frozen=True, eq=False)
class Scan:
    """What was measured under one BOS policy.

    p0_cosine  [point] mean pairwise cosine of P0 over first tokens
    null       received and late of untrained copies, each [seed, layer, head]
    qk         figure -> [layer, head], see `detect.qk`
    maps       [layer, head, T, T] of a few prompts, as 0..255; map_tokens: their text
    """

    subject: Subject
    prompts: Prompts
    settings: PromptSettings
    attention: AttentionStats
    sinks: Sinks
    residual: ResidualStats | None
    no_residual: str
    heads: HeadStats
    p0_cosine: np.ndarray | None
    proof: ResidualProof
    prefill: Prefill
    null: dict[str, np.ndarray] | Missing
    qk: dict[str, np.ndarray] | None
    maps: list[np.ndarray]
    map_tokens: list[list[str]]
