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
from dataclasses import dataclass

import torch

from sinkscope.circuit.amplification import norm_amplification
from sinkscope.circuit.components import Components, main_components
from sinkscope.circuit.model import Circuit
from sinkscope.circuit.naming import Naming
from sinkscope.circuit.null import untrained_ratio
from sinkscope.circuit.observed import Observed
from sinkscope.circuit.phase_parts import PhaseParts, all_parts
from sinkscope.circuit.ranking import units_by_logit, usual_inputs
from sinkscope.circuit.reading import SinkHeads, reading_from_scan, reading_of
from sinkscope.circuit.recognition import Recognition, recognition, recognition_beside
from sinkscope.circuit.record import FoundCircuit
from sinkscope.circuit.rise import Along, Rise, Seen, direction_of, rise_of, seen_of
from sinkscope.circuit.streams import p0_points
from sinkscope.circuit.unit import Unit
from sinkscope.circuit.writers import Named, name_writers, with_named
from sinkscope.circuit.writes import Writes, written_along
from sinkscope.errors import NOT_ASKED, Missing
from sinkscope.frame import Progress, silent
from sinkscope.observe.p0_stream import first_tokens, prompt_tokens
from sinkscope.observe.sites import find_sites
from sinkscope.observe.together import Later, together
from sinkscope.result import Result
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts


def find_circuit(
    subject: Subject,
    prompts: Prompts,
    *,
    seed: int = 0,
    untrained: bool = True,
    progress: Progress = silent,
) -> Circuit:
    """The circuit by which position zero becomes a sink on these prompts.

    untrained  compare the norm of P0 with the same architecture untrained

    Raises Unsupported for a model whose residual identity does not hold.
    """
    return find(subject, prompts, seed=seed, untrained=untrained, progress=progress).circuit


def find(
    subject: Subject,
    prompts: Prompts,
    *,
    reader: str = "auto",
    seed: int = 0,
    untrained: bool = True,
    scan: Result | None = None,
    progress: Progress = silent,
    observed: Observed | None = None,
) -> FoundCircuit:
    """`find_circuit` with everything that was measured on the way (numbers: steps above).

    scan      a scan of the same prompts, whose sinking heads are taken instead of read again
    observed  the pass of step 2 over the same prompts, where it was made already
    """
    same = scan is not None and scan.summary.prompts.sha256.get(prompts.bos) == prompts.sha256
    sites = find_sites(subject, prompts) if observed is None else observed.sites  # 1
    drawn = first_tokens(subject, prompts, seed)
    with together(subject) as start:  # what does not need each other's results
        p0_of_drawn = start(p0_points, subject, sites, drawn)  # 4
        here = start(p0_points, subject, sites, prompt_tokens(prompts))
        recognising = start(recognition, subject, sites, prompts, seed)  # 7
        usual = start(usual_inputs, subject, sites, prompts)
        if observed is None:
            observed = Observed(subject, sites, prompts, seed, stats=not same)  # 2
            observed.run(reader, progress)
        reading = _reading(observed, scan if same else None, prompts.bos)  # 3
        seen = seen_of(observed, reading, here(), drawn, p0_of_drawn)
        progress("circuit", 0, 3)
        null = _null(subject, prompts, seen, untrained)
        progress("circuit", 1, 3)
        rise = rise_of(seen, None if isinstance(null, Missing) else null, start)  # 5
        along = direction_of(seen, rise)
        writing = _writing(seen, rise, along, drawn, usual, start)  # 6, 8
        progress("circuit", 2, 3)
        recognised = _recognised(recognising(), seen, prompts, seed)
        progress("circuit", 3, 3)
    return _found(prompts.bos, seen, rise, along, writing, recognised, null)


def _found(
    bos: str,
    seen: Seen,
    rise: Rise,
    along: Along | None,
    writing: _Writing,
    recognised: Recognition,
    null: float | Missing,
) -> FoundCircuit:
    return FoundCircuit(
        circuit=_circuit(bos, seen, rise, along, writing, recognised),
        observed=seen.observed,
        reading=seen.reading,
        tokens=seen.tokens,
        p0=seen.p0,
        here=seen.here,
        norm=rise.norm,
        direction=None if along is None else along.curve,
        writes=writing.writes,
        components=writing.components,
        named=writing.named,
        recognition=recognised,
        null=null,
        logits=rise.logits,
    )


def _recognised(told: Recognition, seen: Seen, prompts: Prompts, seed: int) -> Recognition:
    """Recognition beside the other sinks of the sink heads, where P0 is told from all nowhere."""
    heads = seen.reading.sinking
    if told.point is not None or told.reason or not heads.any():
        return told
    observed = seen.observed
    beside = recognition_beside(observed.subject, observed.sites, prompts, seed, heads)
    return told if beside.point is None or not beside.sinks else beside


