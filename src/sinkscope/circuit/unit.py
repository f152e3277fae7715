"""A unit of a circuit: one head, neuron or expert, or the embedding, and how units are sorted."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from sinkscope.errors import InputError

HEAD = "head"  # of a block's attention
NEURON = "neuron"  # of a block's MLP; in routed blocks the neurons of that index in every expert
SHARED = "shared neuron"  # of the expert that serves every token, or of a block's further MLPs
EXPERT = "expert"  # of a routed MLP
EMBEDDING = "embedding"  # block −1, index 0
_NAMES = {HEAD: "a{}.h{}", NEURON: "m{}.n{}", SHARED: "m{}.s{}"}


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


def name_of(unit: Unit) -> str:
    """a0.h3, m11.n1229, m3.s5 or input: nodes as MIB and EAP-IG name them, neurons behind a dot."""
    if unit.kind == EMBEDDING:
        return "input"
    return _NAMES[unit.kind].format(unit.block, unit.index)


def unit_named(name: str) -> Unit:
    """The unit of that name. Raises InputError for a name of none."""
    if name == "input":
        return Unit(-1, EMBEDDING, 0)
    for kind, form in _NAMES.items():
        found = re.fullmatch(form.replace(".", r"\.").format(r"(\d{1,9})", r"(\d{1,9})"), name)
        if found:
            return Unit(int(found[1]), kind, int(found[2]))
    raise InputError(f"{name!r} names no unit: a0.h3, m11.n1229, m3.s5 and input do.")
