"""The fewest components that make 90 % of what was written along the sink direction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sinkscope.circuit.writes import Writes

SHARE = 0.9
LEAST_EXPERT = 0.01  # an expert that P0 is rarely sent to still writes when it is


@dataclass(frozen=True)
class Components:
    """Who writes, largest first; shares are of the positive write, summed over all components.

    neurons  [(block, neuron, share)]; in routed blocks summed over experts
    shared   the same in experts that serve every token, and in a block's further MLPs
    heads    [(block, head, share)]
    experts  [(block, expert, share)] of the routed neurons among `neurons`
    whole    [(name, share)] of what cannot be split: embedding, biases, sublayers without units
    k90      how many neurons there are among the fewest components that make 90 %
    """

    neurons: list[tuple[int, int, float]]
    shared: list[tuple[int, int, float]]
    heads: list[tuple[int, int, float]]
    experts: list[tuple[int, int, float]]
    whole: list[tuple[str, float]]

    @property
    def k90(self) -> int:
        """Number of neurons."""
        return len(self.neurons) + len(self.shared)


def main_components(writes: Writes, share: float = SHARE) -> Components:
    """Rank every component by its write along u and keep the fewest that make `share` of it."""
    table = _table(writes)
    values = np.array([value for _, _, _, value in table])
    positive = np.clip(values, 0.0, None)
    total = positive.sum()
    if total <= 0:
        return Components([], [], [], [], [])
    order = np.argsort(-positive, kind="stable")
    count = int(np.searchsorted(np.cumsum(positive[order]), share * total * (1 - 1e-9))) + 1
    found: dict[str, list] = {"neuron": [], "shared": [], "head": [], "whole": []}
    for i in order[:count]:
        kind, place, index, value = table[i]
        part = float(value / total)
        found[kind].append((place, part) if kind == "whole" else (place, index, part))
    experts = _experts(writes, found["neuron"], total)
    return Components(found["neuron"], found["shared"], found["head"], experts, found["whole"])


def head_writes(writes: Writes) -> dict[tuple[int, int], float]:
    """(block, head) -> write along u; a block's attentions are counted through."""
    return {(p, i): v for kind, p, i, v in _table(writes) if kind == "head"}  # type: ignore[misc]


def neuron_writes(writes: Writes) -> dict[int, np.ndarray]:
    """Block -> write of each neuron of its first MLP along u, summed over experts."""
    found = {}
    for block, _, name in writes.sites.writes:
        if name in writes.units and name == f"{block}.mlp":
            units = writes.units[name].double().numpy()
            found[block] = units.sum(0) if units.ndim == 2 else units
    return found


def unit_writes(writes: Writes) -> list[tuple[tuple[int, str, int], float]]:
    """((block, attention | mlp | shared, head or neuron), write) of every unit, in no order."""
    kinds = {"head": "attention", "neuron": "mlp", "shared": "shared"}
    return [
        ((int(place), kinds[kind], index), value)
        for kind, place, index, value in _table(writes)
        if kind in kinds
    ]


def _table(writes: Writes) -> list[tuple[str, int | str, int, float]]:
    """(kind, block or name, index, write) of every component."""
    rows: list[tuple[str, int | str, int, float]] = [("whole", "embedding", 0, writes.embedding)]
    for block, index, name in writes.sites.writes:
        if name not in writes.total:
            continue
        if name not in writes.units:
            rows.append(("whole", name, 0, writes.total[name]))
            continue
        if writes.bias.get(name):
            rows.append(("whole", f"{name} bias", 0, writes.bias[name]))
        sublayer = writes.sites.blocks[block][index]
        units = writes.units[name].double()
        if sublayer.kind == "attention" and sublayer.heads is not None:
            per_head = units.reshape(sublayer.heads, -1).sum(1).tolist()
            rows += [("head", block, head, value) for head, value in enumerate(per_head)]
        elif sublayer.kind == "mlp":
            kind = "neuron" if name == f"{block}.mlp" else "shared"
            values = (units.sum(0) if units.dim() == 2 else units).tolist()
            rows += [(kind, block, neuron, value) for neuron, value in enumerate(values)]
        else:
            rows.append(("whole", name, 0, float(units.sum())))
        if name in writes.shared:
            shared = enumerate(writes.shared[name].double().tolist())
            rows += [("shared", block, neuron, value) for neuron, value in shared]
    return rows


def _experts(writes: Writes, neurons, total: float) -> list[tuple[int, int, float]]:
    """Experts that hold at least 1 % of the write in the routed neurons, largest first."""
    rows = []
    for block in sorted({b for b, _, _ in neurons}):
        units = writes.units[f"{block}.mlp"]
        if units.dim() == 2:
            chosen = [n for b, n, _ in neurons if b == block]
            for expert, value in enumerate(units[:, chosen].double().sum(1).tolist()):
                rows.append((block, expert, float(value / total)))
    return sorted((row for row in rows if row[2] >= LEAST_EXPERT), key=lambda row: -row[2])
