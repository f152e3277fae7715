"""From a model and prompts to its circuit: one pass over the prompts, the rest on P0 alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from sinkscope.circuit.amplification import (
    Direction,
    Norm,
    direction_amplification,
    norm_amplification,
    sink_direction,
)
from sinkscope.circuit.components import Components, main_components
from sinkscope.circuit.induction import read_gradients
from sinkscope.circuit.keys import SinkLogits
from sinkscope.circuit.model import Circuit
from sinkscope.circuit.null import untrained_ratio
from sinkscope.circuit.observed import Observed
from sinkscope.circuit.ranking import units_by_logit
from sinkscope.circuit.reading import SinkHeads, reading_from_scan, reading_of
from sinkscope.circuit.recognition import Recognition, recognition
from sinkscope.circuit.streams import p0_points, unit
from sinkscope.circuit.writes import Writes, written_along
from sinkscope.observe.sites import Sites, find_sites
from sinkscope.result import Result
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts, vocabulary

FIRST_TOKENS = 256  # first tokens over which P0 is averaged

Progress = Callable[[str, int, int], None]


@dataclass
class FoundCircuit:
    """A circuit and what it was found from.

    at        numbers of the block inputs x0..xL among `sites.points`
    tokens    first tokens [k] that P0 was averaged over
    p0        [k, points, d] P0's stream for them
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
    null: float | str
    logits: SinkLogits | str


def find_circuit(
    subject: Subject,
    prompts: Prompts,
    *,
    reader: str = "auto",
    seed: int = 0,
    untrained: bool = True,
    scan: Result | None = None,
    progress: Progress | None = None,
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
    progress: Progress | None = None,
) -> FoundCircuit:
    """`find_circuit` with everything that was measured on the way."""
    sites = find_sites(subject, prompts)
    blocks = len(sites.blocks)
    same = scan is not None and scan.summary.prompts.sha256.get(prompts.bos) == prompts.sha256
    observed = Observed(subject, sites, prompts, seed, stats=not same).run(reader, progress)
    if same:
        assert scan is not None
        reading = reading_from_scan(scan, prompts.bos, blocks)
    else:
        assert observed.attention is not None
        reading = reading_of(observed.attention, blocks, seed)
    at = [sites.points.index(f"x{block}") for block in range(blocks + 1)]
    tokens = first_tokens(subject, prompts, seed)
    p0 = p0_points(subject, sites, tokens)
    log_ratio = observed.log_ratio[:, at].mean(0)
    null: float | str = "not asked for"
    if untrained and norm_amplification(log_ratio).plateau is not None:
        null = untrained_ratio(subject, prompts)
    norm = norm_amplification(log_ratio, null if isinstance(null, float) else None)
    read_point = _read_point(norm, reading)
    logits = read_gradients(subject, sites, observed, reading.heads)
    u, direction, writes = None, None, None
    components = Components([], [], [], [], [])
    if read_point is not None:
        u = sink_direction(p0[:, at[read_point]], observed.other_mean[at[read_point]])
        along = u
        if norm.plateau is None and isinstance(logits, SinkLogits):
            along = part_that_is_read(u, logits)
        direction = direction_amplification(p0[:, at], observed.sample[:, at], along, read_point)
        writes = written_along(subject, sites, tokens, lambda block: along, read_point)
        components = main_components(writes)
    recognised = recognition(subject, sites, prompts, seed)
    circuit = _circuit(prompts, sites, reading, norm, direction, u, read_point, components)
    circuit.recognition_point = recognised.point
    if isinstance(logits, SinkLogits):
        circuit.ranking = units_by_logit(subject, sites, prompts, logits)
    else:
        circuit.ranking = logits
    return FoundCircuit(
        circuit, observed, reading, at, tokens, p0, norm, direction, writes, components,
        recognised, null, logits,
    )  # fmt: skip


def first_tokens(subject: Subject, prompts: Prompts, seed: int) -> torch.Tensor:
    """Tokens to put at P0: the BOS token alone, or a random sample of the vocabulary."""
    first = prompts.input_ids[:, 0].unique()
    if prompts.bos == "with" and len(first) == 1:
        return first
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(usable_vocabulary(subject), generator=generator)[:FIRST_TOKENS]


def usable_vocabulary(subject: Subject) -> int:
    """Ids that a tokenizer can give: padding rows of the embedding are left out."""
    size = vocabulary(subject)
    return size if subject.tokenizer is None else min(size, len(subject.tokenizer))


def _read_point(norm: Norm, reading: SinkHeads) -> int | None:
    """Where u is taken: the first reading block's input if P0 is amplified by then, else the
    plateau's highest point, else the reading block's input; None where nothing sets P0 apart."""
    if norm.plateau is None:
        return reading.block
    first, last = norm.plateau
    if reading.block is not None and first <= reading.block <= last:
        return reading.block
    return first + int(np.argmax(norm.curve[first : last + 1]))


def part_that_is_read(u: torch.Tensor, logits: SinkLogits) -> torch.Tensor:
    """Unit vector of Σ_h g_h ⟨g_h, u⟩ over the reading heads' gradients g_h.

    Where the norm is not amplified, u holds every difference between P0 and the others, read or
    not; emergence and writes are then taken along what of it the heads read.
    """
    gradients = logits.gradient.mean(0)
    return unit(gradients.T @ (gradients @ u))


def _circuit(prompts, sites: Sites, reading, norm, direction, u, read_point, components) -> Circuit:
    by_direction = direction.block if direction is not None else None
    kinds = {
        (False, False): None,
        (True, False): "norm",
        (False, True): "direction",
        (True, True): "norm" if norm.block == by_direction else "both",
    }
    return Circuit(
        bos=prompts.bos,
        direction=u,
        read_point=len(sites.blocks) if read_point is None else read_point,
        emergence_block=norm.block if norm.block is not None else by_direction,
        emergence_norm=norm.block,
        emergence_direction=by_direction,
        amplification=kinds[norm.block is not None, by_direction is not None],
        plateau=norm.plateau,
        neurons=[(b, n) for b, n, _ in components.neurons],
        shared_neurons=[(b, n) for b, n, _ in components.shared],
        heads=[(b, h) for b, h, _ in components.heads],
        experts=[(b, e) for b, e, _ in components.experts],
        reading_heads=reading.heads,
        reading_block=reading.block,
        late=reading.late,
        uniform_late=reading.uniform_late,
        sites=sites,
    )