def _reading(observed: Observed, scan: Result | None, bos: str) -> SinkHeads:
    """The sink heads, by a scan of the same prompts where there is one."""
    blocks = len(observed.sites.blocks)
    if scan is not None:
        return reading_from_scan(scan, bos, blocks)
    assert observed.attention is not None
    return reading_of(observed.attention, blocks)


def _null(subject: Subject, prompts: Prompts, seen: Seen, untrained: bool) -> float | Missing:
    """The untrained null that the norm is held against."""
    if not untrained or norm_amplification(seen.log_ratio).plateau is None:
        return NOT_ASKED  # no need of a null for what does not rise
    return untrained_ratio(subject, prompts)


@dataclass(frozen=True, eq=False)
class _Writing:
    """Who writes what is read, in all and by phase, and how the units of all blocks rank."""

    writes: Writes | None
    components: Components
    named: Named | None
    parts: tuple[PhaseParts, ...]
    ranking: tuple[Unit, ...] | Missing


def _writing(
    seen: Seen,
    rise: Rise,
    along: Along | None,
    drawn: torch.Tensor,
    usual: Later,
    start: Callable[..., Later],
) -> _Writing:
    """Name the writers and rank the units: drawn [k] first tokens to compare with, usual inputs."""
    observed, logits = seen.observed, rise.logits
    subject, sites = observed.subject, observed.sites
    written = None
    if along is not None:
        written = start(written_along, subject, sites, seen.own, lambda _: along.read, along.point)
    phase_parts = start(
        all_parts, subject, sites, seen.own, seen.here[:, seen.at], seen.p0_inputs,
        observed.other_mean[seen.at], rise.phases, rise.main, along and along.read, seen.reading,
    )  # fmt: skip
    elsewhere = {} if isinstance(logits, Missing) else usual()
    ranking = start(units_by_logit, subject, sites, observed.prompts, logits, elsewhere)
    naming = None
    if rise.reads is not None and not isinstance(logits, Missing):
        naming = Naming(
            subject, sites, logits, rise.reads, _in_reach(rise, logits.heads), elsewhere,
            _added(seen.here[:, seen.at]), _added(seen.other_inputs), seen.own, drawn, start,
            _taken_back(rise),
        )  # fmt: skip
    writes = None if written is None else written()
    components = Components() if writes is None else main_components(writes)
    parts, named = phase_parts(), None
    if rise.several is not None:
        components = next(part.writes.components for part in parts if part.most_read)
    if naming is not None:
        assert writes is not None
        named = name_writers(naming, (components, writes))
        components = named.components
        parts = tuple(with_named(part, named) for part in parts)
    return _Writing(writes, components, named, parts, ranking())


def _circuit(
    bos: str, seen: Seen, rise: Rise, along: Along | None, writing: _Writing, told: Recognition
) -> Circuit:
    reading, by_norm = seen.reading, rise.norm.block
    by_direction = None if along is None else along.curve.block
    return Circuit(
        bos=bos,
        direction=None if along is None else along.u,
        read_point=len(seen.at) - 1 if along is None else along.point,
        emergence_block=by_norm if by_norm is not None else by_direction,
        amplification=_amplification(by_norm, by_direction),
        plateau=rise.norm.plateau,
        writers=writing.components.units,
        sinks=reading.p0_sink,
        sinking_prompts=reading.prompts,
        positions=reading.positions,
        reading_heads=reading.heads,
        reading_block=reading.block,
        phases=writing.parts,
        ranking=writing.ranking,
        recognition_point=told.point,
        late=reading.late,
        uniform_late=reading.uniform_late,
        sites=seen.observed.sites,
    )


def _in_reach(rise: Rise, heads: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sink heads of the blocks that can read the main phase, whatever they read there."""
    return [head for head in heads if rise.main is None or rise.main.reads(head[0])] or heads


def _taken_back(rise: Rise) -> list[tuple[int, int]]:
    """First and last blocks of the phases that are over before the main one begins."""
    spans = [(max(one.rise[0], 0), one.fall[1]) for one in rise.phases if one.fall is not None]
    return [] if rise.main is None else [one for one in spans if one[1] < rise.main.rise[0]]


def _added(states: torch.Tensor) -> torch.Tensor:
    """What embedding and blocks add, mean over states [n, L+1, d]: [L+1, d]."""
    x = states.mean(0)
    return torch.cat([x[:1], x.diff(dim=0)])


def _amplification(by_norm: int | None, by_direction: int | None) -> str | None:
    """Which curve rises: norm, direction, or both where they rise in different blocks."""
    if by_norm is None:
        return None if by_direction is None else "direction"
    return "norm" if by_direction in (None, by_norm) else "both"
