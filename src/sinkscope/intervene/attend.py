"""Attention with one key taken away from later queries, exactly and without a map.

Let a = A_tp be the mass of query t on key p, and r_t its output with key p hidden (the softmax of
all other keys, and of a learned sink, by itself). Then the intact output is a·v_p + (1 − a)·r_t,
and every change of what is read at p is another pair of factors of v_p and r_t:

    mass redistributed, dose λ   (1 − λ)a·v_p + (1 − (1 − λ)a)·r_t    the others share what is taken
    value zeroed, dose λ         (1 − λ)a·v_p + (1 − a)·r_t
    mass clamped to m            m·v_p + (1 − m)·r_t

Query p itself is left alone. One fused call over the other keys gives r_t and its log-sum-exp, so
a pass under a condition costs what a plain pass costs. What the lean reader could get wrong, and
every pass that needs gradients, goes through the family's own attention.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from sinkscope.errors import Unsupported
from sinkscope.observe.columns import Scores, p0_scores
from sinkscope.observe.late import mean_over
from sinkscope.observe.layout import Layout
from sinkscope.observe.softmax import attend, attend_without
from sinkscope.observe.tap import (
    OUTSIDE,
    boolean_mask,
    fold_learned,
    is_causal,
    is_sigmoid,
    own_eager,
    scale_of,
    share_with_learned,
    why_not_lean,
)

MASS, VALUE = "mass", "value"


@dataclass
class Parts:
    """One attention call taken apart at key p of each row.

    mass [B, H, T]     attention of each query on key p before anything is changed, fp32
    value [B, H, 1, D] value of key p
    rest [B, H, T, D]  output with key p hidden
    """

    mass: torch.Tensor
    value: torch.Tensor
    rest: torch.Tensor

    def combine(self, on_key: torch.Tensor, on_rest: torch.Tensor) -> torch.Tensor:
        """[B, T, H, D] output from factors [B, H, T] of the key's value and of the rest."""
        dtype = self.rest.dtype
        out = on_key.unsqueeze(-1).to(dtype) * self.value + on_rest.unsqueeze(-1).to(dtype) * (
            self.rest
        )
        return out.transpose(1, 2).contiguous()


