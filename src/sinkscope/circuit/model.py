"""A traced circuit, as the causal tests take it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from sinkscope.observe.sites import Sites


@dataclass
class Circuit:
    """Where the sink of position zero is built, under one BOS policy.

    direction            u [d], unit length, fp32 on the CPU; None where P0 is not set apart
    read_point           block at whose input u was taken (the number of blocks: after the last)
    emergence_block      l*: block whose write sets P0 apart, −1 the embedding, None nothing does
    emergence_norm, emergence_direction  the same for the norm and for the direction alone
    amplification        norm, direction, both (in different blocks), or None
    plateau              first and last block input at which the norm stays amplified
    neurons              [(block, neuron)] of the k90 set (in routed blocks: of any expert)
    shared_neurons       [(block, neuron)] of it in experts that serve every token
    heads                [(block, head)] of it
    experts              [(block, expert)] that hold its routed neurons
    reading_heads        [(block, head)] that sink at P0
    reading_block        first block that reads
    ranking              [(block, attention | mlp | shared, unit)] that raise the reading heads'
                         logits on P0, those that raise them most first (`circuit.ranking`); or why
                         there is none
    recognition_point    name of the first read point from which P0 can be told apart
    late                 [L, H] mean late share of P0; NaN where a block has no softmax attention
    uniform_late         [L] what uniform attention would give
    """

    bos: str
    direction: torch.Tensor | None
    read_point: int
    emergence_block: int | None
    emergence_norm: int | None
    emergence_direction: int | None
    amplification: str | None
    plateau: tuple[int, int] | None
    neurons: list[tuple[int, int]]
    shared_neurons: list[tuple[int, int]]
    heads: list[tuple[int, int]]
    experts: list[tuple[int, int]]
    reading_heads: list[tuple[int, int]]
    reading_block: int | None
    late: np.ndarray
    uniform_late: np.ndarray
    sites: Sites
    ranking: list[tuple[int, str, int]] | str = "no head reads position zero"
    recognition_point: str | None = None
    notes: list[str] = field(default_factory=list)
