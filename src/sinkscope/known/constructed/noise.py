"""Everything that is not the circuit: heads with other business, and noise."""

from __future__ import annotations

import math

import torch

from sinkscope.known.constructed.canvas import Canvas
from sinkscope.known.constructed.circuit import ALIKE, slow
from sinkscope.known.constructed.codes import LENGTH
from sinkscope.known.constructed.plan import Plan


def fill(canvas: Canvas, plan: Plan, alike: bool = True) -> None:
    """Random heads and neurons everywhere; circuits are written over them afterwards.

    Heads compare tokens by a random projection of their codes (uniform attention without
    `alike`). What heads and neurons write is `noise` long in all, per unit of embedding.
    """
    sources = canvas.depth + (canvas.positions is not None)
    level = plan.spec.noise / math.sqrt(sources)
    if canvas.positions is not None:
        canvas.positions.add_(level * plan.normal(*canvas.positions.shape))
    for b in range(canvas.depth):
        _heads(canvas, plan, b, level, alike)
        for expert in range(canvas.experts):
            _neurons(canvas, plan, b, expert, level)
        router = canvas.router(b)
        if router is not None:
            router.copy_(_blind(plan, plan.normal(*router.shape)) / plan.unit)


def _heads(canvas: Canvas, plan: Plan, b: int, level: float, alike: bool) -> None:
    per_group = canvas.heads // canvas.groups
    other = [i for i in range(canvas.size) if i not in slow(canvas)]
    gain = math.sqrt(ALIKE * math.sqrt(canvas.size) / len(other)) * plan.base / plan.unit
    for group in range(canvas.groups):
        projection = torch.zeros(canvas.size, plan.spec.width)
        projection[other] = projection[other].index_copy(
            1, plan.content, plan.normal(len(other), LENGTH) / math.sqrt(LENGTH)
        )
        values = plan.normal(canvas.size, plan.spec.width) / plan.unit
        canvas.value(b, group).copy_(_blind(plan, values))
        if alike:
            canvas.key(b, group).copy_(gain * projection)
        for head in range(group * per_group, (group + 1) * per_group):
            if alike:
                canvas.query(b, head).copy_(gain * projection)
            out = plan.normal(plan.spec.width, canvas.size)
            canvas.out(b, head).copy_(level * out / math.sqrt(canvas.heads * canvas.size))


def _neurons(canvas: Canvas, plan: Plan, b: int, expert: int, level: float) -> None:
    count = canvas.neurons
    canvas.gate(b, expert).copy_(plan.normal(count, plan.spec.width) / plan.unit)
    up = canvas.up(b, expert)
    if up is not None:
        up.copy_(plan.normal(count, plan.spec.width) / plan.unit)
    down = plan.normal(plan.spec.width, count)
    canvas.down(b, expert).copy_(level * down / math.sqrt(count))


def _blind(plan: Plan, rows: torch.Tensor) -> torch.Tensor:
    """Rows without their part along the sink direction and its halves."""
    for direction in (plan.first, plan.second):
        rows = rows - torch.outer(rows @ direction, direction)
    return rows
