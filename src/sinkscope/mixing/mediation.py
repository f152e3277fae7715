"""How much of the rise in mixing goes through the sink: the circuit cut, with the masses clamped.

Cutting the circuit changes P0's stream, and with it both how much attention P0 draws and what is
read there. Let Y(c, m) be the spread with circuit c (intact 0, cut 1) and the mass of every query
on P0, in every head, held at what it is under m. Then (Pearl 2001)

    total    Y(1, 1) − Y(0, 0)
    through  Y(0, 1) − Y(0, 0)    natural indirect effect: only the masses change
    direct   Y(1, 0) − Y(0, 0)    natural direct effect: everything but the masses changes

Two mediated shares, through / total and 1 − direct / total, agree where the two do not interact;
both are given. Masses are clamped for original and variant of each pair to their own.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

import numpy as np

from sinkscope.intervene.edits import ClampAttention, Edit, RecordAttention
from sinkscope.mixing.conditions import INTACT, Condition
from sinkscope.mixing.pairs import Pairs
from sinkscope.mixing.perturbation import perturb
from sinkscope.mixing.thresholds import ROUNDING
from sinkscope.observe.sites import Sites
from sinkscope.result import Measured
from sinkscope.stats import Draw
from sinkscope.subject.load import Subject


@dataclass
class Mediation:
    """Final spread [n] of each pair in the four worlds; `draw` how they are resampled."""

    intact: np.ndarray
    cut: np.ndarray
    masses_of_cut: np.ndarray
    masses_of_intact: np.ndarray
    draw: Draw = field(default_factory=Draw)

    @property
    def total(self) -> Measured:
        """Effect of the cut on the spread."""
        return self.draw.change(self.cut, self.intact)

    @property
    def through(self) -> Measured:
        """Effect of the masses alone."""
        return self.draw.change(self.masses_of_cut, self.intact)

    @property
    def direct(self) -> Measured:
        """Effect of everything but the masses."""
        return self.draw.change(self.masses_of_intact, self.intact)

    @property
    def share(self) -> Measured:
        """through / total; None where the cut changes nothing."""
        if not self.defined:
            return Measured(value=None)
        return self.draw.change(self.masses_of_cut, self.intact, self.cut - self.intact)

    @property
    def share_by_direct(self) -> Measured:
        """1 − direct / total; None where the cut changes nothing."""
        if not self.defined:
            return Measured(value=None)
        return self.draw.change(self.cut, self.masses_of_intact, self.cut - self.intact)

    @property
    def defined(self) -> bool:
        """Whether the cut changes the spread at all: a share of nothing is no number."""
        total = self.total
        if total.value is None or total.low is None or total.high is None:
            return False
        return total.low * total.high > 0 and abs(total.value) > ROUNDING * float(
            self.intact.mean()
        )


def mediate(subject: Subject, pairs: Pairs, cut: Condition, sites: Sites) -> Mediation:
    """The four worlds, two of them clamped to the masses of the other two."""
    masses: dict[str, dict] = {INTACT.name: {}, cut.name: {}}

    def world(circuit: Condition, edit: Edit) -> np.ndarray:
        both = dataclasses.replace(circuit, edits=(*circuit.edits, edit))
        return perturb(subject, pairs, both, sites=sites).final

    return Mediation(
        world(INTACT, RecordAttention(masses=masses[INTACT.name])),
        world(cut, RecordAttention(masses=masses[cut.name])),
        world(INTACT, ClampAttention(masses=masses[cut.name])),
        world(cut, ClampAttention(masses=masses[INTACT.name])),
        Draw(pairs.prompts.units),
    )
