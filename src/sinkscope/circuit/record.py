"""Everything that a trace measures, before it is put into arrays and a summary."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sinkscope.circuit.find import FoundCircuit
from sinkscope.circuit.induction import Induction
from sinkscope.circuit.routing import Routing
from sinkscope.circuit.unmixed import Cone
from sinkscope.circuit.vocabulary import Vocabulary
from sinkscope.circuit.writes import Writes
from sinkscope.schema.trace import WeightView
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts


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
