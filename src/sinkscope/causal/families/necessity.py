"""N1 to N5: take a part of the circuit away from position zero and see whether the sink goes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from sinkscope.causal.testing import NECESSITY, CausalBench, Test
from sinkscope.causal.thresholds import NECESSARY
from sinkscope.errors import Unsupported
from sinkscope.intervene.edits import MatchVariance, Neurons, SetWrite, Stream
from sinkscope.intervene.edits.base import Context, Edit
from sinkscope.intervene.engine import Engine
from sinkscope.observe.sites import write_hooks
from sinkscope.subject.prompts import Prompts

FIRST = "stage 1 -> stage 4"
SECOND = "stage 2 -> stage 4"
THIRD = "stage 3 -> stage 4"
WEIGHTS = (0.25, 0.5, 0.75, 1.0)
LARGEST_SET = 4  # writes removed together before the search for a necessary set gives up


def recognition(lab: CausalBench) -> list[Test]:
    """N1: P0's attention write of each block up to the emergence, from another position."""
    tests = []
    for block in _blocks(lab, "attention", lab.start):
        tests.append(_write(lab, "N1", block, "attention", "resample", FIRST))
    return tests


def variance(lab: CausalBench, n1: list[Test]) -> list[Test]:
    """N2: the variance of P0's attention write moved to that of the others, in steps."""
    if not n1:
        return []
    block = min(n1, key=lambda test: test.size).block
    assert block is not None
    tests = []
    for weight in WEIGHTS:
        control = [MatchVariance(block, 0, weight, "others", "stream")]
        tests.append(
            lab.test(
                "N2",
                NECESSITY,
                [MatchVariance(block, 0, weight)],
                [control],
                arrow=FIRST,
                block=block,
                dose=weight,
                claim=weight == WEIGHTS[-1],
            )
        )
    return tests


def mlp_writes(lab: CausalBench) -> list[Test]:
    """N3: P0's MLP write of each block that a reading head can see; the others' mean instead.

    The strongest block is also tried with zero and with a resampled write.
    """
    tests = [
        _write(lab, "N3", block, "mlp", "mean", SECOND)
        for block in _blocks(lab, "mlp", lab.last_read)
    ]
    if tests:
        block = min(tests, key=lambda test: test.size).block
        assert block is not None
        tests += [_write(lab, "N3", block, "mlp", how, SECOND) for how in ("zero", "resample")]
    return tests


def write_sets(lab: CausalBench) -> list[Test]:
    """Where no single write holds half of the sink: a smallest set of P0's writes that does.

    Found on one-token streams, where a pass costs next to nothing: the write that adds most along
    the sink direction is taken away, then the one that adds most in what is left, so that a backup
    that only acts when the first is gone is found too. Each set is run in full, and once one holds
    half of the sink, writes that it does not need are put back.
    """
    if lab.engine.direction is None:
        return []
    small = _one_token(lab)
    chosen: list[tuple[int, str]] = []
    tests: list[Test] = []
    while len(chosen) < LARGEST_SET:
        added = _added_along(lab, small, chosen)
        best = max(added, key=lambda one: added[one], default=None)
        if best is None or added[best] <= 0:
            break
        chosen.append(best)
        if len(chosen) > 1:  # alone it is in N1 or N3
            tests.append(_set_test(lab, chosen))
            if -tests[-1].size >= NECESSARY:
                return tests + _smaller_sets(lab, chosen)
    return tests


def _smaller_sets(lab: CausalBench, chosen: list[tuple[int, str]]) -> list[Test]:
    tests: list[Test] = []
    for one in list(chosen):
        rest = [other for other in chosen if other != one]
        if len(rest) < 2:
            break
        test = _set_test(lab, rest)
        if -test.size >= NECESSARY:
            tests.append(test)
            chosen = rest
    return tests


def _set_test(lab: CausalBench, writes: list[tuple[int, str]]) -> Test:
    edits, controls = (
        [SetWrite(block, kind, position, "mean") for block, kind in sorted(writes)]
        for position in (0, lab.position)
    )
    size = float(len(writes))
    return lab.test("N3s", NECESSITY, edits, [controls], arrow=SECOND, dose=size)


def neurons(lab: CausalBench) -> list[Test]:
    """N4: the writing neurons off, the strongest first; against random ones that are as active."""
    found = ranked_neurons(lab)
    if not found:
        return []
    tests = []
    for count in _doubling(len(found)):
        last = count == len(found)
        draws = [_off(draw) for draw in _random_sets(lab, found[:count])] if last else []
        tests.append(
            lab.test(
                "N4",
                NECESSITY,
                _off(found[:count]),
                draws,
                control=f"{count} random neurons of the same blocks, as active at P0 where there "
                f"are any ({len(draws)} draws)"
                if draws
                else "",
                arrow=SECOND,
                dose=float(count),
                claim=last,
            )
        )
    for how in ("mean", "resample"):
        try:
            tests.append(
                lab.test(
                    "N4",
                    NECESSITY,
                    _off(found, how),
                    arrow=SECOND,
                    dose=float(len(found)),
                    claim=False,
                )
            )
        except Unsupported as refusal:
            lab.notes.append(f"N4 {how}: {refusal}")
            break
    return tests


