"""Sinks by position alone: position embeddings of several shapes, and rotary distance."""

from __future__ import annotations

import math

import torch

from sinkscope.known.constructed import circuit, record
from sinkscope.known.constructed.canvas import Canvas
from sinkscope.known.constructed.plan import CONSTANT, MARK, Plan
from sinkscope.known.constructed.truth import Truth

PROMISED = 64  # tokens over which the positions of the truth are listed
SLOPE = 0.2  # by which the ramp falls from one position id to the next
STEP = 12.0  # logit between the first two of its ids
FAR, STEEP = 3.0, 300.0  # phase and size of the logit that rotary distance makes


def marked(canvas: Canvas, plan: Plan, truth: Truth) -> None:
    """Some position ids have the sink direction, or a mark that an MLP turns into it."""
    table = record.position_table(canvas)
    ids = [i for i in plan.spec.marked if i < len(table)]
    truth.at = [i for i in ids if i < PROMISED]
    where = "position-id-0" if truth.at == [0] else "position-ids"
    if plan.spec.blocks:
        table[ids] += MARK * plan.mark
        record.amplify_mark(canvas, plan, truth, where)
    else:
        table[ids] += plan.spec.spike * plan.base * plan.sink
        truth.amplification, truth.massive_at, truth.massive_from = "norm", where, 0
    truth.recognition_point = "x0" if truth.at == [0] else None
    record.read(canvas, plan, truth, where, "position-embedding")


def ramp(canvas: Canvas, plan: Plan, truth: Truth) -> None:
    """Position embeddings fall along one direction that heads read: the smallest id in sight wins.

    With a = −SLOPE·id the key reads a/√(base² + a²), which falls with the id throughout.
    """
    table = record.position_table(canvas)
    table -= torch.outer(table @ plan.mark, plan.mark)
    table -= SLOPE * torch.arange(len(table))[:, None] * plan.mark
    logit = STEP * plan.base / SLOPE
    truth.reading_heads = circuit.read_sink(canvas, plan, along=plan.mark, logit=logit)
    record.settle(plan, truth, "position-id-0", "position-embedding")


def rotary(canvas: Canvas, plan: Plan, truth: Truth) -> None:
    """Query and key are constant, in one rotary pair: the farthest key has the largest logit.

    With θ the frequency of the pair the logit is STEEP·cos(δθ − FAR) over the distance δ, which
    rises up to δ = FAR/θ, about a hundred positions. Nothing of a token's state or id matters.
    """
    pair = [canvas.size // 4, canvas.size // 4 + canvas.size // 2]
    row = plan.base / (plan.unit * CONSTANT) * plan.constant
    size = STEEP * math.sqrt(canvas.size)
    truth.reading_heads = circuit.pick_heads(canvas, plan)
    for b, head in truth.reading_heads:
        query, key = canvas.query(b, head), canvas.key(b, head)
        query.zero_(), key.zero_()
        query[pair[0]] = row
        key[pair] = size * torch.stack([math.cos(FAR) * row, math.sin(FAR) * row])
    record.settle(plan, truth, "p0", "rotary-distance")
