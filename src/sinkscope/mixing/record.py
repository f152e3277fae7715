"""Everything that `mix` measures, before it is put into arrays and a summary."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from sinkscope.errors import Missing
from sinkscope.mixing.collapse import Collapse
from sinkscope.mixing.conditions import Condition
from sinkscope.mixing.dose import Cost
from sinkscope.mixing.influence import Influence
from sinkscope.mixing.mediation import Mediation
from sinkscope.mixing.pairs import Pairs
from sinkscope.mixing.perturbation import Spread
from sinkscope.mixing.sweeps import LengthSweep
from sinkscope.settings import MixSettings
from sinkscope.stats import Draw
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts


@dataclass(frozen=True, eq=False)
class Bound:
    """Path-sum bound on the frozen-attention Jacobian norms of one prompt, and those norms.

    bound, frozen  [T, T] ‖∂x^L_j/∂x^0_i‖_F at (j, i)
    """

    bound: np.ndarray
    frozen: np.ndarray


@dataclass
class Mixed:
    """What was measured under one BOS policy.

    heads       (block, head) that sink, in which the sink is taken away; empty: the model does not
                sink (`detect.decision`), and the attention conditions act on every head
    spreads     condition -> Spread; `dropped` the spread without BOS, on the same text
    costs       condition -> Cost at each dose
    maps        name -> [n, 2, layer] with P0 and without it, see `mixing.entropy`
    depth       block -> [n] final spread with the sink taken away in that block alone
    """

    subject: Subject
    prompts: Prompts
    settings: MixSettings
    heads: tuple[tuple[int, int], ...]
    pairs: Pairs
    conditions: dict[str, Condition]
    spreads: dict[str, Spread]
    costs: dict[str, list[Cost]]
    collapses: dict[str, Collapse]
    maps: dict[str, np.ndarray]
    influence: Influence | Missing
    bound: Bound | Missing
    mediation: Mediation | Missing
    lengths: LengthSweep | None = None
    depth: dict[int, np.ndarray] | None = None
    dropped: tuple[Spread, Cost] | None = None
    paraphrases: tuple[Pairs, dict[str, Spread]] | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def draw(self) -> Draw:
        """Of what intervals over the prompts are drawn."""
        return Draw(self.prompts.units)

    @property
    def controls(self) -> dict[str, str]:
        """Condition -> its control, of those that were run."""
        return {n: c.control for n, c in self.conditions.items() if c.control in self.conditions}
