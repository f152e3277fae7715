"""I2 and I3: is it position zero's id that makes the sink, and what is left without id and token?

P0's stream is a function of its token, of its position id where positions are embedded, and of its
seeing itself alone. So what stays a sink with another token *and* another id is one for that alone
(I3). Under rotary positions the stream does not follow the id: there a sink that moves with the id
is one of distance, a preference of the queries for the farthest key.
"""

from __future__ import annotations

from typing import Any

import torch

from sinkscope.causal.evidence import (
    BOTH,
    IDENTITY,
    POSITION,
    POSITION_GIVEN,
    QUERY_BIAS,
    SUFFICIENCY,
    Planned,
    Test,
)
from sinkscope.causal.families.identity import other_tokens
from sinkscope.causal.testing import CausalBench
from sinkscope.errors import Unsupported
from sinkscope.intervene.edits import PositionIds, QueryBias, TokenAt
from sinkscope.intervene.edits.base import Edit
from sinkscope.intervene.edits.positions import takes_position_ids
from sinkscope.observe.attention import call_model
from sinkscope.observe.registry import evaluation, hooks
from sinkscope.observe.residual import residual_hooks
from sinkscope.subject.load import Subject

ARROW = "position id -> stage 4"
LEAST_SHIFT = 8  # ids next to zero may be marked as it is
SECOND_SHIFT = 0.6  # of the first: a mark that comes back with one period does not meet both
SAME = 1e-4  # relative change of P0's stream that is rounding


def positions(lab: CausalBench) -> list[Test]:
    """I2: all ids shifted, those of P0 and p swapped; the control swaps two late ones."""
    if not takes_position_ids(lab.engine.subject):
        lab.notes.append(f"I2: {lab.engine.subject.anatomy.model_type} takes no position ids.")
        return []
    late, swap = _swaps(lab)
    follows = stream_follows_ids(lab)
    shifts: list[Edit] = [PositionIds(shift=shift) for shift in _shifts(lab, follows)]
    if not shifts:
        lab.notes.append("I2: the prompts fill the model's positions, so ids are not shifted.")
    extra = {"role": POSITION, "follows_ids": follows}
    more = {**extra, "moved": _moved(lab, swap)}
    edits = [*((shift, extra) for shift in shifts), (swap, more)]
    plans = [Planned("I2", IDENTITY, [edit], [[late]], arrow=ARROW, extra=e) for edit, e in edits]
    if lab.ordinary().any():
        given = {"role": POSITION_GIVEN, "follows_ids": follows}
        plans.append(Planned("I2", SUFFICIENCY, [swap], [[late]], arrow=ARROW, extra=given))
    return [lab.test(plan) for plan in plans]


def both(lab: CausalBench) -> list[Test]:
    """I3: another token and the id of p at P0; the control has the same at p."""
    if not takes_position_ids(lab.engine.subject):
        return []
    own = other_tokens(lab, 1)
    late, swap = _swaps(lab)
    edits, control = [TokenAt(0, own), swap], [TokenAt(lab.position, own), late]
    arrow = "token and position id -> stage 4"
    plan = Planned("I3", IDENTITY, edits, [control], arrow=arrow, extra={"role": BOTH})
    return [lab.test(plan)]


def query_bias(lab: CausalBench) -> list[Test]:
    """I2: the sink without query biases. Nothing of equal size is there to be its control."""
    if not attention_biases(lab.engine.subject):
        return []
    try:
        arrow, extra = "query bias -> stage 4", {"role": QUERY_BIAS}
        return [lab.test(Planned("I2", IDENTITY, [QueryBias(0.0)], arrow=arrow, extra=extra))]
    except Unsupported as refusal:
        lab.notes.append(f"query bias: {refusal}")
        return []


def stream_follows_ids(lab: CausalBench) -> bool:
    """Whether P0's own stream changes with its position id: as a sequence of one token, exactly."""
    subject = lab.engine.subject
    tokens = lab.engine.prompts.input_ids[:2, :1].to(subject.device)
    streams: list[list[torch.Tensor]] = []

    def keep(point: int, hidden: torch.Tensor) -> None:
        streams[-1].append(hidden[:, 0].float().cpu())

    for at in (0, lab.position):
        streams.append([])
        inputs: dict[str, Any] = {
            "input_ids": tokens,
            "position_ids": torch.full_like(tokens, at),
            "attention_mask": torch.ones_like(tokens),
            "use_cache": False,
        }
        with torch.no_grad(), evaluation(subject.model), hooks(residual_hooks(subject, keep)()):
            call_model(subject, inputs, logits=False)
    zero, moved = (torch.stack(each) for each in streams)
    return bool((zero - moved).norm() > SAME * zero.norm())


def attention_biases(subject: Subject) -> bool:
    """Whether any attention sublayer holds a bias, of whatever projection."""
    return any(
        name.endswith("bias")
        for block in subject.anatomy.blocks
        for path in block.attention
        for name, _ in subject.model.get_submodule(path).named_parameters()
    )


def _swaps(lab: CausalBench) -> tuple[PositionIds, PositionIds]:
    """Two late positions that change ids, and P0 and p."""
    shortest = int(lab.engine.prompts.lengths.min())
    return PositionIds(swap=(shortest - 8, shortest - 2)), PositionIds(swap=(0, lab.position))


def _shifts(lab: CausalBench, follows: bool) -> list[int]:
    """By the length of the prompts, or as far as the model's positions reach, and by less.

    One where the stream does not follow the ids: then only distances count, which stay.
    """
    length, limit = lab.engine.prompts.length, lab.engine.subject.max_length
    first = length if limit is None else min(length, limit - length)
    shifts = [first, int(SECOND_SHIFT * first) | 1] if follows else [first]
    return [shift for shift in shifts if shift >= LEAST_SHIFT]


def _moved(lab: CausalBench, edit: Edit) -> dict[str, Any]:
    """What of the sink turned up at the position that P0 changed ids with."""
    read, at = lab.run([edit], few=True), lab.position
    before = lab.engine.intact.on(lab.heads, at)
    change = lab.draw.change(read.on(lab.heads, at), before, lab.intact_sink)
    return {"position": at, "share": change}
