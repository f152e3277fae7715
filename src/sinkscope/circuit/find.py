"""From a model and prompts to its circuit: one pass over the prompts, the rest on P0 alone.

1. Prove on data where every block writes into the residual stream (`observe.sites`).
2. One pass over the prompts: attention, norms, other positions' states, late queries (`observed`).
3. Sink heads by the rule of `detect`, and the first block that has enough of them (`reading`).
4. P0 sees only itself, so its stream depends on its token alone: one-token sequences of many first
   tokens give it at every read point (`streams.p0_points`).
5. Amplification: where ‖x_0‖ over the others' median norm, and P0's part along the sink direction
   u = unit(mean unit P0 − mean unit other), cross half of their rise (`amplification`). P0 may
   rise and fall more than once: each time is a phase with its own parts, and the circuit's own
   keys are those of the phase that most sink heads read (`phases`, `phase_parts`).
6. Direct attribution with norms frozen splits P0's stream along u into embedding, heads and
   neurons; the fewest that make 90 % of it are the writers (`writes`, `components`).
7. Recognition: the first read point at which norm, cosine or a linear probe separates P0 from the
   same tokens elsewhere (`recognition`).
8. All heads and neurons are ranked by what mean ablation at P0 takes, to first order, from the sink
   heads' logits on P0 (`keys`, `ranking`).

What is found is observed; `causal.verify` proves or refutes it. The stages are those of the P0 sink
circuit of Peng et al., arXiv 2603.06591; the norm ratio and the direction follow Sun et al., arXiv
2603.05498; what a sink may be for: Barbero et al., arXiv 2504.02732.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from sinkscope.circuit.amplification import (
    Direction,
    Norm,
    direction_amplification,
    norm_amplification,
)
from sinkscope.circuit.components import Components, main_components
from sinkscope.circuit.induction import read_gradients
from sinkscope.circuit.keys import SinkLogits
from sinkscope.circuit.model import Circuit
from sinkscope.circuit.null import untrained_ratio
from sinkscope.circuit.observed import Observed
from sinkscope.circuit.phase_parts import all_parts, most_read, sink_heads
from sinkscope.circuit.phases import Phase, find_phases
from sinkscope.circuit.ranking import units_by_logit
from sinkscope.circuit.reading import SinkHeads, reading_from_scan, reading_of
from sinkscope.circuit.recognition import Recognition, recognition
from sinkscope.circuit.streams import p0_points
from sinkscope.circuit.writes import Writes, written_along
from sinkscope.errors import NOT_ASKED, Missing
from sinkscope.frame import Progress, silent
from sinkscope.observe.p0_stream import first_tokens
from sinkscope.observe.sites import find_sites
from sinkscope.observe.stream import sink_direction, unit
from sinkscope.result import Result
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts


@dataclass(frozen=True, eq=False)
class FoundCircuit:
    """A circuit and what it was found from.

    at        numbers of the block inputs x0..xL among `sites.points`
    tokens    first tokens [k] that P0 was averaged over
    p0        [k, points, d] P0's stream for them
    null      largest norm ratio of P0 in the same architecture untrained
    """

    circuit: Circuit
    observed: Observed
    reading: SinkHeads
    at: list[int]
    tokens: torch.Tensor
    p0: torch.Tensor
    norm: Norm
    direction: Direction | None
    writes: Writes | None
    components: Components
    recognition: Recognition
    null: float | Missing
    logits: SinkLogits | Missing


def find_circuit(
    subject: Subject,
    prompts: Prompts,
    *,
    reader: str = "auto",
    seed: int = 0,
    untrained: bool = True,
    scan: Result | None = None,
    progress: Progress = silent,
) -> Circuit:
    """The circuit by which position zero becomes a sink on these prompts.

    untrained  compare the norm of P0 with the same architecture untrained
    scan       a scan of the same prompts, whose sinking heads are taken instead of read again

    Raises Unsupported for a model whose residual identity does not hold.
    """
    return find(subject, prompts, reader, seed, untrained, scan, progress).circuit


def find(
    subject: Subject,
    prompts: Prompts,
    reader: str = "auto",
    seed: int = 0,
    untrained: bool = True,
    scan: Result | None = None,
    progress: Progress = silent,
) -> FoundCircuit:
    """`find_circuit` with everything that was measured on the way (numbers: steps above)."""
    sites = find_sites(subject, prompts)  # 1
    blocks = len(sites.blocks)
    same = scan is not None and scan.summary.prompts.sha256.get(prompts.bos) == prompts.sha256
    observed = Observed(subject, sites, prompts, seed, stats=not same).run(reader, progress)  # 2
    if same:  # 3
        assert scan is not None
        reading = reading_from_scan(scan, prompts.bos, blocks)
    else:
        assert observed.attention is not None
        reading = reading_of(observed.attention, blocks, seed)
    at = [sites.points.index(f"x{block}") for block in range(blocks + 1)]
    tokens = first_tokens(subject, prompts, seed)
    p0 = p0_points(subject, sites, tokens)  # 4
    log_ratio = observed.log_ratio[:, at].mean(0)
    progress("circuit", 0, 3)
    null = _null(subject, prompts, log_ratio, untrained)
    progress("circuit", 1, 3)
    phases = _phases(log_ratio, p0[:, at], observed.sample[:, at], null, reading)  # 5
    main = most_read(phases, reading)
    several = main if len(phases) > 1 else None
    norm = norm_amplification(
        log_ratio,
        None if isinstance(null, Missing) else null,
        several.points(blocks) if several is not None and several.by == "norm" else None,
    )
    read_at = _read_point(norm, reading, several)
    logits = read_gradients(subject, sites, observed, reading.heads)
    u, along, direction, writes, components = None, None, None, None, Components()
    if read_at is not None:
        u = sink_direction(p0[:, at[read_at]], observed.other_mean[at[read_at]])
        along = u
        if norm.plateau is None and not isinstance(logits, Missing):
            along = part_that_is_read(u, logits)
        direction = direction_amplification(p0[:, at], observed.sample[:, at], along, read_at)
        writes = written_along(subject, sites, tokens, lambda block: along, read_at)  # 6
        components = main_components(writes)
    parts = all_parts(
        subject, sites, tokens, p0[:, at], observed.other_mean[at], phases, main, along, reading
    )
    if several is not None:
        components = next(part.writes.components for part in parts if part.most_read)
    progress("circuit", 2, 3)
    recognised = recognition(subject, sites, prompts, seed)  # 7
    progress("circuit", 3, 3)
    by_direction = direction.block if direction is not None else None
    circuit = Circuit(
        bos=prompts.bos,
        direction=u,
        read_point=blocks if read_at is None else read_at,
        emergence_block=norm.block if norm.block is not None else by_direction,
        amplification=_amplification(norm.block, by_direction),
        plateau=norm.plateau,
        writers=components.units,
        sinks=reading.p0_sink,
        reading_heads=reading.heads,
        reading_block=reading.block,
        phases=parts,
        ranking=units_by_logit(subject, sites, prompts, logits),  # 8
        recognition_point=recognised.point,
        late=reading.late,
        uniform_late=reading.uniform_late,
        sites=sites,
    )
    return FoundCircuit(
        circuit=circuit,
        observed=observed,
        reading=reading,
        at=at,
        tokens=tokens,
        p0=p0,
        norm=norm,
        direction=direction,
        writes=writes,
        components=components,
        recognition=recognised,
        null=null,
        logits=logits,
    )


def _null(
    subject: Subject, prompts: Prompts, log_ratio: np.ndarray, untrained: bool
) -> float | Missing:
    """The untrained null that the norm is held against."""
    if not untrained or norm_amplification(log_ratio).plateau is None:
        return NOT_ASKED  # no need of a null for what does not rise
    return untrained_ratio(subject, prompts)


def _phases(
    log_ratio: np.ndarray,
    p0: torch.Tensor,
    others: torch.Tensor,
    null: float | Missing,
    reading: SinkHeads,
) -> list[Phase]:
    """Phases by norm; by direction those that sink heads read, for something always tells P0."""
    found = find_phases(log_ratio, p0, others, None if isinstance(null, Missing) else null)
    return [phase for phase in found if phase.by == "norm" or sink_heads(phase, reading)]


def _amplification(by_norm: int | None, by_direction: int | None) -> str | None:
    """Which curve rises: norm, direction, or both where they rise in different blocks."""
    if by_norm is None:
        return None if by_direction is None else "direction"
    return "norm" if by_direction in (None, by_norm) else "both"


def _read_point(norm: Norm, reading: SinkHeads, several: Phase | None) -> int | None:
    """Where u is taken: the first reading block's input if P0 is amplified by then, else the
    plateau's highest point, else the reading block's input; None where nothing sets P0 apart.

    several  the most read of several phases: its first reading block counts
    """
    block = reading.block
    if several is not None and (reads := sink_heads(several, reading)):
        block = reads[0][0]
    if norm.plateau is None:
        return block
    first, last = norm.plateau
    if block is not None and first <= block <= last:
        return block
    return first + int(np.argmax(norm.curve[first : last + 1]))


def part_that_is_read(u: torch.Tensor, logits: SinkLogits) -> torch.Tensor:
    """Component of u in the span of the sink heads' key-logit gradients g_h, as a unit vector [d].

    Σ_h g_h ⟨g_h, u⟩, normalised. Where the norm is not amplified, u holds every difference between
    P0 and the others, read or not; emergence and outputs are then taken along this component.
    """
    gradients = logits.gradient.mean(0)
    return unit(gradients.T @ (gradients @ u))
