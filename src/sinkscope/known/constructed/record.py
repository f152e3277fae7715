"""Parts of a mechanism, each written and recorded in the truth."""

from __future__ import annotations

import math

import torch

from sinkscope.known.constructed import circuit
from sinkscope.known.constructed.canvas import Canvas
from sinkscope.known.constructed.plan import MARK, Plan
from sinkscope.known.constructed.truth import Truth


def recognise(canvas: Canvas, plan: Plan, truth: Truth) -> None:
    """Recognition in block 0."""
    # the mixed codes are as long as one code at P0 alone, so its norm stands out at once
    truth.recognition_point = "0.attention"
    truth.recognising_heads, truth.recognising_neurons = circuit.recognise(canvas, plan)


def amplify(canvas: Canvas, plan: Plan, truth: Truth) -> None:
    """The MLP of the first block of the specification writes at P0."""
    truth.writing_neurons = circuit.amplify_flag(
        canvas, plan, plan.spec.blocks[0], all_experts(canvas), circuit.amplified_size(plan)
    )
    massive(canvas, plan, truth, "p0", all_experts(canvas))


def amplify_mark(canvas: Canvas, plan: Plan, truth: Truth, where: str) -> None:
    """It writes wherever the mark is up."""
    size = plan.spec.spike * math.hypot(plan.base, MARK)
    truth.writing_neurons = circuit.amplify_mark(
        canvas, plan, plan.spec.blocks[0], size, all_experts(canvas)
    )
    massive(canvas, plan, truth, where, all_experts(canvas))


def massive(
    canvas: Canvas, plan: Plan, truth: Truth, where: str | None, experts: list[int]
) -> None:
    """Which blocks and experts write, and whether `where` becomes long by it."""
    blocks = list(plan.spec.blocks)
    truth.amplifying_blocks = blocks
    if canvas.experts > 1:
        truth.experts = [[b, expert] for b in blocks for expert in experts]
    if where is not None:
        truth.amplification, truth.massive_at, truth.massive_from = "norm", where, blocks[0] + 1


def read(canvas: Canvas, plan: Plan, truth: Truth, position: str, verdict: str) -> None:
    """Heads read the sink."""
    truth.reading_heads = circuit.read_sink(canvas, plan)
    settle(plan, truth, position, verdict)


def settle(plan: Plan, truth: Truth, position: str, verdict: str) -> None:
    """Where the sink is, and what is to be said of it."""
    truth.position, truth.verdict, truth.from_block = position, verdict, plan.spec.from_block


def all_experts(canvas: Canvas) -> list[int]:
    """Every expert of a block."""
    return list(range(canvas.experts))


def position_table(canvas: Canvas) -> torch.Tensor:
    """The position embedding [positions, d] of a family that has one."""
    assert canvas.positions is not None
    return canvas.positions
