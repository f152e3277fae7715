"""S1 to S3: give a part of the circuit to another position and see whether a sink arises."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch

from sinkscope.causal.carriers import HELD, depends_on_token
from sinkscope.causal.evidence import SUFFICIENCY, Planned, Test
from sinkscope.causal.testing import CausalBench
from sinkscope.causal.thresholds import INDUCED, NEGLIGIBLE
from sinkscope.intervene.edits import MatchVariance, SelfOnly, Stream, TokenAt, Transplant
from sinkscope.intervene.edits.base import Edit

FIRST = "stage 1 -> stage 4"
THIRD = "stage 3 -> stage 4"
WEIGHTS = (1.0, 2.0)
MASKED = 4  # numbers of masked blocks tried


def self_only(lab: CausalBench) -> list[Test]:
    """S1: p attends only to itself in blocks 0..l, against the same behind the emergence block.

    Fewer blocks than all up to the emergence are tried only where these do not do.
    """
    depth, last = lab.engine.depth, max(lab.start - 1, 0)
    control: list[Edit] = [SelfOnly(lab.position, tuple(range(last + 1, depth)))]
    plan = partial(Planned, "S1", SUFFICIENCY, arrow=FIRST)

    def masked(n: int) -> Test:
        edits: list[Edit] = [SelfOnly(lab.position, tuple(range(n + 1)))]
        return lab.test(plan(edits, [control], block=n, dose=float(n + 1)))

    tests = [masked(last)]
    if tests[0].size < INDUCED:
        steps = sorted({0, *np.linspace(0, last, MASKED).astype(int).tolist()} - {last})
        tests = [*map(masked, steps), *tests]
    narrow = [SelfOnly(lab.position, tuple(range(last + 1)), to=lab.position // 2)]
    note = "unmixed, but with another token's value: tells being unmixed from being itself"
    return [*tests, lab.test(plan(narrow, block=last, claim=False, note=note))]


def with_its_token(lab: CausalBench, identity: Sequence[Test]) -> list[Test]:
    """S1 where the sink depends on P0's token too: p is given that token, in edit and control."""
    if not depends_on_token(identity):
        return []
    own = TokenAt(lab.position, tuple(lab.engine.prompts.input_ids[:, 0].tolist()))
    last = max(lab.start - 1, 0)
    edits: list[Edit] = [own, SelfOnly(lab.position, tuple(range(last + 1)))]
    note = f"{HELD}, which the sink depends on"
    plan = Planned("S1", SUFFICIENCY, edits, [[own]], arrow=FIRST, block=last, note=note)
    return [lab.test(plan)]


def variance(lab: CausalBench, block: int | None) -> list[Test]:
    """S2: the variance of p's attention write moved to P0's, and beyond where that does a part."""
    if block is None:
        return []
    plan = partial(Planned, "S2", SUFFICIENCY, arrow=FIRST, block=block)
    tests: list[Test] = []
    for weight in WEIGHTS:
        edits: list[Edit] = [MatchVariance(block, lab.position, weight, "p0")]
        control: list[Edit] = [MatchVariance(block, lab.position, weight, "p0", "stream")]
        tests.append(lab.test(plan(edits, [control], dose=weight)))
        if not NEGLIGIBLE <= tests[-1].size < INDUCED:
            break
    return tests


def transplant(lab: CausalBench) -> list[Test]:
    """S3: P0's key, value or whole stream at p; the control comes from a random position.

    Key and value together are tried where the key alone does not do; the value is shown only.
    """
    blocks = tuple(range(lab.first_read, lab.engine.depth))
    generator = torch.Generator().manual_seed(lab.seed)
    shortest = int(lab.engine.prompts.lengths.min())
    # behind p and before the late queries, so that every one of them sees it
    low, high = lab.position + 1, max(lab.position + 2, shortest // 2)
    other = int(torch.randint(low, high, (), generator=generator))
    plan = partial(Planned, "S3", SUFFICIENCY)
    tests: list[Test] = []
    for what in ("key", "both", "value"):
        if what == "both" and tests[0].size >= INDUCED:
            continue  # the key does it alone
        edits, control = ([Transplant(lab.position, at, what, blocks)] for at in (0, other))
        claim = what != "value"
        controls = [control] if claim else []
        tests.append(
            lab.test(plan(edits, controls, arrow=THIRD, block=lab.first_read, claim=claim))
        )
    copy, copied = ([Stream(lab.start, lab.position, "copy", source=at)] for at in (0, other))
    whole = plan(copy, [copied], arrow="stage 2 -> stage 4", block=lab.start)
    return [*tests, lab.test(whole)]
