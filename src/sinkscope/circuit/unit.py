"""A unit of a circuit: one head, neuron or expert, or the embedding, and how units are sorted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

HEAD = "head"  # of a block's attention
NEURON = "neuron"  # of a block's MLP; in routed blocks the neurons of that index in every expert
SHARED = "shared neuron"  # of the expert that serves every token, or of a block's further MLPs
EXPERT = "expert"  # of a routed MLP
EMBEDDING = "embedding"  # block −1, index 0


@dataclass(frozen=True, order=True, slots=True)
class Unit:
    """One unit, counted from 0: which block, what it is, and which one of its kind."""

    block: int
    kind: str
    index: int

    @property
    def place(self) -> tuple[int, int]:
        """(block, index), as `summary.json` lists units of one kind."""
        return self.block, self.index


def of_kind(units: Iterable[Unit], kind: str) -> list[Unit]:
    """Those of one kind, in their order."""
    return [unit for unit in units if unit.kind == kind]


def by_block(units: Iterable[Unit], kind: str) -> dict[int, list[int]]:
    """Block, ascending -> indices of its units of one kind, in their order."""
    found: dict[int, list[int]] = {}
    for unit in of_kind(units, kind):
        found.setdefault(unit.block, []).append(unit.index)
    return dict(sorted(found.items()))
