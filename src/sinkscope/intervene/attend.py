"""One attention call, and what is read in it at one key: taken apart exactly and without a map.

Let a = A_tp be the mass of query t on key p, and r_t its output with key p hidden (the softmax of
all other keys, and of a learned sink, by itself). Then the intact output is a·v_p + (1 − a)·r_t,
and every change of what is read at p is another pair of factors of v_p and r_t (`edits.keys`).
Query p itself is left alone. One fused call over the other keys gives r_t and its log-sum-exp, so
an edited pass costs what a plain pass costs. What the lean reader could get wrong, and every pass
that needs gradients, goes through the family's own attention.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from sinkscope.errors import Unsupported
from sinkscope.observe.columns import p0_scores
from sinkscope.observe.scores import Scores, repeat_heads
from sinkscope.observe.softmax import attend, attend_without
from sinkscope.observe.tap import (
    boolean_mask,
    fold_learned,
    is_sigmoid,
    own_eager,
    scale_of,
    share_with_learned,
)


@dataclass
class Call:
    """One attention call on its way to the model.

    query [B, H, T, D], key and value [B, G, T, D]; mask as the family built it, or None
    """

    module: torch.nn.Module
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    mask: torch.Tensor | None
    kwargs: dict[str, Any]

    def scores(self) -> Scores:
        """What defines the scores, for the lean reader."""
        mask = boolean_mask(self.mask)
        scale = scale_of(self.kwargs, self.query)
        return Scores(self.query, self.key, mask, mask is None, scale, self.kwargs.get("softcap"))

    def heads(self, x: torch.Tensor) -> torch.Tensor:
        """Key heads repeated, one for each query head: [B, G, T, D] → [B, H, T, D]."""
        return repeat_heads(x, self.query.shape[1])

    def own(self, hidden: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Output [B, T, H, D] and map of the family's own attention.

        hidden  [B] key of each row that no query sees
        """
        mask = additive(self.mask, self.query)
        if hidden is not None:
            length = self.query.shape[2]
            closed = torch.arange(length, device=mask.device) == hidden.unsqueeze(1)
            mask = mask.masked_fill(closed[:, None, None, :], torch.finfo(mask.dtype).min)
        return own_eager(self.module, self.query, self.key, self.value, mask, self.kwargs)


@dataclass
class Parts:
    """One attention call taken apart at key p of each row.

    mass [B, H, T]     attention of each query on key p, fp32; 0 where it cannot see it
    seen [B, 1, T]     whether it sees it
    value [B, H, 1, D] value of key p
    rest [B, H, T, D]  output with key p hidden
    """

    mass: torch.Tensor
    seen: torch.Tensor
    value: torch.Tensor
    rest: torch.Tensor

    def combine(self, on_key: torch.Tensor, on_rest: torch.Tensor) -> torch.Tensor:
        """[B, T, H, D] output from factors [B, H, T] of the key's value and of the rest."""
        dtype = self.rest.dtype
        out = on_key.unsqueeze(-1).to(dtype) * self.value + on_rest.unsqueeze(-1).to(dtype) * (
            self.rest
        )
        return out.transpose(1, 2).contiguous()


def take_apart(call: Call, keys: torch.Tensor, own: bool) -> Parts:
    """Take a call apart at key `keys` [B] of each row.

    own  through the family's own attention, with a map: slow, differentiable, and the reference

    Raises Unsupported for attention that no softmax shares out.
    """
    check_shares_out(call)
    seen, value = sees(call, keys), _at(call.heads(call.value), keys)
    if own:
        _, weights = call.own()
        rest, _ = call.own(keys)
        return Parts(own_mass(call, weights, keys, seen), seen, value, rest.transpose(1, 2))
    s = call.scores()
    rest, lse = attend_without(s, call.value, keys)
    scores = p0_scores(s, keys.unsqueeze(1).expand(-1, call.query.shape[2]))
    total, _ = fold_learned(lse, call.kwargs.get("s_aux"))
    if total is not lse:
        rest = rest * (lse - total).exp().unsqueeze(-1).to(rest.dtype)
    return Parts(torch.where(seen, torch.sigmoid(scores - total), 0.0), seen, value, rest)


def intact(
    call: Call, keys: torch.Tensor, own: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Output [B, T, H, D] of a call as it is, mass [B, H, T] on key `keys` [B], and who sees it."""
    check_shares_out(call)
    seen = sees(call, keys)
    if own:
        out, weights = call.own()
        return out, own_mass(call, weights, keys, seen), seen
    s = call.scores()
    out, lse = attend(s, call.value)
    total, learned = fold_learned(lse, call.kwargs.get("s_aux"))
    if learned is not None:
        out = out * (lse - total).exp().unsqueeze(-1).to(out.dtype)
    mass = (p0_scores(s, keys.unsqueeze(1).expand(-1, call.query.shape[2])) - total).exp()
    return out.transpose(1, 2).contiguous(), torch.where(seen, mass, 0.0), seen


def check_shares_out(call: Call) -> None:
    """Raise Unsupported for weights that do not add up to one."""
    if is_sigmoid(call.kwargs):
        raise Unsupported(
            "sigmoid attention shares nothing out: what is taken from one key goes to no other."
        )


def own_mass(
    call: Call, weights: torch.Tensor, keys: torch.Tensor, seen: torch.Tensor
) -> torch.Tensor:
    """[B, H, T] mass on one key of each row as the family's own map has it.

    weights [B, H, T, T] the map; keys [B]; seen [B, 1, T] which queries see the key, as of `sees`.
    """
    if call.kwargs.get("s_aux") is not None:
        weights, _ = share_with_learned(weights, call.scores(), call.value, call.kwargs["s_aux"])
    index = keys.view(-1, 1, 1, 1).expand(-1, weights.shape[1], weights.shape[2], 1)
    return torch.where(seen, weights.gather(3, index).squeeze(3).float(), 0.0)


def sees(call: Call, keys: torch.Tensor) -> torch.Tensor:
    """[B, 1, T] which queries see the key of their row, keys [B]."""
    length = call.query.shape[2]
    seen = (keys.unsqueeze(1) <= torch.arange(length, device=keys.device)).unsqueeze(1)
    mask = boolean_mask(call.mask)
    if mask is not None:
        mask = mask.any(1, keepdim=True).expand(len(keys), -1, -1, -1)
        index = keys[:, None, None, None].expand(-1, 1, length, 1)
        seen = seen & mask.gather(3, index).squeeze(3)
    return seen


def _at(x: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """[B, H, 1, D] rows of x [B, H, T, D] at one position of each row."""
    index = keys.view(-1, 1, 1, 1).expand(-1, x.shape[1], 1, x.shape[3])
    return x.gather(2, index)


def additive(mask: torch.Tensor | None, query: torch.Tensor) -> torch.Tensor:
    """A mask as eager attention adds it to its scores: 0 where visible, else the dtype's least.

    mask [B or 1, 1 or H, T, T], boolean or already additive; None is plain causal, [1, 1, T, T].
    query [B, H, T, D] gives length and dtype.
    """
    if mask is not None and mask.dtype != torch.bool:
        return mask
    length = query.shape[2]
    if mask is None:
        mask = torch.ones(1, 1, length, length, dtype=torch.bool, device=query.device).tril()
    zero = torch.zeros((), dtype=query.dtype, device=query.device)
    return torch.where(mask, zero, torch.finfo(query.dtype).min)
