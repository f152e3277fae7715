"""Each phase of position zero with its direction, who writes it, who takes it back, who reads it.

The circuit's own keys (emergence block, direction, writers, ..) are those of one phase: the one
that most sink heads read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sinkscope.circuit.components import Components, main_components
from sinkscope.circuit.concentration import by_number, concentration
from sinkscope.circuit.phases import EMBEDDING, Phase
from sinkscope.circuit.reading import SinkHeads
from sinkscope.circuit.writes import Writes, written_along
from sinkscope.detect.attention import OVER_UNIFORM
from sinkscope.observe.sites import Sites
from sinkscope.observe.stream import sink_direction
from sinkscope.observe.together import together
from sinkscope.subject.load import Subject

Heads = tuple[tuple[int, int], ...]
WRITER = 0.1  # of what a rise writes, or a fall takes back, along u: so much makes one of its own


@dataclass(frozen=True)
class PhaseWrites:
    """What was written along the direction of a phase, mean over first tokens.

    share       write name -> share of what the sublayers of the rise wrote, those alone that did: 1
                together; in the fall, of what those that take back took: −1 together
    writers     names in the rise that wrote a tenth or more, the largest first
    takers      names in the fall that took back a tenth or more of that, the largest first
    components  the fewest heads and neurons that make 90 % of the rise
    """

    share: dict[str, float]
    writers: tuple[str, ...]
    takers: tuple[str, ...]
    components: Components


@dataclass(frozen=True, eq=False)
class PhaseParts:
    """A phase and its parts.

    direction      u [d], taken as the circuit's own is
    readers        heads (block, head) that read in it
    sink_heads     those of them that are sink heads
    concentration  C_k along its direction, of the blocks from the end of the one before to its own
    most_read      whether the circuit's own keys are those of this phase
    """

    phase: Phase
    direction: torch.Tensor
    writes: PhaseWrites
    readers: Heads
    sink_heads: Heads
    concentration: dict[str, float]
    most_read: bool


def readers(phase: Phase, reading: SinkHeads) -> Heads:
    """Heads that read P0 in a phase: late share over three times that of uniform attention.

    Not every one is a sink head: a phase may draw less than that takes.
    """
    reads = reading.late > OVER_UNIFORM * reading.uniform_late[:, None]
    heads = ((int(b), int(h)) for b, h in np.argwhere(reads))
    return tuple(head for head in heads if phase.reads(head[0]) and head not in phase.unread)


def sink_heads(phase: Phase, reading: SinkHeads) -> Heads:
    """The sink heads among its readers."""
    return tuple(
        head for head in reading.heads if phase.reads(head[0]) and head not in phase.unread
    )


def most_read(phases: Sequence[Phase], reading: SinkHeads) -> Phase | None:
    """The phase that most sink heads read, or else most heads; of equal ones the first written."""

    def count(phase: Phase) -> tuple[int, bool, int]:
        written = phase.block != EMBEDDING[0]  # what the embedding holds is no circuit
        return len(sink_heads(phase, reading)), written, len(readers(phase, reading))

    return max(phases, key=count, default=None)


def read_point(phase: Phase, heads: Heads, depth: int) -> int:
    """Input of the first of these blocks on its plateau, else its peak: where u is taken."""
    first, last = phase.plateau(depth)
    return min((block for block, _ in heads if first <= block <= last), default=phase.point)


def all_parts(
    subject: Subject,
    sites: Sites,
    tokens: torch.Tensor,
    here: torch.Tensor,
    p0: torch.Tensor,
    other_mean: torch.Tensor,
    phases: Sequence[Phase],
    main: Phase | None,
    u: torch.Tensor | None,
    reading: SinkHeads,
) -> tuple[PhaseParts, ...]:
    """The parts of every phase.

    tokens      [n] first tokens of the prompts; here: P0's stream at x0..xL for them [n, L+1, d]
    p0          [k, L+1, d] that for the first tokens over which directions are taken
    other_mean  [points, d] mean unit vector of the other positions there
    main, u     the most read phase, and its direction [d] where the circuit has taken one
    """
    found, first = [], 0
    with together(subject) as start:
        for phase in phases:
            heads = readers(phase, reading)
            point = read_point(phase, heads, p0.shape[1] - 1)
            own = u if phase is main and u is not None else None
            along = sink_direction(p0[:, point], other_mean[point]) if own is None else own
            written = np.diff((here.mean(0) @ along).numpy().astype(np.float64))
            stop = phase.last_block(len(written)) + 1
            written[:first], written[stop:], first = 0.0, 0.0, stop
            writes = start(phase_writes, subject, sites, tokens, along, phase)
            concentrated = by_number(concentration(written))
            rest = (heads, sink_heads(phase, reading), concentrated, phase is main)
            found.append((phase, along, writes, rest))
        return tuple(PhaseParts(phase, u, writes(), *rest) for phase, u, writes, rest in found)


def phase_writes(
    subject: Subject, sites: Sites, tokens: torch.Tensor, u: torch.Tensor, phase: Phase
) -> PhaseWrites:
    """Who writes a phase and who takes it back: tokens [n] first tokens, u [d] its direction."""
    stop = max(phase.rise[1], (phase.fall or EMBEDDING)[1]) + 1
    found = written_along(subject, sites, tokens, lambda block: u, stop)
    blocks = {name: block for block, _, name in sites.writes if block < stop}
    risen, fallen = (
        {name: found.total[name] for name in blocks if _within(blocks[name], span)}
        for span in (phase.rise, phase.fall)
    )
    written = sum(max(added, 0.0) for added in risen.values())
    if phase.rise == EMBEDDING:
        written = abs(found.embedding)
    taken = -sum(min(added, 0.0) for added in fallen.values())
    share = {
        name: found.total[name] / ((taken if name in fallen else written) or 1.0) for name in blocks
    }

    def chosen(span: tuple[int, int] | None, sign: float) -> tuple[str, ...]:
        names = [n for n in blocks if _within(blocks[n], span) and sign * share[n] >= WRITER]
        return tuple(sorted(names, key=lambda name: -sign * share[name]))

    rise = _only(found, lambda name: _within(blocks[name], phase.rise), phase.rise == EMBEDDING)
    return PhaseWrites(
        share, chosen(phase.rise, 1.0), chosen(phase.fall, -1.0), main_components(rise)
    )


def _only(writes: Writes, keep: Callable[[str], bool], embedding: bool) -> Writes:
    """The writes whose name is kept, and the embedding or not."""
    fields: dict[str, Any] = {
        name: {key: value for key, value in getattr(writes, name).items() if keep(key)}
        for name in ("total", "units", "shared", "bias", "without_units")
    }
    return dataclasses.replace(writes, embedding=writes.embedding if embedding else 0.0, **fields)


def _within(block: int, blocks: tuple[int, int] | None) -> bool:
    return blocks is not None and blocks[0] <= block <= blocks[1]
