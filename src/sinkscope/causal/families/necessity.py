"""N1 to N5: take a part of the circuit away from position zero and see whether the sink goes.

Every edit is screened through P0's key; what decides is confirmed by full passes (`causal.screen`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from sinkscope.causal.confirm import decide, strongest
from sinkscope.causal.evidence import NECESSITY, Planned, Test
from sinkscope.causal.testing import CausalBench
from sinkscope.causal.thresholds import NECESSARY
from sinkscope.circuit.unit import NEURON, Unit, by_block
from sinkscope.errors import Unsupported
from sinkscope.intervene.edits import MatchVariance, Neurons, SetWrite, Stream
from sinkscope.intervene.edits.base import Edit
from sinkscope.subject.at_hand import weights_of

FIRST = "stage 1 -> stage 4"
SECOND = "stage 2 -> stage 4"
THIRD = "stage 3 -> stage 4"
WEIGHTS = (0.25, 0.5, 0.75, 1.0)
DIRECTIONS = 4  # random ones that N5 is held against, at most
LEVEL = "level"  # the edit of N5 that decides


def recognition(lab: CausalBench) -> list[Test]:
    """N1: P0's attention write of each block up to the emergence, from another position."""
    return decide(lab, attention_plans(lab, "N1"), strongest)


def attention_plans(lab: CausalBench, id: str) -> list[Planned]:
    """P0's attention write of each block up to the emergence, taken from another position."""
    blocks = _blocks(lab, "attention", lab.start)
    return [_write(lab, id, block, "attention", "resample", FIRST) for block in blocks]


def mlp_plans(lab: CausalBench, id: str) -> list[Planned]:
    """P0's MLP write of each block that a reading head can see; the mean of the others instead."""
    blocks = _blocks(lab, "mlp", lab.last_read)
    return [_write(lab, id, block, "mlp", "mean", SECOND) for block in blocks]


def variance(lab: CausalBench, n1: list[Test]) -> list[Test]:
    """N2: the variance of P0's attention write moved to that of the others, in steps."""
    block = strongest_block(n1)
    if block is None:
        return []
    plans = []
    for weight in WEIGHTS:
        edits: list[Edit] = [MatchVariance(block, 0, weight)]
        control: list[Edit] = [MatchVariance(block, 0, weight, "others", "stream")]
        claim = weight == WEIGHTS[-1]
        plans.append(
            Planned(
                "N2",
                NECESSITY,
                edits,
                [control],
                arrow=FIRST,
                block=block,
                dose=weight,
                claim=claim,
            )
        )
    return decide(lab, plans, _last)


def mlp_writes(lab: CausalBench) -> list[Test]:
    """N3: P0's MLP write of each block that a reading head can see; the others' mean instead.

    The strongest block is also tried with zero and with a resampled write: in full only where the
    mean does not take enough.
    """
    tests = decide(lab, mlp_plans(lab, "N3"), strongest)
    if not tests:
        return tests
    best = min(tests, key=lambda test: test.size)
    variants = [
        _write(lab, "N3", int(best.block or 0), "mlp", how, SECOND) for how in ("zero", "resample")
    ]
    enough = -best.size >= NECESSARY
    return tests + decide(lab, variants, lambda sizes: () if enough else range(len(sizes)))


def strongest_block(tests: list[Test]) -> int | None:
    """Block of the row that takes most of the sink; None without rows."""
    return min(tests, key=lambda test: test.size).block if tests else None


def neurons(lab: CausalBench) -> list[Test]:
    """N4: the writing neurons off, the strongest first; against random ones that are as active."""
    found = ranked_neurons(lab)
    if not found:
        return []
    counts = _doubling(len(found))

    def plan(count: int, how: str = "zero", **more: Any) -> Planned:
        edits = neurons_off(found[:count], how)
        return Planned("N4", NECESSITY, edits, arrow=SECOND, dose=float(count), **more)

    draws = [neurons_off(draw) for draw in _random_sets(lab, found)]
    like = f"{counts[-1]} random neurons of the same blocks, as active at P0 where there are any"
    control = f"{like} ({len(draws)} draws)" if draws else ""
    plans = [plan(count, claim=False) for count in counts[:-1]]
    plans.append(plan(counts[-1], controls=draws, control=control))
    tests = decide(lab, plans, _last)
    for how in ("mean", "resample"):
        try:
            tests += decide(lab, [plan(counts[-1], how, claim=False)], lambda sizes: ())
        except Unsupported as refusal:
            lab.notes.append(f"N4 {how}: {refusal}")
            break
    return tests


