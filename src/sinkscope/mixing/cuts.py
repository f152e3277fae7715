"""The circuit cut: conditions in which P0 never becomes the sink, by edits of what writes it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sinkscope.circuit.model import Circuit
from sinkscope.circuit.unit import HEAD, NEURON, Unit, by_block
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
    edits = cut_edits(circuit.sites, circuit.writers)
    if not edits:
        return []
    behind = 1 + min(edit.first_block() for edit in edits)
    cuts = {CUT: edits, CUT_NORM: (*edits, KeepNorm(behind))}
    generator = torch.Generator().manual_seed(seed)
    drawn = [
        cut_edits(circuit.sites, _others(subject, circuit, generator)) for _ in range(CONTROL_DRAWS)
    ]
    # a block of which the circuit is all has no other units, whatever the draw
    control = CUT_CONTROL if drawn[0] else None
    found = [Condition(name, each, control) for name, each in cuts.items()]
    return [*found, Condition(CUT_CONTROL, draws=tuple(drawn))] if control else found


def cut_edits(sites: Sites, units: Sequence[Unit]) -> tuple[Edit, ...]:
    """Edits that switch neurons and heads off at P0, a block each.

    They take the mean over the other positions of the prompt; neurons of routed experts, which
    other positions need not use, are set to zero.
    """
    edits: list[Edit] = []
    for block, neurons in by_block(units, NEURON).items():
        mlp = sites.mlp(block)
        if mlp is not None and mlp.projection is not None:
            how = "zero" if mlp.projection.layout.startswith("expert") else "mean"
            edits.append(Neurons(block, tuple(neurons), 0, how))
    for block, heads in by_block(units, HEAD).items():
        attention = sites.attention(block)
        if attention is not None and attention.projection is not None:
            edits.append(Heads(block, tuple(heads), 0, "mean"))
    return tuple(edits)


def _others(subject: Subject, circuit: Circuit, generator: torch.Generator) -> list[Unit]:
    """As many random neurons and heads of the same blocks that are not in the circuit."""
    blocks = subject.anatomy.modules(subject.model)
    found: list[Unit] = []
    for kind, of_block in ((NEURON, circuit.sites.mlp), (HEAD, circuit.sites.attention)):
        for block, taken in by_block(circuit.writers, kind).items():
            sublayer = of_block(block)
            if sublayer is None or sublayer.projection is None:
                continue
            width = sublayer.heads or sublayer.projection.columns(blocks[block]).shape[-2]
            order = torch.randperm(width, generator=generator).tolist()
            free = [unit for unit in order if unit not in taken]
            found += [Unit(block, kind, unit) for unit in free[: len(taken)]]
    return found
