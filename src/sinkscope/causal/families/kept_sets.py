"""What a set of P0's units keeps of the sink alone, and what all other units keep without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sinkscope.causal.testing import CausalBench
from sinkscope.causal.thresholds import COMPLETE, FAITHFUL
from sinkscope.circuit.unit import EMBEDDING, HEAD, NEURON, SHARED, Unit, by_block, of_kind
from sinkscope.errors import Missing
from sinkscope.intervene.edits import KeepUnits, Stream
from sinkscope.intervene.edits.base import Edit
from sinkscope.intervene.p0_path import KeyPath
from sinkscope.result import Measured

WRITERS = (HEAD, NEURON, SHARED)
INPUT = Unit(-1, EMBEDDING, 0)

Units = frozenset[Unit]


@dataclass(frozen=True, eq=False)
class SizeScore:
    """One set that was tried, and what it and its complement keep of the sink.

    kept  [n] late share that is left with the set alone
    """

    units: Units
    kept: np.ndarray
    faithfulness: Measured
    completeness: Measured

    @property
    def components(self) -> int:
        """How many units there are."""
        return len(self.units)

    @property
    def faithful(self) -> bool:
        """Whether the set alone keeps FAITHFUL of the sink."""
        kept = self.faithfulness.value
        return kept is not None and kept >= FAITHFUL

    @property
    def holds(self) -> bool:
        """Whether the set is faithful and complete."""
        left = self.completeness.value
        return self.faithful and left is not None and left <= COMPLETE


class KeptSets:
    """Sets of units, kept or taken away; through P0's key where that path is at hand.

    path    the KeyPath, or None: then every set is run in full
    room    all units before the last reading block, the embedding only where it counts as one
    intact  [n] late share of P0 on the reading heads, on the path that is used
    """

    def __init__(self, lab: CausalBench, embedding: bool) -> None:
        self.lab, self.embedding = lab, embedding
        self.room = [INPUT] * embedding + _room(lab)
        self.path: KeyPath | None = None
        self.intact = lab.intact_sink
        path = lab.screen.path
        if isinstance(path, Missing):
            self.leave_key(path.reason)
        else:
            self.path = path
            self.intact = path.intact.on(lab.heads)[0].double().numpy()

    def leave_key(self, reason: str) -> None:
        """Run every set in full from now on, and say why."""
        self.path, self.intact = None, self.lab.intact_sink
        reason = reason[0].lower() + reason[1:].rstrip(".")
        self.lab.notes.append(
            f"S4: a few sizes were run in full, and have no areas, since {reason}."
        )

    def edits(self, units: Units, complement: bool = False) -> list[Edit]:
        """Edits that keep these units at P0 in every block before the last that reads."""
        sites = self.lab.engine.sites
        assert sites is not None
        own = {kind: by_block(sorted(units), kind) for kind in WRITERS}
        edits: list[Edit] = []
        if self.embedding and (INPUT in units) == complement:
            edits.append(Stream(0, 0, "mean"))
        for block in range(self.lab.last_read):
            heads, neurons, shared = (tuple(own[kind].get(block, ())) for kind in WRITERS)
            if sites.attention(block) is not None:
                edits.append(KeepUnits(block, "attention", heads, (), complement))
            if sites.mlp(block) is not None:
                edits.append(KeepUnits(block, "mlp", neurons, shared, complement))
        return edits

    def kept(self, sets: Sequence[tuple[Units, bool]]) -> np.ndarray:
        """[sets, n] late share for each set, kept (False) or taken away (True)."""
        if not sets:
            return np.empty((0, len(self.intact)))
        if self.path is None:
            return np.stack([self.full(*one) for one in sets])
        found = self.path.effects([self.edits(*one) for one in sets])
        return found.on(self.lab.heads).double().numpy()

    def full(self, units: Units, complement: bool = False, few: bool = False) -> np.ndarray:
        """[n] the same by a pass over the sequence; NaN for prompts that it did not take."""
        return self.lab.run(self.edits(units, complement), few=few).on(self.lab.heads)

    def scores(self, sets: Sequence[Units]) -> list[SizeScore]:
        """Faithfulness and completeness of each set."""
        found = self.kept([(units, taken) for units in sets for taken in (False, True)])
        return [
            SizeScore(units, kept, *(relative(self.lab, x, self.intact) for x in (kept, left)))
            for units, kept, left in zip(sets, found[::2], found[1::2], strict=True)
        ]

    def score(self, units: Units) -> SizeScore:
        """Of one set."""
        return self.scores([units])[0]

    def confirmed(self, units: Units, few: bool = False) -> SizeScore:
        """Of one set, in full, on all prompts or on a few."""
        lab = self.lab
        kept, left = self.full(units, few=few), self.full(units, True, few)
        return SizeScore(units, kept, *(relative(lab, x, lab.intact_sink) for x in (kept, left)))

    def free(self, units: Units) -> dict[str, list[Unit]]:
        """Heads, neurons and shared neurons that are not among these, by kind."""
        return {kind: of_kind((u for u in self.room if u not in units), kind) for kind in WRITERS}


def relative(lab: CausalBench, share: np.ndarray, intact: np.ndarray) -> Measured:
    """What is kept of the sink, share [n], over intact [n]: ratio of their means."""
    return lab.draw.ratio(share, intact)


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
