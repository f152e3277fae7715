"""From a model and prompts to its circuit: one pass over the prompts, the rest on P0 alone.

1. Prove on data where every block writes into the residual stream (`observe.sites`).
2. One pass over the prompts: attention, norms, other positions' states, late queries (`observed`).
3. Sink heads by the rule of `detect`, and the first block that has enough of them (`reading`).
   Where P0 sinks in part of the prompts, all that follows is of that part, but for recognition.
4. P0 sees only itself, so its stream depends on its token alone: one-token sequences of many first
   tokens give it at every read point (`streams.p0_points`).
5. Amplification: where ‖x_0‖ over the others' median norm, and P0's part along the sink direction
   u = unit(mean unit P0 − mean unit other), cross half of their rise (`amplification`). P0 may
   rise and fall more than once: each time is a phase with its own parts; the circuit's own are
   those of the phase that most sink heads read through P0's key (`phases`, `phase_reads`).
6. Direct attribution with norms frozen splits what the sink heads read of P0 into embedding, heads
   and neurons; the fewest that make 90 % of it are the writers, unless the sink stays when they
   are taken away (`writes`, `naming`, `writers`).
7. Recognition: the first read point at which P0 is told from the same tokens elsewhere.
8. All heads and neurons are ranked by what mean ablation at P0 takes, to first order, from the sink
   heads' logits on P0 (`keys`, `ranking`).

What is found is observed; `causal.verify` proves or refutes it. The stages are those of the P0 sink
circuit of Peng et al., arXiv 2603.06591; the norm ratio and the direction follow Sun et al., arXiv
2603.05498; what a sink may be for: Barbero et al., arXiv 2504.02732.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from sinkscope.circuit.amplification import Norm, direction_amplification, norm_amplification
from sinkscope.circuit.components import Components, main_components
from sinkscope.circuit.head_reads import HeadReads
from sinkscope.circuit.induction import read_gradients
from sinkscope.circuit.keys import SinkLogits
from sinkscope.circuit.model import Circuit
from sinkscope.circuit.naming import Naming
from sinkscope.circuit.null import untrained_ratio
from sinkscope.circuit.observed import Observed
from sinkscope.circuit.phase_parts import all_parts, most_read, sink_heads
from sinkscope.circuit.phase_reads import (
    block_that_is_read,
    heads_to_ask,
    part_that_is_read,
    read_phases,
)
from sinkscope.circuit.phases import Phase, find_phases
from sinkscope.circuit.ranking import units_by_logit, usual_inputs
from sinkscope.circuit.reading import SinkHeads, reading_from_scan, reading_of
from sinkscope.circuit.recognition import recognition
from sinkscope.circuit.record import FoundCircuit
from sinkscope.circuit.streams import p0_points
from sinkscope.circuit.writers import name_writers, with_named
from sinkscope.circuit.writes import written_along
from sinkscope.errors import NOT_ASKED, Missing
from sinkscope.frame import Progress, silent
from sinkscope.observe.p0_stream import first_tokens, prompt_tokens
from sinkscope.observe.sites import find_sites
from sinkscope.observe.stream import sink_direction
from sinkscope.observe.together import Later, together
from sinkscope.result import Result
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts


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
    observed: Observed | None = None,
) -> FoundCircuit:
    """`find_circuit` with everything that was measured on the way (numbers: steps above).

    observed  the pass of step 2 over the same prompts, where it was made already
    """
    with together(subject) as start:  # what does not need each other's results
        return _find(start, subject, prompts, reader, seed, untrained, scan, progress, observed)


def _find(
    start: Callable[..., Later],
    subject: Subject,
    prompts: Prompts,
    reader: str,
    seed: int,
    untrained: bool,
    scan: Result | None,
    progress: Progress,
    observed: Observed | None,
) -> FoundCircuit:
    same = scan is not None and scan.summary.prompts.sha256.get(prompts.bos) == prompts.sha256
    sites = find_sites(subject, prompts) if observed is None else observed.sites  # 1
    own, drawn = prompt_tokens(prompts), first_tokens(subject, prompts, seed)
    p0_of_drawn = start(p0_points, subject, sites, drawn)  # 4
    p0_of_own = start(p0_points, subject, sites, own)
    recognising = start(recognition, subject, sites, prompts, seed)  # 7
    usual = start(usual_inputs, subject, sites, prompts)
    if observed is None:
        observed = Observed(subject, sites, prompts, seed, not same).run(reader, progress)  # 2
    blocks = len(sites.blocks)
    if same:  # 3
        assert scan is not None
        reading = reading_from_scan(scan, prompts.bos, blocks)
    else:
        assert observed.attention is not None
        reading = reading_of(observed.attention, blocks)
    at = [sites.points.index(f"x{block}") for block in range(blocks + 1)]
    part = reading.part if len(reading.prompts) == len(prompts) else None  # packed: not by row
    here = p0_of_own()
    if part is not None:
        observed = observed.of(part)
        everyones, own = own, prompt_tokens(observed.prompts)
        equal = own[:, None] == everyones
        known = bool(equal.any(1).all())
        here = here[equal.int().argmax(1)] if known else p0_points(subject, sites, own)
    p0 = p0_of_drawn() if part is None else here
    sample = observed.sample[:, at]
    log_ratio = observed.log_ratio[:, at].mean(0)
    progress("circuit", 0, 3)
    null = _null(subject, prompts, log_ratio, untrained)
    progress("circuit", 1, 3)
    phases = find_phases(log_ratio, p0[:, at], sample, None if isinstance(null, Missing) else null)
    by_norm = {phase.block for phase in phases if phase.by == "norm"}
    reading_heads = start(
        HeadReads, subject, sites, observed, heads_to_ask(reading), here, sorted(by_norm)
    )
    logits = read_gradients(subject, sites, observed, reading.heads)
    if isinstance(logits, Missing):  # 5
        reads = None
        phases = [one for one in phases if one.by == "norm" or sink_heads(one, reading)]
    else:
        reads = reading_heads()
        phases = read_phases(phases, reads, reading, logits, p0[:, at], sample)
    main = most_read(phases, reading)
    several = main if len(phases) > 1 else None
    norm = norm_amplification(
        log_ratio,
        None if isinstance(null, Missing) else null,
        several.points(blocks) if several is not None and several.by == "norm" else None,
    )
    unread = main is not None and main.by == "direction" and norm.plateau is not None
    if unread:
        norm = replace(norm, block=None, plateau=None)
    elif main is not None and reads is not None and norm.block is not None:
        norm = replace(norm, block=block_that_is_read(main, norm.block, reads, reading))
    read_at = _read_point(norm, reading, several)
    u, along, direction, writes, components = None, None, None, None, Components()
    writing = None
    if read_at is not None:
        u = sink_direction(p0[:, at[read_at]], observed.other_mean[at[read_at]])
        along = u
        if norm.plateau is None and not isinstance(logits, Missing):
            along = part_that_is_read(u, _gradients(logits, main, reading))
            u = along if unread else u
        direction = direction_amplification(p0[:, at], sample, along, read_at)
        if main is not None and main.by == "direction":
            direction = replace(direction, block=main.block)
        writing = start(written_along, subject, sites, own, lambda block: along, read_at)  # 6
    phase_parts = start(
        all_parts, subject, sites, own, here[:, at], p0[:, at], observed.other_mean[at], phases,
        main, along, reading,
    )  # fmt: skip
    naming, elsewhere = None, {} if isinstance(logits, Missing) else usual()
    ranking = start(units_by_logit, subject, sites, observed.prompts, logits, elsewhere)  # 8
    if reads is not None and not isinstance(logits, Missing):
        naming = Naming(
            subject, sites, logits, reads, _in_reach(logits, main), elsewhere,
            _contrast(here[:, at], sample), own, drawn, start,
        )  # fmt: skip
    if writing is not None:
        writes = writing()
        components = main_components(writes)
    parts = phase_parts()
    if several is not None:
        components = next(part.writes.components for part in parts if part.most_read)
    named = None
    if naming is not None:
        assert writes is not None
        named = name_writers(naming, (components, writes))
        components = named.components
        parts = tuple(with_named(part, named) for part in parts)
    progress("circuit", 2, 3)
    recognised = recognising()
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
        sinking_prompts=reading.prompts,
        positions=reading.positions,
        reading_heads=reading.heads,
        reading_block=reading.block,
        phases=parts,
        ranking=ranking(),
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
        tokens=drawn if part is None else own,
        p0=p0,
        here=here,
        norm=norm,
        direction=direction,
        writes=writes,
        components=components,
        named=named,
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


def _gradients(logits: SinkLogits, main: Phase | None, reading: SinkHeads) -> torch.Tensor:
    """Gradients [heads, d] of the sink heads that read the phase, of all without one."""
    heads = logits.heads if main is None else sink_heads(main, reading)
    rows = [i for i, head in enumerate(logits.heads) if head in heads]
    return logits.gradient.mean(0)[rows or slice(None)]


def _in_reach(logits: SinkLogits, main: Phase | None) -> list[tuple[int, int]]:
    """Sink heads of the blocks that can read the phase, whatever they read there."""
    heads = [head for head in logits.heads if main is None or main.reads(head[0])]
    return heads or logits.heads


def _contrast(p0: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """What embedding and blocks add at P0, less what they add at the others: [L+1, d]."""
    x = p0.mean(0) - others.mean(0)
    return torch.cat([x[:1], x.diff(dim=0)])


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
