"""S4: keep only the circuit's writes at position zero, and the other way round.

The set starts with the traced writers and grows by units in the order of what they add to the
reading heads' logits (`circuit.ranking`), until it alone keeps FAITHFUL of the sink and everything
else alone at most COMPLETE of it. What is reported is the smallest such set within SPARSE of all
units, or the largest within it; larger sets are tried as well, to say how many units it would take.
The size is chosen on the prompts that it is reported for, so other prompts may need another.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from sinkscope.causal.families.necessity import ranked_neurons
from sinkscope.causal.testing import CausalBench
from sinkscope.causal.thresholds import COMPLETE, FAITHFUL, SPARSE
from sinkscope.errors import Unsupported
from sinkscope.intervene.edits import KeepUnits, Stream
from sinkscope.intervene.edits.base import Edit
from sinkscope.result import Measured
from sinkscope.stats import paired_change, sign_flip_p

STEPS = 5  # sizes tried within SPARSE, evenly on a log scale
BEYOND = (2, 4)  # times SPARSE, tried where none within it will do

Units = dict[tuple[int, str], tuple[int, ...]]


@dataclass
class SizeScore:
    """One set that was tried: how many units, and what it and its complement keep of the sink."""

    components: int
    units: Units
    kept: np.ndarray
    left: np.ndarray
    faithfulness: Measured
    completeness: Measured

    @property
    def holds(self) -> bool:
        """Whether the set is faithful and complete."""
        kept, left = self.faithfulness.value, self.completeness.value
        return kept is not None and left is not None and kept >= FAITHFUL and left <= COMPLETE


@dataclass
class Kept:
    """S4: what is left of the sink when P0 keeps only the circuit's writes.

    faithfulness, completeness  sink kept by the circuit alone, and by everything else alone,
                                relative to intact
    random                      mean faithfulness of random sets of as many units; draws [m]
    p                           one-sided, circuit against random sets
    components, share           units kept, and their share of all of P0's
    traced                      how many of them the trace lists
    needed                      units of the smallest set tried that holds, of any size; or None
    sizes                       all sets that were tried, by size
    edits                       of the two passes, in words
    """

    faithfulness: Measured
    completeness: Measured
    random: Measured | None
    draws: np.ndarray | None
    p: float | None
    components: int
    share: float
    total: int
    traced: int
    needed: int | None
    sizes: list[SizeScore]
    edits: tuple[list[Edit], list[Edit]]
    kept: np.ndarray
    left: np.ndarray


def keep_circuit(lab: CausalBench) -> Kept | None:
    """S4: only the circuit's writes at P0 are kept, at their intact values; all else is the mean.

    None where a sublayer does not show its units; the reason is left in the notes.
    """
    traced = traced_units(lab)
    if not traced:
        lab.notes.append("S4: the trace names no unit that writes before the sink heads.")
        return None
    room = _sizes(lab)
    total = 1 + sum(room.values())
    try:
        sizes = _grown(lab, traced, total)
    except Unsupported as refusal:
        lab.notes.append(f"S4: {refusal}")
        return None
    small = [size for size in sizes if size.components <= max(SPARSE * total, count_of(traced))]
    chosen = next((size for size in small if size.holds), small[-1])
    random = [
        lab.run(keep_edits(lab, _random_units(lab, chosen.units, room, draw))).on(lab.heads)
        for draw in range(lab.draws)
    ]
    sink, shares = lab.intact_sink, np.stack(random) if random else None
    return Kept(
        faithfulness=chosen.faithfulness,
        completeness=chosen.completeness,
        random=None if shares is None else _relative(lab, shares.mean(0)),
        draws=None if shares is None else shares.mean(1) / sink.mean(),
        p=None if shares is None else sign_flip_p(chosen.kept - shares.mean(0)),
        components=chosen.components,
        share=chosen.components / total,
        total=total,
        traced=count_of(traced),
        needed=next((size.components for size in sizes if size.holds), None),
        sizes=sizes,
        edits=(keep_edits(lab, chosen.units), keep_edits(lab, chosen.units, True)),
        kept=chosen.kept / sink.mean(),
        left=chosen.left / sink.mean(),
    )


def _grown(lab: CausalBench, traced: Units, total: int) -> list[SizeScore]:
    """The traced set, then larger ones until one is faithful and complete."""
    ranking = lab.circuit.ranking
    if isinstance(ranking, str):
        lab.notes.append(f"S4: only the traced units are kept, since {ranking}.")
        ranking = []
    have = {(block, kind, unit) for (block, kind), own in traced.items() for unit in own}
    more = [unit for unit in ranking if unit not in have and unit[0] < lab.last_read]
    first = len(have)
    sizes: list[SizeScore] = []
    for count in _counts(first, total):
        if sizes and first + len(more) <= sizes[-1].components:
            break  # no unit is left to add
        sizes.append(_size(lab, traced, more[: count - first]))
        if sizes[-1].holds:
            break
    return sizes


def _counts(first: int, total: int) -> list[int]:
    cap = max(first, int(SPARSE * total))
    inside = np.geomspace(first, cap, STEPS).astype(int).tolist()
    beyond = [int(times * SPARSE * total) for times in BEYOND]
    return sorted({count for count in (first, *inside, *beyond) if count >= first})


def _size(lab: CausalBench, traced: Units, more: list[tuple[int, str, int]]) -> SizeScore:
    found = {key: list(units) for key, units in traced.items()}
    for block, kind, unit in more:
        found.setdefault((block, kind), []).append(unit)
    units = {key: tuple(sorted(own)) for key, own in found.items()}
    kept, left = (
        lab.run(keep_edits(lab, units, complement)).on(lab.heads) for complement in (False, True)
    )
    return SizeScore(count_of(units), units, kept, left, _relative(lab, kept), _relative(lab, left))


def count_of(units: Units) -> int:
    """How many units there are."""
    return sum(len(own) for own in units.values())


def _relative(lab: CausalBench, share: np.ndarray) -> Measured:
    sink = lab.intact_sink
    return paired_change(share, 0 * sink, sink, lab.seed)


def traced_units(lab: CausalBench) -> Units:
    """Heads and neurons of the trace before the last reading block; the embedding as block −1.

    (block, attention | mlp | shared | embedding) -> units.
    """
    circuit = lab.circuit
    found: dict[tuple[int, str], list[int]] = {}
    for block, neuron in ranked_neurons(lab):
        found.setdefault((block, "mlp"), []).append(neuron)
    for name, pairs in (("attention", circuit.heads), ("shared", circuit.shared_neurons)):
        for block, unit in pairs:
            if block < lab.last_read:
                found.setdefault((block, name), []).append(unit)
    if circuit.emergence_block == -1:
        found[-1, "embedding"] = [0]
    return {key: tuple(sorted(units)) for key, units in found.items()}


def keep_edits(lab: CausalBench, units: Units, complement: bool = False) -> list[Edit]:
    """Edits that keep these units at P0 in every block before the last that reads."""
    sites = lab.engine.sites
    assert sites is not None
    edits: list[Edit] = []
    if ((-1, "embedding") in units) == complement:
        edits.append(Stream(0, 0, "mean"))
    for block in range(lab.last_read):
        for kind in ("attention", "mlp"):
            if getattr(sites, kind)(block) is not None:
                shared = units.get((block, "shared"), ()) if kind == "mlp" else ()
                own = units.get((block, kind), ())
                edits.append(KeepUnits(block, kind, own, shared, complement))
    return edits


def _sizes(lab: CausalBench) -> dict[tuple[int, str], int]:
    """How many units each sublayer before the last reading block has."""
    engine = lab.engine
    assert engine.sites is not None
    blocks = engine.subject.anatomy.modules(engine.subject.model)
    sizes: dict[tuple[int, str], int] = {}
    for block in range(lab.last_read):
        for sublayer in engine.sites.blocks[block]:
            if sublayer.kind == "attention" and sublayer.heads:
                sizes[block, "attention"] = sublayer.heads
            elif sublayer.kind == "mlp" and sublayer.projection is not None:
                sizes[block, "mlp"] = sublayer.projection.columns(blocks[block]).shape[-2]
            if sublayer.shared is not None:
                sizes[block, "shared"] = sublayer.shared.columns(blocks[block]).shape[-2]
    return sizes


def _random_units(lab: CausalBench, units: Units, sizes, draw: int) -> Units:
    """As many units of each kind, from anywhere before the last reading block, none of ours."""
    generator = torch.Generator().manual_seed(1000 * lab.seed + draw)
    found: dict[tuple[int, str], list[int]] = {}
    for kind in ("attention", "mlp", "shared"):
        count = sum(len(own) for (_, name), own in units.items() if name == kind)
        free = [
            (key, unit)
            for key, size in sizes.items()
            if key[1] == kind
            for unit in range(size)
            if unit not in units.get(key, ())
        ]
        for i in torch.randperm(len(free), generator=generator)[:count].tolist():
            found.setdefault(free[i][0], []).append(free[i][1])
    return {key: tuple(sorted(own)) for key, own in found.items()}