def direction(lab: CausalBench) -> list[Test]:
    """N5: P0's component along u, its direction, or its norm, at every point that is read from.

    That component decides, against the same edit along random directions: one of those that takes
    the sink away is a control that failed.
    """
    if lab.engine.direction is None:
        return []
    points = range(lab.start, lab.last_read + 1)

    def edits(how: str, along: tuple[float, ...] | None = None) -> list[Edit]:
        return [Stream(point, 0, how, seed=lab.seed, vector=along) for point in points]

    def plan(how: str, **more: Any) -> Planned:
        claim, block = how == LEVEL, lab.start
        return Planned("N5", NECESSITY, edits(how), arrow=THIRD, block=block, claim=claim, **more)

    generator = torch.Generator().manual_seed(lab.seed)
    count = min(lab.draws, DIRECTIONS)
    drawn = torch.randn(count, len(lab.engine.direction), generator=generator).tolist()
    controls = [edits(LEVEL, tuple(along)) for along in drawn]
    plans = [
        plan(LEVEL, controls=controls, control=f"the same along random directions ({count} draws)"),
        plan("remove"),
        plan("swap", note="all of P0's direction is lost, not u alone"),
        plan("norm", note="graded: a pre-norm takes the norm away by itself"),
    ]
    return decide(lab, plans, lambda sizes: [0])


def _last(sizes: np.ndarray) -> list[int]:
    return [len(sizes) - 1]


def _write(lab: CausalBench, id: str, block: int, kind: str, how: str, arrow: str) -> Planned:
    def edits(position: int) -> list[SetWrite]:
        return [SetWrite(block, kind, position, how, lab.seed)]

    return lab.at_p0(id, edits, arrow=arrow, block=block)


def _has(lab: CausalBench, block: int, kind: str) -> bool:
    sites = lab.engine.sites
    return sites is not None and getattr(sites, kind)(block) is not None


def _blocks(lab: CausalBench, kind: str, stop: int) -> list[int]:
    return [block for block in range(max(stop, 1)) if _has(lab, block, kind)]


def _doubling(count: int) -> list[int]:
    steps = [1]
    while steps[-1] * 2 < count:
        steps.append(steps[-1] * 2)
    return steps if steps[-1] == count else [*steps, count]


def neurons_off(found: list[Unit], how: str = "zero", at: int = 0) -> list[Edit]:
    """One edit for each block."""
    return [
        Neurons(block, tuple(sorted(own)), at, how)
        for block, own in by_block(found, NEURON).items()
    ]


def ranked_neurons(lab: CausalBench) -> list[Unit]:
    """The writing neurons that a reading head can see, in the order of the trace."""
    return [
        unit
        for unit in lab.circuit.of(NEURON)
        if unit.block < lab.last_read and _has(lab, unit.block, "mlp")
    ]


def _random_sets(lab: CausalBench, found: list[Unit]) -> list[list[Unit]]:
    """Random neurons of the same blocks, drawn from those nearest in the norm of what they write.

    Inside experts the norm is not at hand, so there all others are drawn from alike.
    """
    generator = torch.Generator().manual_seed(lab.seed)
    owned = by_block(found, NEURON)
    pools = {block: _pool(lab, block, own) for block, own in owned.items()}
    sets = []
    for _ in range(lab.draws):
        drawn: list[Unit] = []
        for block, pool in pools.items():
            order = torch.randperm(len(pool), generator=generator).tolist()
            drawn += [Unit(block, NEURON, pool[i]) for i in order[: len(owned[block])]]
        if drawn:
            sets.append(drawn)
    return sets


def _pool(lab: CausalBench, block: int, own: list[int]) -> list[int]:
    """For each neuron of the circuit the ten nearest in norm that are not in it."""
    engine = lab.engine
    assert engine.sites is not None
    sublayer = engine.sites.mlp(block)
    if sublayer is None or sublayer.projection is None:
        return []
    module = engine.subject.anatomy.modules(engine.subject.model)[block]
    columns = sublayer.projection.columns(module)
    taken = set(by_block(lab.circuit.writers, NEURON)[block])
    free = [n for n in range(columns.shape[-2]) if n not in taken]
    if sublayer.experts is not None:
        return free
    with weights_of(module):
        length = sublayer.projection.columns(module).float().norm(dim=-1)
    active = engine.clean(block, "mlp").float().abs().mean(0).to(length.device)
    size = (active * length).clamp_min(1e-12).log().cpu()
    near: set[int] = set()
    for neuron in own:
        near.update(sorted(free, key=lambda n: abs(float(size[n] - size[neuron])))[:10])
    return sorted(near)
