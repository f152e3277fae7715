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
from sinkscope.circuit.unit import EMBEDDING, HEAD, NEURON, SHARED, Unit, by_block, of_kind
from sinkscope.errors import Missing, Unsupported
from sinkscope.intervene.edits import KeepUnits, Stream
from sinkscope.intervene.edits.base import Edit
from sinkscope.result import Measured
from sinkscope.stats import paired_change, sign_flip_p

STEPS = 5  # sizes tried within SPARSE, evenly on a log scale
BEYOND = (2, 4)  # times SPARSE, tried where none within it will do
WRITERS = (HEAD, NEURON, SHARED)

Units = frozenset[Unit]


@dataclass(frozen=True, eq=False)
class SizeScore:
    """One set that was tried, and what it and its complement keep of the sink, [n] each."""

    units: Units
    kept: np.ndarray
    left: np.ndarray
    faithfulness: Measured
    completeness: Measured

    @property
    def components(self) -> int:
        """How many units there are."""
        return len(self.units)

    @property
    def holds(self) -> bool:
        """Whether the set is faithful and complete."""
        kept, left = self.faithfulness.value, self.completeness.value
        return kept is not None and left is not None and kept >= FAITHFUL and left <= COMPLETE


@dataclass(frozen=True, eq=False)
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


def keep_circuit(lab: CausalBench) -> Kept | None:
    """S4: only the circuit's writes at P0 are kept, at their intact values; all else is the mean.

    None where a sublayer does not show its units; the reason is left in the notes.
    """
    traced = traced_units(lab)
    if not traced:
        lab.notes.append("S4: the trace names no unit that writes before the sink heads.")
        return None
    room = _room(lab)
    total = 1 + len(room)
    try:
        sizes = _grown(lab, traced, total)
    except Unsupported as refusal:
        lab.notes.append(f"S4: {refusal}")
        return None
    small = [size for size in sizes if size.components <= max(SPARSE * total, len(traced))]
    chosen = next((size for size in small if size.holds), small[-1])
    free = {kind: of_kind((u for u in room if u not in chosen.units), kind) for kind in WRITERS}
    random = [
        lab.run(keep_edits(lab, _random_units(lab, chosen.units, free, draw))).on(lab.heads)
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
        traced=len(traced),
        needed=next((size.components for size in sizes if size.holds), None),
        sizes=sizes,
        edits=(keep_edits(lab, chosen.units), keep_edits(lab, chosen.units, True)),
    )


def _grown(lab: CausalBench, traced: Units, total: int) -> list[SizeScore]:
    """The traced set, then larger ones until one is faithful and complete."""
    ranking = lab.circuit.ranking
    if isinstance(ranking, Missing):
        lab.notes.append(f"S4: only the traced units are kept, since {ranking.reason}.")
        ranking = ()
    more = [unit for unit in ranking if unit not in traced and unit.block < lab.last_read]
    first = len(traced)
    sizes: list[SizeScore] = []
    for count in _counts(first, total):
        if sizes and first + len(more) <= sizes[-1].components:
            break  # no unit is left to add
        sizes.append(_scored(lab, traced.union(more[: count - first])))
        if sizes[-1].holds:
            break
    return sizes


def _counts(first: int, total: int) -> list[int]:
    cap = max(first, int(SPARSE * total))
    inside = np.geomspace(first, cap, STEPS).astype(int).tolist()
    beyond = [int(times * SPARSE * total) for times in BEYOND]
    return sorted({count for count in (first, *inside, *beyond) if count >= first})


def _scored(lab: CausalBench, units: Units) -> SizeScore:
    kept, left = (
        lab.run(keep_edits(lab, units, complement)).on(lab.heads) for complement in (False, True)
    )
    return SizeScore(units, kept, left, _relative(lab, kept), _relative(lab, left))


def _relative(lab: CausalBench, share: np.ndarray) -> Measured:
    sink = lab.intact_sink
    return paired_change(share, 0 * sink, sink, lab.seed)


def traced_units(lab: CausalBench) -> Units:
    """Heads and neurons of the trace before the last reading block; the embedding as block −1."""
    others = of_kind(lab.circuit.writers, HEAD) + of_kind(lab.circuit.writers, SHARED)
    found = {*ranked_neurons(lab), *(unit for unit in others if unit.block < lab.last_read)}
    if lab.circuit.emergence_block == -1:
        found.add(Unit(-1, EMBEDDING, 0))
    return frozenset(found)


def keep_edits(lab: CausalBench, units: Units, complement: bool = False) -> list[Edit]:
    """Edits that keep these units at P0 in every block before the last that reads."""
    sites = lab.engine.sites
    assert sites is not None
    own = {kind: by_block(sorted(units), kind) for kind in WRITERS}
    edits: list[Edit] = []
    if (Unit(-1, EMBEDDING, 0) in units) == complement:
        edits.append(Stream(0, 0, "mean"))
    for block in range(lab.last_read):
        heads, neurons, shared = (tuple(own[kind].get(block, ())) for kind in WRITERS)
        if sites.attention(block) is not None:
            edits.append(KeepUnits(block, "attention", heads, (), complement))
        if sites.mlp(block) is not None:
            edits.append(KeepUnits(block, "mlp", neurons, shared, complement))
    return edits


def _room(lab: CausalBench) -> list[Unit]:
    """All heads and neurons before the last reading block."""
    engine = lab.engine
    assert engine.sites is not None
    blocks = engine.subject.anatomy.modules(engine.subject.model)
    sizes: dict[tuple[int, str], int] = {}
    for block in range(lab.last_read):
        for sublayer in engine.sites.blocks[block]:
            if sublayer.kind == "attention" and sublayer.heads:
                sizes[block, HEAD] = sublayer.heads
            elif sublayer.kind == "mlp" and sublayer.projection is not None:
                sizes[block, NEURON] = sublayer.projection.columns(blocks[block]).shape[-2]
            if sublayer.shared is not None:
                sizes[block, SHARED] = sublayer.shared.columns(blocks[block]).shape[-2]
    return [Unit(*key, index) for key, size in sizes.items() for index in range(size)]


def _random_units(lab: CausalBench, units: Units, free: dict[str, list[Unit]], draw: int) -> Units:
    """As many units of each kind, from anywhere before the last reading block, none of ours."""
    generator = torch.Generator().manual_seed(1000 * lab.seed + draw)
    found: list[Unit] = []
    for kind, pool in free.items():
        order = torch.randperm(len(pool), generator=generator).tolist()
        found += [pool[i] for i in order[: len(of_kind(units, kind))]]
    return frozenset(found)
