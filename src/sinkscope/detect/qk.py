"""The sink logit taken apart: norms, angle, the query bias and the rotation.

Gu et al. find the logit on P0 large because of the angle between query and key, not the norms;
Ran-Milo et al. find it driven in GPT-2 by the query bias. The bias part is `scale·(q − q')·k_0`
with q' the query computed without the projection's bias; the rotation's part is the logit less the
one computed without rotary embedding. Both come from calling the attention module again on the
same input, so no family is known by name. Means over late queries, a few prompts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from sinkscope.observe.attention import run_model, uses_registry
from sinkscope.observe.layout import Layout, layout_of
from sinkscope.observe.registry import attention_functions, evaluation, hooks
from sinkscope.observe.stream import unit
from sinkscope.observe.tap import own_eager, scale_of
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts

TOKENS = 512  # the shadow calls are eager, so their maps must stay small
FIGURES = (
    "qk_cos_p0",
    "qk_cos_others",
    "qk_logit_p0",
    "qk_logit_others",
    "q_norm",
    "k0_norm",
    "k_norm_others",
    "qk_bias_part",
    "qk_rope_part",
)


class _Shadow:
    """Runs attention modules again without bias or rotation and keeps queries and keys."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.rows: list[dict[str, np.ndarray]] = []
        self._owner: nn.Module | None = None
        self._last: tuple[torch.Tensor, torch.Tensor, float] | None = None
        self._again = False

    def attention(self, module, query, key, value, attention_mask, **kwargs):
        """The registered function: eager attention that remembers its queries and keys."""
        if query.shape[2] == key.shape[2]:
            self._owner, self._last = module, (query, key, scale_of(kwargs, query))
        out, _ = own_eager(module, query, key, value, attention_mask, kwargs)
        return out, None

    def after(self, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        """Forward hook of every module in a block; acts for the one that made the call."""
        if self._again or self._last is None or module is not self._owner:
            return
        query, key, scale = self._last
        self._last = None
        self._again = True
        try:
            without_bias = self._query_without_bias(module, args, kwargs)
            without_rope = self._without_rotation(module, args, kwargs)
        finally:
            self._again, self._last = False, None
        layout = self.layout.on(query.device)
        self.rows.append(_figures(query, key, scale, layout, without_bias, without_rope))

    def _query_without_bias(self, module, args, kwargs) -> torch.Tensor | None:
        with biases_off(module) as found:
            if not found:
                return None
            module.forward(*args, **kwargs)
        return self._last[0] if self._last else None

    def _without_rotation(self, module, args, kwargs):
        rotation = kwargs.get("position_embeddings")
        if not (isinstance(rotation, tuple) and len(rotation) == 2):
            return None
        cos, sin = rotation
        plain = {**kwargs, "position_embeddings": (torch.ones_like(cos), torch.zeros_like(sin))}
        module.forward(*args, **plain)
        return self._last[:2] if self._last else None


def qk_split(subject: Subject, prompts: Prompts) -> dict[str, np.ndarray] | None:
    """Every figure of FIGURES as [layer, head]; None for families outside the registry.

    Entries are NaN where a figure does not exist (no query bias, no rotary embedding).
    """
    if not uses_registry(subject.model) or not prompts.right_padded:
        return None
    prompts = prompts.first_tokens(TOKENS)
    layout = layout_of(prompts, subject.device)
    shadow = _Shadow(layout)
    model = subject.model
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(evaluation(model))
        handles = [
            child.register_forward_hook(shadow.after, with_kwargs=True)
            for block in subject.anatomy.modules(model)
            for child in block.modules()
            if child is not block
        ]
        stack.enter_context(hooks(handles))
        stack.enter_context(attention_functions(model, shadow.attention, "eager"))
        run_model(subject, prompts, logits=False)
    heads = max((len(row["q_norm"]) for row in shadow.rows), default=0)
    if not heads:
        return None
    return {name: np.stack([_padded(row[name], heads) for row in shadow.rows]) for name in FIGURES}


def _padded(row: np.ndarray, heads: int) -> np.ndarray:
    return np.pad(row.astype(np.float64), (0, heads - len(row)), constant_values=np.nan)


@contextmanager
def biases_off(module: nn.Module) -> Iterator[list[str]]:
    """Set the biases of the module's projections to zero for the time being; yields their names."""
    saved = {
        name: parameter.detach().clone()
        for name, parameter in module.named_parameters()
        if name.endswith("bias")
    }
    try:
        with torch.no_grad():
            for name in saved:
                module.get_parameter(name).zero_()
        yield list(saved)
    finally:
        with torch.no_grad():
            for name, value in saved.items():
                module.get_parameter(name).copy_(value)


def _figures(query, key, scale, layout, without_bias, without_rope) -> dict[str, np.ndarray]:
    groups = query.shape[1] // key.shape[1]
    q = query.float()
    k = key.float().repeat_interleave(groups, 1)
    k0 = k[:, :, :1]
    unit_q, unit_k = unit(q), unit(k)
    others = _mean_of_others(k)
    late = layout.late.unsqueeze(1)

    def mean(values: torch.Tensor) -> np.ndarray:
        return ((values * late).sum((0, 2)) / late.sum()).cpu().numpy()

    missing = np.full(q.shape[1], np.nan)
    figures = {
        "qk_cos_p0": mean((unit_q * unit_k[:, :, :1]).sum(-1)),
        "qk_cos_others": mean((unit_q * _mean_of_others(unit_k)).sum(-1)),
        "qk_logit_p0": mean(scale * (q * k0).sum(-1)),
        "qk_logit_others": mean(scale * (q * others).sum(-1)),
        "q_norm": mean(q.norm(dim=-1)),
        "k0_norm": k0.norm(dim=-1).mean((0, 2)).cpu().numpy(),
        "k_norm_others": mean(k.norm(dim=-1)),
        "qk_bias_part": missing,
        "qk_rope_part": missing,
    }
    if without_bias is not None and without_bias.shape == query.shape:
        figures["qk_bias_part"] = mean(scale * ((q - without_bias.float()) * k0).sum(-1))
    if without_rope is not None and without_rope[0].shape == query.shape:
        plain_q, plain_k = without_rope[0].float(), without_rope[1].float()
        plain_k0 = plain_k[:, :, :1].repeat_interleave(groups, 1)
        plain = (plain_q * plain_k0).sum(-1)
        figures["qk_rope_part"] = mean(scale * ((q * k0).sum(-1) - plain))
    return figures


def _mean_of_others(k: torch.Tensor) -> torch.Tensor:
    """Mean over the keys 1..t for each t (zero at t = 0)."""
    sums = k.cumsum(2) - k[:, :, :1]
    count = torch.arange(k.shape[2], device=k.device).clamp_min(1).view(1, 1, -1, 1)
    return sums / count
