"""The fewest components that make 90 % of what was written along the sink direction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sinkscope.circuit.unit import EXPERT, HEAD, NEURON, SHARED, Unit, by_block
from sinkscope.circuit.writes import Writes

SHARE = 0.9
LEAST_EXPERT = 0.01  # an expert that P0 is rarely sent to still writes when it is


@dataclass(frozen=True)
class Components:
    """Who writes, largest first; shares are of the positive write, summed over all components.

    shares  (unit, share) of heads, neurons and shared neurons, and behind them of the experts that
            hold the routed neurons among these
    whole   (name, share) of what cannot be split: embedding, biases, sublayers without units
    """

    shares: tuple[tuple[Unit, float], ...] = ()
    whole: tuple[tuple[str, float], ...] = ()

    @property
    def units(self) -> tuple[Unit, ...]:
        """The units alone."""
        return tuple(unit for unit, _ in self.shares)

    @property
    def k90(self) -> int:
        """How many neurons there are among the fewest components that make 90 %."""
        return sum(unit.kind in (NEURON, SHARED) for unit in self.units)

    def rows(self, kind: str) -> list[list[Any]]:
        """[block, index, share] of the units of one kind."""
        return [[*unit.place, share] for unit, share in self.shares if unit.kind == kind]


def main_components(writes: Writes, share: float = SHARE) -> Components:
    """Rank every component by its write along u and keep the fewest that make `share` of it."""
    table = table_of(writes)
    positive = np.clip(np.array([value for _, value in table]), 0.0, None)
    total = positive.sum()
    if total <= 0:
        return Components()
    order = np.argsort(-positive, kind="stable")
    count = int(np.searchsorted(np.cumsum(positive[order]), share * total * (1 - 1e-9))) + 1
    found = [(table[i][0], float(table[i][1] / total)) for i in order[:count]]
    units = [(one, part) for one, part in found if isinstance(one, Unit)]
    whole = [(one, part) for one, part in found if isinstance(one, str)]
    return with_experts(writes, units, whole, total)


def with_experts(
    writes: Writes,
    units: list[tuple[Unit, float]],
    whole: list[tuple[str, float]],
    total: float,
) -> Components:
    """These units, with the experts that hold the routed neurons among them."""
    experts = _experts(writes, [unit for unit, _ in units], total)
    return Components((*units, *experts), tuple(whole))


def unit_writes(writes: Writes) -> list[tuple[Unit, float]]:
    """Write along u of every head and neuron, in no order."""
    return [(one, value) for one, value in table_of(writes) if isinstance(one, Unit)]


def neuron_writes(writes: Writes) -> dict[int, np.ndarray]:
    """Block -> write of each neuron of its first MLP along u, summed over experts."""
    found = {}
    for block, _, name in writes.sites.writes:
        if name in writes.units and name == f"{block}.mlp":
            units = writes.units[name].double().numpy()
            found[block] = units.sum(0) if units.ndim == 2 else units
    return found


def table_of(writes: Writes) -> list[tuple[Unit | str, float]]:
    """Write of every component: of units, and by name of what cannot be split."""
    rows: list[tuple[Unit | str, float]] = [("embedding", writes.embedding)]

    def add(block: int, kind: str, values: Any) -> None:
        rows.extend((Unit(block, kind, index), value) for index, value in enumerate(values))

    for block, index, name in writes.sites.writes:
        if name not in writes.total:
            continue
        if name not in writes.units:
            rows.append((name, writes.total[name]))
            continue
        if writes.bias.get(name):
            rows.append((f"{name} bias", writes.bias[name]))
        sublayer = writes.sites.blocks[block][index]
        units = writes.units[name].double()
        if sublayer.kind == "attention" and sublayer.heads is not None:
            add(block, HEAD, units.reshape(sublayer.heads, -1).sum(1).tolist())
        elif sublayer.kind == "mlp":
            kind = NEURON if name == f"{block}.mlp" else SHARED
            add(block, kind, (units.sum(0) if units.dim() == 2 else units).tolist())
        else:
            rows.append((name, float(units.sum())))
        if name in writes.shared:
            add(block, SHARED, writes.shared[name].double().tolist())
    return rows


def _experts(writes: Writes, found: list[Unit], total: float) -> list[tuple[Unit, float]]:
    """Experts that hold at least 1 % of the write in the routed neurons, largest first."""
    rows: list[tuple[Unit, float]] = []
    for block, chosen in by_block(found, NEURON).items():
        units = writes.units[f"{block}.mlp"]
        if units.dim() == 2:
            for expert, value in enumerate(units[:, chosen].double().sum(1).tolist()):
                rows.append((Unit(block, EXPERT, expert), float(value / total)))
    return sorted((row for row in rows if row[1] >= LEAST_EXPERT), key=lambda row: -row[1])
