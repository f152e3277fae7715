"""Two sinks in one model, and one sink that two circuits make."""

from __future__ import annotations

import math

from sinkscope.known.constructed import circuit, record
from sinkscope.known.constructed.canvas import Canvas
from sinkscope.known.constructed.plan import BOS, Plan
from sinkscope.known.constructed.truth import Truth

GIVEN = 0.35  # what the BOS or the position embedding gives, over the norm of an embedding
ROOM = 0.6  # a short write varies from token to token, so it is read with room to spare
MORE = 0.6  # share of the heads that read the circuit beside a position embedding


def p0_and_bos(canvas: Canvas, plan: Plan, truth: Truth) -> None:
    """Half of the heads read what the circuit writes at P0, half what the BOS embedding holds."""
    canvas.embedding[BOS] += GIVEN * plan.base * plan.second
    truth.tokens = [BOS]
    _beside(canvas, plan, truth, "bos", 0.5)


def p0_and_position(canvas: Canvas, plan: Plan, truth: Truth) -> None:
    """Most heads read what the circuit writes at P0, the others the embedding of position id 0."""
    record.position_table(canvas)[0].add_(GIVEN * plan.base * plan.second)
    _beside(canvas, plan, truth, "position-id-0", MORE)
    truth.recognition_point = "x0"


def p0_or_bos(canvas: Canvas, plan: Plan, truth: Truth) -> None:
    """The BOS embedding holds what the circuit writes as well: either is enough for every head."""
    held = GIVEN * plan.base
    canvas.embedding[BOS] += held * plan.sink
    truth.tokens = [BOS]
    _circuit(canvas, plan, truth, held)
    truth.reading_heads = circuit.read_sink(canvas, plan, ROOM * _cosine(GIVEN))
    _record(plan, truth, "bos", truth.reading_heads, truth.reading_heads)


def head_groups(canvas: Canvas, plan: Plan, truth: Truth) -> None:
    """Two MLPs write a direction each; half of the heads read the one, half the other."""
    record.recognise(canvas, plan, truth)
    size, every = circuit.amplified_size(plan), record.all_experts(canvas)
    early, late = plan.spec.blocks
    groups = _split(canvas, plan, 0.5)
    first = circuit.amplify_flag(canvas, plan, early, every, size, plan.first)
    second = circuit.amplify_flag(canvas, plan, late, every, size, plan.second, written=(size**2,))
    record.massive(canvas, plan, truth, "p0", every)
    truth.writing_neurons = first + second
    for neurons, heads, along in zip((first, second), groups, (plan.first, plan.second)):
        circuit.read_sink(canvas, plan, math.sqrt(0.5), along=along, chosen=heads)
        truth.groups.append({"carried": "p0", "writing_neurons": neurons, "reading_heads": heads})
    truth.reading_heads = groups[0] + groups[1]
    record.settle(plan, truth, "p0", "p0-circuit")


def _beside(canvas: Canvas, plan: Plan, truth: Truth, other: str, share: float) -> None:
    _circuit(canvas, plan, truth, GIVEN * plan.base)
    ours, theirs = _split(canvas, plan, share)
    for heads, along, size in ((ours, plan.first, plan.spec.spike), (theirs, plan.second, GIVEN)):
        circuit.read_sink(canvas, plan, ROOM * _cosine(size), along=along, chosen=heads)
    truth.reading_heads = ours + theirs
    _record(plan, truth, other, ours, theirs)


def _circuit(canvas: Canvas, plan: Plan, truth: Truth, held: float) -> None:
    record.recognise(canvas, plan, truth)
    every, size = record.all_experts(canvas), circuit.amplified_size(plan)
    truth.writing_neurons = circuit.amplify_flag(
        canvas, plan, plan.spec.blocks[0], every, size, plan.first, held=(held**2,)
    )
    record.massive(canvas, plan, truth, None, every)
    truth.amplification = "direction"


def _record(plan: Plan, truth: Truth, other: str, ours: list, theirs: list) -> None:
    truth.groups = [
        {"carried": "p0", "writing_neurons": truth.writing_neurons, "reading_heads": ours},
        {"carried": other, "writing_neurons": [], "reading_heads": theirs},
    ]
    name = {"bos": "bos-token", "position-id-0": "position-embedding"}[other]
    record.settle(plan, truth, "p0", f"p0-circuit+{name}")


def _cosine(size: float) -> float:
    """Least cosine of P0 to what is written or held, of `size` times the stream."""
    return size / math.sqrt(1 + size**2 + max(size, 0.5) ** 2)


def _split(canvas: Canvas, plan: Plan, share: float) -> tuple[list[list[int]], list[list[int]]]:
    """Twice the specification's heads of each block, a share of them and the others."""
    heads = circuit.pick_heads(canvas, plan, times=2)
    count = 2 * plan.spec.readers
    ours = max(1, round(share * count))
    groups: tuple[list[list[int]], list[list[int]]] = ([], [])
    for start in range(0, len(heads), count):
        mine = plan.pick(ours, count)
        for i, head in enumerate(heads[start : start + count]):
            groups[i not in mine].append(head)
    return groups
