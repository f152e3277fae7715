"""S1 to S3: give a part of the circuit to another position and see whether a sink arises."""

from __future__ import annotations

from functools import partial

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
    run = partial(lab.test, "S1", SUFFICIENCY, arrow=FIRST)
    tests = [
        run([SelfOnly(lab.position, tuple(range(n + 1)))], [control], block=n, dose=float(n + 1))
        for n in steps
    ]
    narrow = [SelfOnly(lab.position, tuple(range(last + 1)), to=lab.position // 2)]
    note = "unmixed, but with another token's value: tells being unmixed from being itself"
    return [*tests, run(narrow, block=last, claim=False, note=note)]


def variance(lab: CausalBench, block: int | None) -> list[Test]:
    """S2: the variance of p's attention write moved to P0's and beyond."""
    if block is None:
        return []
    run = partial(lab.test, "S2", SUFFICIENCY, arrow=FIRST, block=block)
    tests = []
    for weight in WEIGHTS:
        edits: list[Edit] = [MatchVariance(block, lab.position, weight, "p0")]
        control: list[Edit] = [MatchVariance(block, lab.position, weight, "p0", "stream")]
        tests.append(run(edits, [control], dose=weight, claim=weight >= 1))
    return tests


def transplant(lab: CausalBench) -> list[Test]:
    """S3: P0's key, value, both, or whole stream at p; the control comes from a random position."""
    blocks = tuple(range(lab.first_read, lab.engine.depth))
    generator = torch.Generator().manual_seed(lab.seed)
    shortest = int(lab.engine.prompts.lengths.min())
    # behind p and before the late queries, so that every one of them sees it
    low, high = lab.position + 1, max(lab.position + 2, shortest // 2)
    other = int(torch.randint(low, high, (), generator=generator))
    run = partial(lab.test, "S3", SUFFICIENCY)
    tests = []
    for what in ("key", "value", "both"):
        edits, control = ([Transplant(lab.position, at, what, blocks)] for at in (0, other))
        claim = what != "value"
        tests.append(run(edits, [control], arrow=THIRD, block=lab.first_read, claim=claim))
    copy, copied = ([Stream(lab.start, lab.position, "copy", source=at)] for at in (0, other))
    return [*tests, run(copy, [copied], arrow="stage 2 -> stage 4", block=lab.start)]
