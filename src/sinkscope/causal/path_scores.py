"""What each unit does for the sink through P0's key: the order in which a circuit is grown.

The score of a unit u is exact activation patching on the path through P0's key. With m the mean
margin of the reading heads (nats: it does not saturate as a share does), M all of P0's writes, T
the traced units, and M∖S the model with the units of S mean-ablated at P0,

    score(u) = ½ [m(M) − m(M∖u)] + ½ [m(M∖(T∖u)) − m(M∖(T∪u))]

what u takes when it alone goes, and what it takes where the traced units are gone too. The first
alone misses what stands in for a traced unit, and ranks two that do the same as if neither did
anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from sinkscope.circuit.unit import EMBEDDING, HEAD, NEURON, Unit, by_block, of_kind
from sinkscope.intervene.edits import Heads, Neurons, Stream
from sinkscope.intervene.edits.base import Edit
from sinkscope.intervene.p0_path import KeyPath

SCORED = (HEAD, NEURON, EMBEDDING)  # neurons of a shared expert have no ablation of their own


def path_scores(
    path: KeyPath,
    heads: Sequence[tuple[int, int]],
    traced: Iterable[Unit],
    candidates: Iterable[Unit],
) -> dict[Unit, float]:
    """Scores of the candidates in nats. Raises Unsupported for neurons inside experts."""
    found = [unit for unit in candidates if unit.kind in SCORED]
    all_traced = frozenset(unit for unit in traced if unit.kind in SCORED)
    sets = [frozenset[Unit](), all_traced]
    for unit in found:
        sets += [frozenset((unit,)), all_traced ^ {unit}]
    margin = path.effects([mean_ablated(units) for units in sets]).margin
    read = torch.stack([margin[:, :, block, head] for block, head in heads], -1)
    of_set = dict(zip(sets, read.flatten(1).nanmean(1).tolist()))
    whole = of_set[frozenset()]
    return {
        unit: (
            whole
            - of_set[frozenset((unit,))]
            + of_set[all_traced - {unit}]
            - of_set[all_traced | {unit}]
        )
        / 2
        for unit in found
    }


def mean_ablated(units: Iterable[Unit]) -> list[Edit]:
    """Edits that mean-ablate these heads, neurons and the embedding at P0."""
    units = sorted(units)
    edits: list[Edit] = [Stream(0, 0, "mean") for _ in of_kind(units, EMBEDDING)]
    edits += [Heads(b, tuple(own), 0, "mean") for b, own in by_block(units, HEAD).items()]
    return edits + [Neurons(b, tuple(own), 0, "mean") for b, own in by_block(units, NEURON).items()]