@dataclass
class Attend:
    """The attention function of one pass under a condition. Register it for the whole model.

    keys      [B] the key that is acted on in each row: 0 for P0
    remove    mass, value, or None for attention as it is
    dose      how much of it, 0..1
    heads     {block: boolean [H]} heads in which it is removed; None for all
    clamp     {block: mass [B, H, T]} to which the mass on the key is set instead
    own       use the family's own attention throughout (differentiable)
    frozen    with `own`: no gradient through the attention maps
    keep      keep the mass [B, H, T] on the key of every block in `masses`
    shares    after the pass: {block: [B, H] late share of the key as it was really read}
    removed   after the pass: {block: [B, H] mass that late queries lost}
    """

    layout: Layout
    keys: torch.Tensor
    remove: str | None = None
    dose: float = 1.0
    heads: dict[int, torch.Tensor] | None = None
    clamp: dict[int, torch.Tensor] | None = None
    own: bool = False
    frozen: bool = False
    keep: bool = False
    block: int = OUTSIDE
    shares: dict[int, torch.Tensor] = field(default_factory=dict)
    removed: dict[int, torch.Tensor] = field(default_factory=dict)
    masses: dict[int, torch.Tensor] = field(default_factory=dict)
    readers: dict[int, str] = field(default_factory=dict)

    def attention(self, module, query, key, value, attention_mask, **kwargs):
        """The registered function. The fifth name is fixed: some families pass it by keyword."""
        mask = attention_mask
        if mask is not None and mask.shape[-1] > key.shape[2]:
            mask = mask[..., : key.shape[2]]
        if self.block == OUTSIDE or query.shape[2] != key.shape[2] or not is_causal(module, kwargs):
            return own_eager(module, query, key, value, additive(mask, query), kwargs)[0], None
        if is_sigmoid(kwargs):
            raise Unsupported(
                "sigmoid attention shares nothing out: what is taken from one key goes to no other."
            )
        call = Call(module, query, key, value, mask, kwargs)
        acting = self.remove is not None and (self.heads is None or self.block in self.heads)
        clamped = self.clamp is not None and self.block in self.clamp
        reason = "asked for" if self.own else why_not_lean(kwargs, query, mask)
        self.readers[self.block] = "own" if reason else "lean"
        if reason:
            return self._own(call, acting, clamped), None
        return self._lean(call, acting, clamped), None

    def _lean(self, call: Call, acting: bool, clamped: bool) -> torch.Tensor:
        if not acting and not clamped:
            out, total = intact(call)
            scores = p0_scores(call.scores(), self._columns(call.query))
            seen = self._seen(call)
            self._keep(torch.where(seen, (scores - total).exp(), 0.0), 0.0, seen)
            return out
        parts = take_apart(call, self.keys.to(call.query.device))
        seen = self._seen(call)
        parts.mass = torch.where(seen, parts.mass, 0.0)
        return parts.combine(*self._factors(parts.mass, seen, acting, clamped))

    def _own(self, call: Call, acting: bool, clamped: bool) -> torch.Tensor:
        """The same through the family's own attention, with a map."""
        if self.frozen:
            call = call.detached()
        keys = self.keys.to(call.query.device)
        out, weights = call.own(None)
        seen = self._seen(call)
        mass = torch.where(seen, own_mass(call, weights, keys), 0.0)
        if not acting and not clamped:
            self._keep(mass, 0.0, seen)
            return out
        rest, _ = call.own(keys)
        parts = Parts(mass, _at(call.heads(call.value), keys), rest.transpose(1, 2))
        return parts.combine(*self._factors(mass, seen, acting, clamped))

    def _factors(
        self, mass: torch.Tensor, seen: torch.Tensor, acting: bool, clamped: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Factors of the key's value and of the rest: the three rows of the module's docstring."""
        alone = self._columns(mass) == torch.arange(mass.shape[-1], device=mass.device)
        alone = alone.unsqueeze(1)
        if clamped:
            assert self.clamp is not None
            wanted = torch.where(alone, mass, self.clamp[self.block].to(mass.device))
            self._keep(wanted, mass - wanted, seen)
            return wanted, 1.0 - wanted
        if self.heads is not None:
            alone = alone | ~self.heads[self.block].to(mass.device).view(1, -1, 1)
        left = torch.where(alone, mass, (1.0 - self.dose) * mass)
        if self.remove == VALUE:
            self._keep(mass, 0.0, seen)
            return left, 1.0 - mass
        self._keep(left, mass - left, seen)
        return left, 1.0 - left

    def _columns(self, like: torch.Tensor) -> torch.Tensor:
        """[B, T] the key of each query's row."""
        return self.keys.to(like.device).unsqueeze(1).expand(-1, self.layout.valid.shape[1])

    def _seen(self, call: Call) -> torch.Tensor:
        """[B, 1, T] which queries see the key of their row."""
        keys = self._columns(call.query)
        queries = torch.arange(keys.shape[1], device=keys.device)
        seen = (keys <= queries).unsqueeze(1)
        mask = boolean_mask(call.mask)
        if mask is not None:
            mask = mask.any(1, keepdim=True).expand(len(keys), -1, -1, -1)
            seen = seen & mask.gather(3, keys[:, None, :, None]).squeeze(3)
        return seen

    def _keep(self, mass: torch.Tensor, removed: torch.Tensor | float, seen: torch.Tensor) -> None:
        late = self.layout.on(mass.device).late.unsqueeze(1) & seen
        mass = mass.detach()
        self.shares[self.block] = mean_over(mass, late)
        if isinstance(removed, torch.Tensor):
            self.removed[self.block] = mean_over(removed.detach(), late)
        if self.keep:
            self.masses[self.block] = mass


@dataclass
class Call:
    """One attention call on its way: query [B, H, T, D], key and value [B, G, T, D], mask."""

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

    def detached(self) -> Call:
        """The same call without gradient through queries and keys: the map is a constant."""
        return Call(
            self.module, self.query.detach(), self.key.detach(), self.value, self.mask, self.kwargs
        )

    def heads(self, x: torch.Tensor) -> torch.Tensor:
        """Key heads repeated so that there is one for each query head."""
        groups = self.query.shape[1] // x.shape[1]
        return x if groups == 1 else x.repeat_interleave(groups, 1)

    def own(self, hidden: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Output [B, T, H, D] and map of the family's own attention.

        hidden  [B] key of each row that no query sees
        """
        mask = additive(self.mask, self.query)
        if hidden is not None:
            length = self.query.shape[2]
            closed = torch.arange(length, device=mask.device) == hidden.unsqueeze(1)
            mask = mask.masked_fill(closed[:, None, None, :], torch.finfo(mask.dtype).min)
        return own_eager(self.module, self.query, self.key, self.value, mask, self.kwargs)


def intact(call: Call) -> tuple[torch.Tensor, torch.Tensor]:
    """Output [B, T, H, D] and log-sum-exp [B, H, T] of a call as it is, learned sink included."""
    out, lse = attend(call.scores(), call.value)
    total, learned = fold_learned(lse, call.kwargs.get("s_aux"), call.query)
    if learned is not None:
        out = out * (lse - total).exp().unsqueeze(-1).to(out.dtype)
    return out.transpose(1, 2).contiguous(), total


def take_apart(call: Call, keys: torch.Tensor) -> Parts:
    """Take a call apart at key `keys` [B] of each row, with one fused call over the other keys."""
    s = call.scores()
    rest, lse = attend_without(s, call.value, keys)
    scores = p0_scores(s, keys.unsqueeze(1).expand(-1, call.query.shape[2]))
    total, _ = fold_learned(lse, call.kwargs.get("s_aux"), call.query)
    if total is not lse:
        rest = rest * (lse - total).exp().unsqueeze(-1).to(rest.dtype)
    mass = torch.sigmoid(scores - total)
    return Parts(mass, _at(call.heads(call.value), keys), rest)


def _at(x: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """[B, H, 1, D] rows of x [B, H, T, D] at one position of each row."""
    index = keys.view(-1, 1, 1, 1).expand(-1, x.shape[1], 1, x.shape[3])
    return x.gather(2, index)


def own_mass(call: Call, weights: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """[B, H, T] mass on one key of each row as the family's own map has it."""
    if call.kwargs.get("s_aux") is not None:
        weights, _ = share_with_learned(weights, call.scores(), call.value, call.kwargs["s_aux"])
    index = keys.view(-1, 1, 1, 1).expand(-1, weights.shape[1], weights.shape[2], 1)
    return weights.gather(3, index).squeeze(3).float()


def additive(mask: torch.Tensor | None, query: torch.Tensor) -> torch.Tensor:
    """A mask in the form that eager attention adds to its scores."""
    if mask is not None and mask.dtype != torch.bool:
        return mask
    length = query.shape[2]
    if mask is None:
        mask = torch.ones(1, 1, length, length, dtype=torch.bool, device=query.device).tril()
    zero = torch.zeros((), dtype=query.dtype, device=query.device)
    return torch.where(mask, zero, torch.finfo(query.dtype).min)
