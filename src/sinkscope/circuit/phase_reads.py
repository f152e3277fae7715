"""Which phases of position zero sink heads read, and the rises that they read instead.

A rise of the norm that no head reads is a rise all the same, and stays in the list; but the
circuit is that of what is read. Heads that read none of the phases found are grouped by the block
that gives them what they read (`head_reads`): each group that is large enough has a phase of its
own, by the direction that it reads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import torch

from sinkscope.circuit.head_reads import HeadReads
from sinkscope.circuit.keys import SinkLogits
from sinkscope.circuit.phase_parts import readers, sink_heads
from sinkscope.circuit.phases import EMBEDDING, HALF, Phase, direction_phase
from sinkscope.circuit.reading import SinkHeads
from sinkscope.observe.stream import sink_direction, unit

GROUP = 0.1  # of the sink heads: fewer that read something else are no phase


def heads_to_ask(reading: SinkHeads) -> list[tuple[int, int]]:
    """Every head that draws on P0 more than uniform attention would: sink heads and readers."""
    everywhere = Phase("norm", 0, 0.0, -1, EMBEDDING, None, (0, len(reading.late)))
    return sorted({*readers(everywhere, reading), *reading.heads})


def read_phases(
    found: Sequence[Phase],
    reads: HeadReads,
    reading: SinkHeads,
    logits: SinkLogits,
    p0: torch.Tensor,
    others: torch.Tensor,
) -> list[Phase]:
    """The phases found, each with the heads that do not read it, and those of the heads left over.

    p0 [n, L+1, d], others [m, L+1, d]: streams at the inputs of blocks.
    """
    phases = [_marked(phase, reads) for phase in found]
    phases = [_placed(one, reads, reading) if one.by == "direction" else one for one in phases]
    phases = [one for one in phases if one.by == "norm" or sink_heads(one, reading)]
    read = {head for phase in phases for head in sink_heads(phase, reading)}
    groups: dict[int, list[tuple[int, int]]] = {}
    for head, block, draws in zip(reads.heads, reads.block, reads.draws):
        if draws and head in reading.heads and head not in read:
            groups.setdefault(int(block), []).append(head)
    for block, heads in groups.items():
        if len(heads) >= GROUP * len(reading.heads):
            phases.append(_of_group(block, heads, reads, logits, p0, others))
    return sorted(phases, key=lambda phase: (phase.block, phase.point))


def block_that_is_read(phase: Phase, block: int, reads: HeadReads, reading: SinkHeads) -> int:
    """The block in which it rises, or that of most of its sink heads if they do not read that."""
    heads = sink_heads(phase, reading)
    rows = [i for i, head in enumerate(reads.heads) if head in heads]
    if not rows:
        return block
    own = reads.block[rows]
    needed = (own == block) | (reads.without_block(block)[rows] >= HALF)
    return block if needed.mean() >= HALF else Counter(own.tolist()).most_common(1)[0][0]


def part_that_is_read(u: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
    """Component of u [d] in the span of key-logit gradients g_h [heads, d], as a unit vector.

    Σ_h g_h ⟨g_h, u⟩, normalised. u holds every difference between P0 and the others, read or not.
    """
    return unit(gradients.T @ (gradients @ u))


def _marked(phase: Phase, reads: HeadReads) -> Phase:
    part = reads.part_of(phase)
    unread = [head for head, share in zip(reads.heads, part) if not share >= HALF]
    return replace(phase, unread=frozenset(unread))


def _placed(phase: Phase, reads: HeadReads, reading: SinkHeads) -> Phase:
    """A phase of the direction, in the block of its rise that gives most sink heads what they read.

    P0's direction differs from the others' by everything, so its curve may cross half with the mark
    of recognition, which no head reads.
    """
    heads = sink_heads(phase, reading)
    own = Counter(int(block) for head, block in zip(reads.heads, reads.block) if head in heads)
    (block, _), *_ = own.most_common(1) or [(phase.block, 0)]
    return replace(phase, block=block) if phase.rise[0] <= block <= phase.rise[1] else phase


def _of_group(
    block: int,
    heads: list[tuple[int, int]],
    reads: HeadReads,
    logits: SinkLogits,
    p0: torch.Tensor,
    others: torch.Tensor,
) -> Phase:
    """The phase of heads that block `block` gives what they read."""
    first, last = min(heads)[0], max(heads)[0]
    known = [i for i, head in enumerate(logits.heads) if head in heads]
    u = sink_direction(p0[:, first], unit(others[:, first]).mean(0))
    if known:
        u = part_that_is_read(u, logits.gradient.mean(0)[known])
    curve = ((unit(p0).mean(0) - unit(others).mean(0)) @ u).numpy()
    phase = direction_phase(curve, first, block)
    unread = frozenset(head for head in reads.heads if head not in heads)
    return replace(phase, read=(block + 1, last), unread=unread)
