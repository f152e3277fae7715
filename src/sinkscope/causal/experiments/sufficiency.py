"""S1 to S4: give a part of the circuit to another position and see whether a sink arises."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from sinkscope.causal.edits import KeepUnits, MatchVariance, SelfOnly, Stream, Transplant
from sinkscope.causal.edits.base import Edit
from sinkscope.causal.experiments.lab import SUFFICIENCY, Lab, Test
from sinkscope.causal.experiments.necessity import ranked_neurons
from sinkscope.errors import Unsupported
from sinkscope.result import Measured
from sinkscope.stats import paired_change, sign_flip_p

FIRST = "stage 1 -> stage 4"
THIRD = "stage 3 -> stage 4"
WEIGHTS = (0.25, 0.5, 1.0, 2.0)
MASKED = 4  # numbers of masked blocks tried


def self_only(lab: Lab) -> list[Test]:
    """S1: p attends only to itself in blocks 0..l, against the same behind the emergence block."""
    depth, last = lab.engine.depth, max(lab.start - 1, 0)
    control: list[Edit] = [SelfOnly(lab.position, tuple(range(last + 1, depth)))]
    steps = sorted({0, last, *np.linspace(0, last, MASKED).astype(int).tolist()})
    tests = [
        lab.test(
            "S1",
            SUFFICIENCY,
            [SelfOnly(lab.position, tuple(range(step + 1)))],
            [control],
            arrow=FIRST,
            block=step,
            dose=float(step + 1),
        )
        for step in steps
    ]
    narrow = [SelfOnly(lab.position, tuple(range(last + 1)), to=lab.position // 2)]
    tests.append(
        lab.test(
            "S1",
            SUFFICIENCY,
            narrow,
            arrow=FIRST,
            block=last,
            claim=False,
            note="unmixed, but with another token's value: tells being unmixed from being itself",
        )
    )
    return tests


def variance(lab: Lab, block: int | None) -> list[Test]:
    """S2: the variance of p's attention write moved to P0's and beyond."""
    if block is None:
        return []
    return [
        lab.test(
            "S2",
            SUFFICIENCY,
            [MatchVariance(block, lab.position, weight, "p0")],
            [[MatchVariance(block, lab.position, weight, "p0", "stream")]],
            arrow=FIRST,
            block=block,
            dose=weight,
            claim=weight >= 1,
        )
        for weight in WEIGHTS
    ]


def transplant(lab: Lab) -> list[Test]:
    """S3: P0's key, value, both, or whole stream at p; the control comes from a random position."""
    blocks = tuple(range(lab.first_read, lab.engine.depth))
    generator = torch.Generator().manual_seed(lab.seed)
    shortest = int(lab.engine.prompts.lengths.min())
    # behind p and before the late queries, so that every one of them sees it
    low, high = lab.position + 1, max(lab.position + 2, shortest // 2)
    other = int(torch.randint(low, high, (), generator=generator))
    tests = [
        lab.test(
            "S3",
            SUFFICIENCY,
            [Transplant(lab.position, 0, what, blocks)],
            [[Transplant(lab.position, other, what, blocks)]],
            arrow=THIRD,
            block=lab.first_read,
            claim=what != "value",
        )
        for what in ("key", "value", "both")
    ]
    tests.append(
        lab.test(
            "S3",
            SUFFICIENCY,
            [Stream(lab.start, lab.position, "copy", source=0)],
            [[Stream(lab.start, lab.position, "copy", source=other)]],
            arrow="stage 2 -> stage 4",
            block=lab.start,
        )
    )
    return tests


@dataclass
class Kept:
    """S4: what is left of the sink when P0 keeps only the circuit's writes.

    faithfulness, completeness  sink kept by the circuit alone, and by everything else alone,
                                relative to intact
    random                      mean faithfulness of random sets of as many units; draws [m]
    p                           one-sided, circuit against random sets
    components, share           units kept, and their share of all of P0's
    edits                       of the two passes, in words
    """

    faithfulness: Measured
    completeness: Measured
    random: Measured | None
    draws: np.ndarray | None
    p: float | None
    components: int
    share: float
    total: int
    edits: tuple[list[Edit], list[Edit]]
    kept: np.ndarray
    left: np.ndarray


def keep_circuit(lab: Lab) -> Kept | None:
    """S4: only the circuit's writes at P0 are kept, at their intact values; all else is the mean.

    None where a sublayer does not show its units; the reason is left in the notes.
    """
    units = circuit_units(lab)
    if not units:
        lab.notes.append("S4: the trace names no unit that writes before the reading heads.")
        return None
    sizes = _sizes(lab)
    try:
        kept, left = (lab.run(keep_edits(lab, units, other)) for other in (False, True))
    except Unsupported as refusal:
        lab.notes.append(f"S4: {refusal}")
        return None
    sink = lab.intact_sink
    random = [
        lab.run(keep_edits(lab, _random_units(lab, units, sizes, draw)))
        for draw in range(lab.draws)
    ]
    shares = np.stack([read.on(lab.heads) for read in random]) if random else None
    own = kept.on(lab.heads)
    count = sum(len(found) for found in units.values())
    total = 1 + sum(sizes.values())
    return Kept(
        faithfulness=_relative(own, sink, lab.seed),
        completeness=_relative(left.on(lab.heads), sink, lab.seed),
        random=None if shares is None else _relative(shares.mean(0), sink, lab.seed),
        draws=None if shares is None else shares.mean(1) / sink.mean(),
        p=None if shares is None else sign_flip_p(own - shares.mean(0)),
        components=count,
        share=count / total,
        total=total,
        edits=(keep_edits(lab, units), keep_edits(lab, units, True)),
        kept=own / sink.mean(),
        left=left.on(lab.heads) / sink.mean(),
    )


def _relative(share: np.ndarray, sink: np.ndarray, seed: int) -> Measured:
    return paired_change(share, 0 * sink, sink, seed)


Units = dict[tuple[int, str], tuple[int, ...]]


def circuit_units(lab: Lab) -> Units:
    """Heads and neurons that write at P0 before the last reading block; the embedding as block −1.

    (block, attention | mlp | shared | embedding) -> units.
    """
    circuit = lab.circuit
    found: dict[tuple[int, str], list[int]] = {}
    for block, neuron in ranked_neurons(lab):
        found.setdefault((block, "mlp"), []).append(neuron)
    for name, pairs in (("attention", circuit.heads), ("shared", circuit.shared_neurons)):
        for block, unit in pairs:
            if block < lab.last_read:
                found.setdefault((block, name), []).append(unit)
    if circuit.emergence_block == -1:
        found[-1, "embedding"] = [0]
    return {key: tuple(sorted(units)) for key, units in found.items()}


def keep_edits(lab: Lab, units: Units, complement: bool = False) -> list[Edit]:
    """Edits that keep these units at P0 in every block before the last that reads."""
    sites = lab.engine.sites
    assert sites is not None
    edits: list[Edit] = []
    if ((-1, "embedding") in units) == complement:
        edits.append(Stream(0, 0, "mean"))
    for block in range(lab.last_read):
        for kind in ("attention", "mlp"):
            if getattr(sites, kind)(block) is not None:
                shared = units.get((block, "shared"), ()) if kind == "mlp" else ()
                own = units.get((block, kind), ())
                edits.append(KeepUnits(block, kind, own, shared, complement))
    return edits


def _sizes(lab: Lab) -> dict[tuple[int, str], int]:
    """How many units each sublayer before the last reading block has."""
    engine = lab.engine
    assert engine.sites is not None
    blocks = engine.subject.anatomy.modules(engine.subject.model)
    sizes: dict[tuple[int, str], int] = {}
    for block in range(lab.last_read):
        for sublayer in engine.sites.blocks[block]:
            if sublayer.kind == "attention" and sublayer.heads:
                sizes[block, "attention"] = sublayer.heads
            elif sublayer.kind == "mlp" and sublayer.projection is not None:
                sizes[block, "mlp"] = sublayer.projection.columns(blocks[block]).shape[-2]
            if sublayer.shared is not None:
                sizes[block, "shared"] = sublayer.shared.columns(blocks[block]).shape[-2]
    return sizes


def _random_units(lab: Lab, units: Units, sizes, draw: int) -> Units:
    """As many units of each kind, from anywhere before the last reading block, none of ours."""
    generator = torch.Generator().manual_seed(1000 * lab.seed + draw)
    found: dict[tuple[int, str], list[int]] = {}
    for kind in ("attention", "mlp", "shared"):
        count = sum(len(own) for (_, name), own in units.items() if name == kind)
        free = [
            (key, unit)
            for key, size in sizes.items()
            if key[1] == kind
            for unit in range(size)
            if unit not in units.get(key, ())
        ]
        for i in torch.randperm(len(free), generator=generator)[:count].tolist():
            found.setdefault(free[i][0], []).append(free[i][1])
    return {key: tuple(sorted(own)) for key, own in found.items()}
