"""S1 to S3: give a part of the circuit to another position and see whether a sink arises."""

from __future__ import annotations

import numpy as np
import torch

from sinkscope.causal.evidence import SUFFICIENCY, Test
from sinkscope.causal.testing import CausalBench
from sinkscope.intervene.edits import MatchVariance, SelfOnly, Stream, Transplant
from sinkscope.intervene.edits.base import Edit

FIRST = "stage 1 -> stage 4"
THIRD = "stage 3 -> stage 4"
WEIGHTS = (0.25, 0.5, 1.0, 2.0)
MASKED = 4  # numbers of masked blocks tried


def self_only(lab: CausalBench) -> list[Test]:
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


def variance(lab: CausalBench, block: int | None) -> list[Test]:
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


def transplant(lab: CausalBench) -> list[Test]:
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