def direction(lab: CausalBench) -> list[Test]:
    """N5: P0's component along u, its direction, or its norm, at every point that is read from."""
    if lab.engine.direction is None:
        return []
    points = range(lab.start, lab.last_read + 1)
    tests = []
    for how in ("level", "remove", "swap", "norm"):
        edits, controls = (
            [Stream(point, position, how, seed=lab.seed) for point in points]
            for position in (0, lab.position)
        )
        tests.append(
            lab.test(
                "N5",
                NECESSITY,
                edits,
                [controls],
                arrow=THIRD,
                block=lab.start,
                claim=how in ("level", "swap"),
                note="graded: a pre-norm takes the norm away by itself" if how == "norm" else "",
            )
        )
    return tests


def _write(lab: CausalBench, id: str, block: int, kind: str, how: str, arrow: str) -> Test:
    edit, control = (
        [SetWrite(block, kind, position, how, lab.seed)] for position in (0, lab.position)
    )
    return lab.test(id, NECESSITY, edit, [control], arrow=arrow, block=block)


def _has(lab: CausalBench, block: int, kind: str) -> bool:
    sites = lab.engine.sites
    return sites is not None and getattr(sites, kind)(block) is not None


def _blocks(lab: CausalBench, kind: str, stop: int) -> Iterable[int]:
    return [block for block in range(max(stop, 1)) if _has(lab, block, kind)]


def _one_token(lab: CausalBench) -> Engine:
    """The first two tokens of each prompt: P0's stream is the same, at next to no cost."""
    engine = lab.engine
    ids = engine.prompts.input_ids[:, :2]
    lengths = torch.full((len(ids),), 2)
    prompts = Prompts(ids, lengths, engine.prompts.kind, engine.prompts.bos)
    return Engine(engine.subject, prompts, engine.sites, direction=engine.direction)


@dataclass(frozen=True)
class _Listen(Edit):
    """Changes nothing: adds up what every sublayer writes at P0 along a direction."""

    added: Any = None
    order = 2

    def hooks(self, context: Context) -> list[Any]:
        assert context.sites is not None
        assert context.direction is not None
        sites, u = context.sites, context.direction.float()

        def consume(block: int, index: int, delta: torch.Tensor) -> None:
            key = block, sites.blocks[block][index].kind
            along = float((delta[:, 0].float() @ u.to(delta.device)).sum())
            self.added[key] = self.added.get(key, 0.0) + along

        return write_hooks(context.subject, sites, consume)()


def _added_along(
    lab: CausalBench, small: Engine, without: list[tuple[int, str]]
) -> dict[tuple[int, str], float]:
    """What P0's other writes before the last reading block add along u, with these set to zero."""
    added: dict[tuple[int, str], float] = {}
    edits = [SetWrite(block, kind) for block, kind in without]
    small.run([*edits, _Listen(added)], want_logits=False)
    return {
        key: along
        for key, along in added.items()
        if key not in without and key[0] < lab.last_read and key[1] in ("attention", "mlp")
    }


def _doubling(count: int) -> list[int]:
    steps = [1]
    while steps[-1] * 2 < count:
        steps.append(steps[-1] * 2)
    return steps if steps[-1] == count else [*steps, count]


def _off(found: list[tuple[int, int]], how: str = "zero") -> list[Edit]:
    """One edit for each block."""
    return [
        Neurons(block, tuple(sorted(n for b, n in found if b == block)), 0, how)
        for block in sorted({b for b, _ in found})
    ]


def ranked_neurons(lab: CausalBench) -> list[tuple[int, int]]:
    """The writing neurons that a reading head can see, in the order of the trace."""
    return [
        (block, neuron)
        for block, neuron in lab.circuit.neurons
        if block < lab.last_read and _has(lab, block, "mlp")
    ]


def _random_sets(lab: CausalBench, found: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """Random neurons of the same blocks, drawn from those nearest in the norm of what they write.

    Inside experts the norm is not at hand, so there all others are drawn from alike.
    """
    generator = torch.Generator().manual_seed(lab.seed)
    pools = {
        block: _pool(lab, block, [n for b, n in found if b == block])
        for block in {b for b, _ in found}
    }
    sets = []
    for _ in range(lab.draws):
        drawn: list[tuple[int, int]] = []
        for block, pool in sorted(pools.items()):
            count = min(sum(b == block for b, _ in found), len(pool))
            order = torch.randperm(len(pool), generator=generator)[:count].tolist()
            drawn += [(block, pool[i]) for i in order]
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
    taken = {n for b, n in lab.circuit.neurons if b == block}
    free = [n for n in range(columns.shape[-2]) if n not in taken]
    if sublayer.experts is not None:
        return free
    active = engine.clean(block, "mlp").float().abs().mean(0).to(columns.device)
    size = (active * columns.float().norm(dim=-1)).clamp_min(1e-12).log().cpu()
    near: set[int] = set()
    for neuron in own:
        near.update(sorted(free, key=lambda n: abs(float(size[n] - size[neuron])))[:10])
    return sorted(near)
