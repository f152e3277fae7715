"""The circuit cut: conditions in which P0 never becomes the sink, by edits of what writes it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sinkscope.circuit.model import Circuit
from sinkscope.intervene.edits import Edit, Heads, KeepNorm, Neurons
from sinkscope.mixing.conditions import Condition
from sinkscope.observe.sites import Sites
from sinkscope.subject.load import Subject

CUT, CUT_NORM, CUT_CONTROL = "circuit-cut", "circuit-cut-norm-kept", "circuit-cut-control"
CONTROL_DRAWS = 4


def cut_conditions(subject: Subject, circuit: Circuit, seed: int = 0) -> list[Condition]:
    """The circuit's neurons and heads off at P0; the same at its intact norm; the control.

    The control switches off as many random other neurons and heads of the same blocks at P0, in
    CONTROL_DRAWS draws. Empty where neither neurons nor heads write the sink.
    """
    edits = cut_edits(circuit.sites, circuit.neurons, circuit.heads)
    if not edits:
        return []
    behind = 1 + min(edit.first_block() for edit in edits)
    cuts = {CUT: edits, CUT_NORM: (*edits, KeepNorm(behind))}
    generator = torch.Generator().manual_seed(seed)
    drawn = [
        cut_edits(
            circuit.sites,
            _other_neurons(subject, circuit, generator),
            _other_heads(circuit, generator),
        )
        for _ in range(CONTROL_DRAWS)
    ]
    # a block of which the circuit is all has no other units, whatever the draw
    control = CUT_CONTROL if drawn[0] else None
    found = [Condition(name, each, control) for name, each in cuts.items()]
    return [*found, Condition(CUT_CONTROL, draws=tuple(drawn))] if control else found


def cut_edits(
    sites: Sites, neurons: Sequence[tuple[int, int]], heads: Sequence[tuple[int, int]] = ()
) -> tuple[Edit, ...]:
    """Edits that switch neurons and heads off at P0, a block each.

    They take the mean over the other positions of the prompt; neurons of routed experts, which
    other positions need not use, are set to zero.
    """
    edits: list[Edit] = []
    for block in sorted({block for block, _ in neurons}):
        mlp = sites.mlp(block)
        projection = mlp.projection if mlp is not None else None
        if projection is None:
            continue
        units = tuple(unit for b, unit in neurons if b == block)
        how = "zero" if projection.layout.startswith("expert") else "mean"
        edits.append(Neurons(block, units, 0, how))
    for block in sorted({block for block, _ in heads}):
        attention = sites.attention(block)
        if attention is not None and attention.projection is not None:
            edits.append(Heads(block, tuple(h for b, h in heads if b == block), 0, "mean"))
    return tuple(edits)


def _other_neurons(
    subject: Subject, circuit: Circuit, generator: torch.Generator
) -> list[tuple[int, int]]:
    """As many random neurons of the same blocks that are not in the circuit."""
    blocks = subject.anatomy.modules(subject.model)
    found = []
    for block in sorted({block for block, _ in circuit.neurons}):
        taken = {unit for b, unit in circuit.neurons if b == block}
        mlp = circuit.sites.mlp(block)
        if mlp is None or mlp.projection is None:
            continue
        width = mlp.projection.columns(blocks[block]).shape[-2]
        order = torch.randperm(width, generator=generator).tolist()
        found += [(block, unit) for unit in order if unit not in taken][: len(taken)]
    return found


def _other_heads(circuit: Circuit, generator: torch.Generator) -> list[tuple[int, int]]:
    found = []
    for block in sorted({block for block, _ in circuit.heads}):
        taken = {head for b, head in circuit.heads if b == block}
        attention = circuit.sites.attention(block)
        if attention is None or attention.heads is None:
            continue
        order = torch.randperm(attention.heads, generator=generator).tolist()
        found += [(block, head) for head in order if head not in taken][: len(taken)]
    return found
