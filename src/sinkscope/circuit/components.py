"""The fewest components that make 90 % of what was written along a direction.

Shares are parts of what embedding and sublayers add, those alone that add: they make 1 together,
and what others take back stands beside them with its sign.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sinkscope.circuit.phases import HALF
from sinkscope.circuit.unit import EXPERT, HEAD, NEURON, SHARED, Unit, by_block
from sinkscope.circuit.writes import Writes

SHARE = 0.9
MOST = 0.99  # beyond that a unit is one of many that do next to nothing
AGAINST = 0.1  # of the whole: so much more than its sublayer a named unit writes with an opponent
LEAST_EXPERT = 0.01  # an expert that P0 is rarely sent to still writes when it is


@dataclass(frozen=True)
class Components:
    """Who writes, largest first.

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
    def writers(self) -> tuple[Unit, ...]:
        """Those that write: without the experts, which hold some of them."""
        return tuple(unit for unit in self.units if unit.kind != EXPERT)

    @property
    def k90(self) -> int:
        """How many neurons there are among the fewest components that make 90 %."""
        return sum(unit.kind in (NEURON, SHARED) for unit in self.units)

    def rows(self, kind: str) -> list[list[Any]]:
        """[block, index, share] of the units of one kind."""
        return [[*unit.place, share] for unit, share in self.shares if unit.kind == kind]


def main_components(writes: Writes, share: float = SHARE) -> Components:
    """Rank every component by its write and keep the fewest that make `share` of what was raised.

    Units of a sublayer that write against each other are kept together: if its named ones write a
    tenth of the whole more than the sublayer does, so are those that take it back.
    """
    total = raised(writes)
    if total <= 0:
        return Components()
    rows = sorted(_table(writes), key=lambda row: -row[1])
    raising = [row for row in rows if row[1] > 0]
    chosen: list[tuple[Unit | str, float]] = []
    while raising and sum(value for _, value in chosen) < share * total * (1 - 1e-9):
        chosen.append(raising.pop(0))
        chosen += _opponents(writes, rows, chosen, AGAINST * total)
    whole = [(one, value / total) for one, value in chosen if isinstance(one, str)]
    units = [one for one, _ in chosen if isinstance(one, Unit)]
    return _of_units(writes, units, whole)


def these_components(writes: Writes, units: Iterable[Unit]) -> Components:
    """Given heads and neurons with their shares, largest first, and the experts that hold them."""
    own = set(units)
    rows = sorted(_table(writes), key=lambda row: -row[1])
    return _of_units(writes, [one for one, _ in rows if one in own], [])  # type: ignore[misc]


def enough_components(
    kept: Callable[[Sequence[Unit]], list[float] | None],
    writes: Writes,
    found: Components,
    left: list[float],
    more: Sequence[Unit],
) -> tuple[Components, list[float]]:
    """The named units with the fewest of `more` without which heads keep half, and what is kept.

    As they were, where all of them are not enough.
    kept  what heads keep without some units (`Naming.kept`); left: without those found
    """
    there = {one for one, _ in _table(writes)} - {*found.units}
    units = [*found.units, *dict.fromkeys(unit for unit in more if unit in there)]
    low, high = len(found.units), len(units)
    best = kept(units) if high > low else None
    if best is None or best[0] > HALF:
        return found, left
    while high - low > 1:
        middle = (low + high) // 2
        tried = kept(units[:middle])
        if tried is None or tried[0] > HALF:
            low = middle
        else:
            high, best = middle, tried
    return replace(these_components(writes, units[:high]), whole=found.whole), best


def raised(writes: Writes) -> float:
    """What embedding and sublayers add, those alone that add: shares are parts of it."""
    return max(writes.embedding, 0.0) + sum(max(value, 0.0) for value in writes.total.values())


def part_of(writes: Writes, units: Iterable[Unit]) -> float | None:
    """What these units make of it; None where nothing is raised."""
    total, own = raised(writes), set(units)
    made = sum(value for one, value in _table(writes) if one in own)
    return made / total if total > 0 else None


def _of_units(writes: Writes, units: list[Unit], whole: list[tuple[str, float]]) -> Components:
    total = raised(writes) or 1.0
    value = dict(_table(writes))
    shares = [(unit, value[unit] / total) for unit in units]
    return Components((*shares, *_experts(writes, units, total)), tuple(whole))


def _opponents(
    writes: Writes,
    rows: list[tuple[Unit | str, float]],
    chosen: list[tuple[Unit | str, float]],
    least: float,
) -> list[tuple[Unit | str, float]]:
    """Units that take back what named ones of their sublayer write beyond what it adds in all."""
    named = {one: value for one, value in chosen if isinstance(one, Unit)}
    found: list[tuple[Unit | str, float]] = []
    for kind, name in ((HEAD, "attention"), (NEURON, "mlp")):
        for block in by_block([unit for unit in named if named[unit] > 0], kind):
            own = [(u, v) for u, v in rows if isinstance(u, Unit) and u.block == block]
            own = [(u, v) for u, v in own if u.kind == kind and u not in named]
            over = sum(v for u, v in named.items() if (u.block, u.kind) == (block, kind))
            over -= writes.total.get(f"{block}.{name}", 0.0)
            for unit, value in reversed(own):
                if over <= least or -value < least:
                    break
                found.append((unit, value))
                over += value
    return found


def unit_writes(writes: Writes) -> list[tuple[Unit, float]]:
    """Write along u of every head and neuron, in no order."""
    return [(one, value) for one, value in _table(writes) if isinstance(one, Unit)]


def neuron_writes(writes: Writes) -> dict[int, np.ndarray]:
    """Block -> writes [neurons] of its first MLP along u, summed over experts."""
    found = {}
    for block, _, name in writes.sites.writes:
        if name in writes.units and name == f"{block}.mlp":
            units = writes.units[name].double().numpy()
            found[block] = units.sum(0) if units.ndim == 2 else units
    return found


def _table(writes: Writes) -> list[tuple[Unit | str, float]]:
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
