"""The untrained null of stage 2: P0's norm in the same architecture with fresh weights.

P0 alone is not averaged by attention, so its norm exceeds the others' before anything was learned:
a ratio above 2 after block 0 of an untrained Llama. A trained model must exceed its own null.
"""

from __future__ import annotations

import numpy as np
import torch

from sinkscope.detect.nulls import untrained_copy
from sinkscope.errors import Missing
from sinkscope.observe.attention import run_model
from sinkscope.observe.layout import layout_of
from sinkscope.observe.registry import evaluation, hooks
from sinkscope.observe.residual import residual_hooks
from sinkscope.observe.stream import norm_ratio
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts

ROWS, TOKENS = 8, 64


def untrained_ratio(subject: Subject, prompts: Prompts) -> float | Missing:
    """Largest norm ratio of P0 over the read points, mean over prompts; or why there is none."""
    fresh = untrained_copy(subject, 0)
    if isinstance(fresh, Missing):
        return fresh
    rows = prompts.take(slice(0, ROWS))
    if rows.right_padded:
        rows = rows.first_tokens(TOKENS)
    layout = layout_of(rows, subject.device)
    ratios: dict[int, float] = {}

    def keep(point: int, hidden: torch.Tensor) -> None:
        there = layout.on(hidden.device)
        norms = hidden.float().norm(dim=-1)
        ratio = norm_ratio(norms, there.valid & ~there.is_p0)
        ratios[point] = float(ratio[there.is_p0].log().mean())

    with torch.no_grad(), evaluation(fresh.model), hooks(residual_hooks(fresh, keep)()):
        run_model(fresh, rows, logits=False)
    top = float(np.exp(max(ratios.values())))
    return top if np.isfinite(top) else Missing("the untrained null gave no finite norms")
