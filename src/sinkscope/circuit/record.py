"""Everything that a trace measures, before it is put into arrays and a summary."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from sinkscope.circuit.amplification import Direction, Norm
from sinkscope.circuit.components import Components
from sinkscope.circuit.induction import Induction
from sinkscope.circuit.keys import SinkLogits
from sinkscope.circuit.model import Circuit
from sinkscope.circuit.observed import Observed
from sinkscope.circuit.reading import SinkHeads
from sinkscope.circuit.recognition import Recognition
from sinkscope.circuit.routing import Routing
from sinkscope.circuit.unmixed import Cone
from sinkscope.circuit.vocabulary import Vocabulary
from sinkscope.circuit.writers import Named
from sinkscope.circuit.writes import Writes
from sinkscope.errors import Missing
from sinkscope.schema.trace import WeightView
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts


@dataclass(frozen=True, eq=False)
class FoundCircuit:
    """A circuit and what it was found from.

    tokens    first tokens [k] that P0 was averaged over
    p0        [k, points, d] P0's stream for them
    here      [n, points, d] P0's stream for the prompts' own first tokens
    named     how the writers were checked; None where nothing reads, or keys are not at hand
    null      largest norm ratio of P0 in the same architecture untrained
    """

    circuit: Circuit
    observed: Observed
    reading: SinkHeads
    tokens: torch.Tensor
    p0: torch.Tensor
    here: torch.Tensor
    norm: Norm
    direction: Direction | None
    writes: Writes | None
    components: Components
    named: Named | None
    recognition: Recognition
    null: float | Missing
    logits: SinkLogits | Missing

    @property
    def at(self) -> list[int]:
        """Numbers of the block inputs x0..xL among `sites.points`."""
        return self.circuit.sites.inputs


@dataclass(frozen=True, eq=False)
class Traced:
    """What was measured under one BOS policy.

    whole     all prompts; prompts: those of them that the circuit was traced on
    seed      of intervals
    read      writes along the mean gradient of the reading heads' logits, for attribution
    routing   of P0's first tokens, in routed families; that of the prompts is in found.observed
    """

    subject: Subject
    whole: Prompts
    prompts: Prompts
    seed: int
    found: FoundCircuit
    induction: Induction
    read: Writes | None
    cones: dict[int, Cone]
    vocabulary: Vocabulary | None
    routing: Routing
    weights: list[WeightView]
    text_cosine: float | None

    @property
    def block_writes(self) -> np.ndarray | None:
        """⟨Δ^l_0, u⟩ of every block, mean over the first tokens of the prompts: [blocks]."""
        u = self.found.circuit.direction
        if u is None:
            return None
        along = (self.found.here[:, self.found.at].mean(0) @ u).numpy().astype(np.float64)
        return np.diff(along)
