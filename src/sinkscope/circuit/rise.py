"""How position zero rises on the prompts in which it sinks: its phases, its norm, its direction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from sinkscope.circuit.amplification import (
    Direction,
    Norm,
    direction_amplification,
    norm_amplification,
)
from sinkscope.circuit.head_reads import HeadReads
from sinkscope.circuit.induction import read_gradients
from sinkscope.circuit.keys import SinkLogits
from sinkscope.circuit.observed import Observed
from sinkscope.circuit.phase_parts import most_read, sink_heads
from sinkscope.circuit.phase_reads import (
    block_that_is_read,
    heads_to_ask,
    part_that_is_read,
    read_phases,
)
from sinkscope.circuit.phases import Phase, find_phases
from sinkscope.circuit.reading import SinkHeads
from sinkscope.circuit.streams import p0_points
from sinkscope.errors import Missing
from sinkscope.observe.p0_stream import prompt_tokens
from sinkscope.observe.stream import sink_direction
from sinkscope.observe.together import Later


@dataclass(frozen=True, eq=False)
class Seen:
    """P0 and the other positions on the prompts in which P0 sinks.

    own     [n] first tokens of these prompts; here [n, points, d] P0's stream for them
    tokens  [k] first tokens that P0 is averaged over: drawn ones, or `own` where it sinks in part
            of the prompts; p0 [k, points, d] P0's stream for them
    """

    observed: Observed
    reading: SinkHeads
    own: torch.Tensor
    here: torch.Tensor
    tokens: torch.Tensor
    p0: torch.Tensor

    @property
    def at(self) -> list[int]:
        """Numbers of the block inputs x0..xL among the read points."""
        return self.observed.sites.inputs

    @property
    def p0_inputs(self) -> torch.Tensor:
        """[k, L+1, d] P0's stream at the inputs of blocks."""
        return self.p0[:, self.at]

    @property
    def other_inputs(self) -> torch.Tensor:
        """[m, L+1, d] that of random other positions."""
        return self.observed.sample[:, self.at]

    @property
    def log_ratio(self) -> np.ndarray:
        """[L+1] mean log norm ratio of P0 at the inputs of blocks."""
        return self.observed.log_ratio[:, self.at].mean(0)


def seen_of(
    observed: Observed, reading: SinkHeads, here: torch.Tensor, drawn: torch.Tensor, p0: Later
) -> Seen:
    """What the pass over the prompts showed of those in which P0 sinks.

    here   [n, points, d] P0's stream for the first tokens of all prompts
    drawn  [k] first tokens; p0 gives [k, points, d] P0's stream for them
    """
    subject, sites, prompts = observed.subject, observed.sites, observed.prompts
    everyones = prompt_tokens(prompts)
    part = reading.part if len(reading.prompts) == len(prompts) else None  # packed: not by row
    if part is None:
        return Seen(observed, reading, everyones, here, drawn, p0())
    observed = observed.of(part)
    own = prompt_tokens(observed.prompts)
    equal = own[:, None] == everyones
    known = bool(equal.any(1).all())
    here = here[equal.int().argmax(1)] if known else p0_points(subject, sites, own)
    return Seen(observed, reading, own, here, own, here)


@dataclass(frozen=True, eq=False)
class Rise:
    """P0's phases and its norm.

    main    the phase that most sink heads read
    logits  what the sink heads read of P0's stream; reads: where they get it, None where keys are
            not at hand
    unread  the norm rises, and the heads read a direction instead
    """

    phases: list[Phase]
    main: Phase | None
    norm: Norm
    logits: SinkLogits | Missing
    reads: HeadReads | None
    unread: bool

    @property
    def several(self) -> Phase | None:
        """The most read of several phases; None where there are not several."""
        return self.main if len(self.phases) > 1 else None


def rise_of(seen: Seen, null: float | None, start: Callable[..., Later]) -> Rise:
    """Phases by norm and direction, those that are read, and the norm of the most read one.

    null  largest norm ratio of the same architecture untrained
    """
    observed, reading = seen.observed, seen.reading
    subject, sites = observed.subject, observed.sites
    p0, others = seen.p0_inputs, seen.other_inputs
    phases = find_phases(seen.log_ratio, p0, others, null)
    by_norm = sorted({phase.block for phase in phases if phase.by == "norm"})
    asked = start(HeadReads, subject, sites, observed, heads_to_ask(reading), seen.here, by_norm)
    logits, reads = read_gradients(subject, sites, observed, reading.heads), None
    if isinstance(logits, Missing):
        phases = [one for one in phases if one.by == "norm" or sink_heads(one, reading)]
    else:
        reads = asked()
        phases = read_phases(phases, reads, reading, logits, p0, others)
    main = most_read(phases, reading)
    several = main is not None and len(phases) > 1 and main.by == "norm"
    points = main.points(len(sites.blocks)) if main is not None and several else None
    norm = norm_amplification(seen.log_ratio, null, points)
    unread = main is not None and main.by == "direction" and norm.plateau is not None
    if unread:
        norm = replace(norm, block=None, plateau=None)
    elif main is not None and reads is not None and norm.block is not None:
        norm = replace(norm, block=block_that_is_read(main, norm.block, reads, reading))
    return Rise(phases, main, norm, logits, reads, unread)


@dataclass(frozen=True, eq=False)
class Along:
    """The sink direction u [d] taken at a read point, and P0's curve along it.

    read  [d] the part of u that the sink heads read, along which writes are counted
    """

    point: int
    u: torch.Tensor
    read: torch.Tensor
    curve: Direction


def direction_of(seen: Seen, rise: Rise) -> Along | None:
    """The sink direction; None where nothing sets P0 apart."""
    point = _read_point(rise, seen.reading)
    if point is None:
        return None
    p0 = seen.p0_inputs
    u = read = sink_direction(p0[:, point], seen.observed.other_mean[seen.at[point]])
    if rise.norm.plateau is None and not isinstance(rise.logits, Missing):
        read = part_that_is_read(u, _gradients(rise.logits, rise.main, seen.reading))
        u = read if rise.unread else u
    curve = direction_amplification(p0, seen.other_inputs, read, point)
    if rise.main is not None and rise.main.by == "direction":
        curve = replace(curve, block=rise.main.block)
    return Along(point, u, read, curve)


def _gradients(logits: SinkLogits, main: Phase | None, reading: SinkHeads) -> torch.Tensor:
    """Gradients [heads, d] of the sink heads that read the phase, of all without one."""
    heads = logits.heads if main is None else sink_heads(main, reading)
    rows = [i for i, head in enumerate(logits.heads) if head in heads]
    return logits.gradient.mean(0)[rows or slice(None)]


def _read_point(rise: Rise, reading: SinkHeads) -> int | None:
    """Where u is taken: the first reading block's input if P0 is amplified by then, else the
    plateau's highest point, else the reading block's input; None where nothing sets P0 apart.

    Of several phases the first block that reads the most read one counts.
    """
    block, norm = reading.block, rise.norm
    if rise.several is not None and (reads := sink_heads(rise.several, reading)):
        block = reads[0][0]
    if norm.plateau is None:
        return block
    first, last = norm.plateau
    if block is not None and first <= block <= last:
        return block
    return first + int(np.argmax(norm.curve[first : last + 1]))
