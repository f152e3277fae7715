"""A traced circuit, as the causal tests take it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from sinkscope.circuit.phase_parts import PhaseParts
from sinkscope.circuit.unit import Unit, of_kind
from sinkscope.errors import Missing
from sinkscope.observe.sites import Sites


@dataclass(frozen=True, eq=False, repr=False)
class Circuit:
    """Where the sink of position zero is built, under one BOS policy.

    direction            u [d], unit length, fp32 on the CPU; None where P0 is not set apart
    read_point           block at whose input u was taken (the number of blocks: after the last)
    emergence_block      l*: block whose write sets P0 apart, −1 the embedding, None nothing does
    amplification        norm, direction, both (in different blocks), or None
    plateau              first and last block input at which the norm stays amplified
    writers              heads and neurons of the k90 set, those that write most first, and experts
                         that hold its routed neurons
    sinks                whether the model sinks at P0 at all
    sinking_prompts      [n] whether it does so in each prompt
    positions            that hold the sink together, P0 among them (`detect.decision.Sinks`)
    reading_heads        (block, head) that sink at P0
    reading_block        first block that reads
    ranking              heads and neurons that raise the reading heads' logits on P0, those that
                         raise them most first (`circuit.ranking`); or why there is no such list
    phases               every rise and fall of P0 along depth, with its parts; all of the above is
                         of the one that most sink heads read
    recognition_point    name of the first read point from which P0 can be separated
    late                 [L, H] mean late share of P0; NaN where a block has no softmax attention
    uniform_late         [L] what uniform attention would give
    """

    bos: str
    direction: torch.Tensor | None
    read_point: int
    emergence_block: int | None
    amplification: str | None
    plateau: tuple[int, int] | None
    writers: tuple[Unit, ...]
    sinks: bool
    sinking_prompts: np.ndarray
    positions: tuple[int, ...]
    reading_heads: tuple[tuple[int, int], ...]
    reading_block: int | None
    ranking: tuple[Unit, ...] | Missing
    phases: tuple[PhaseParts, ...]
    recognition_point: str | None
    late: np.ndarray
    uniform_late: np.ndarray
    sites: Sites

    def __repr__(self) -> str:
        """Where it emerges, and how many units write and read it."""
        block = "nowhere" if self.emergence_block is None else f"in block {self.emergence_block}"
        return (
            f"<sinkscope Circuit {self.bos} BOS: emerges {block}, {len(self.writers)} writers, "
            f"{len(self.reading_heads)} reading heads>"
        )

    def of(self, kind: str) -> list[Unit]:
        """Writers of one kind (`circuit.unit`), those that write most first."""
        return of_kind(self.writers, kind)
