"""The attention function that is put under a model, and the hooks for families without one.

`exact` delegates to the model file's own eager attention; `lean` uses fused attention with its
log-sum-exp (see `columns`). What lean could get wrong it hands to exact, block by block.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from sinkscope.errors import Unsupported
from sinkscope.observe.columns import chunked_attention
from sinkscope.observe.layout import Layout
from sinkscope.observe.pieces import Piece
from sinkscope.observe.reads import AttentionCall, AttentionRead, Want, read_lean, read_map
from sinkscope.observe.scores import Scores
from sinkscope.observe.softmax import attend, is_fused

OUTSIDE = -1  # no decoder block is running
SIGMOID = "sigmoid attention, each row divided by its sum"  # said wherever it is read
# Keywords that the lean reader understands or that cannot change attention. Any other keyword with
# a value hands the block to the exact reader.
UNDERSTOOD = frozenset(
    (
        *("dropout", "scaling", "sliding_window", "is_causal", "s_aux", "sinks", "softcap"),
        *("position_ids", "position_embeddings", "cache_position", "layer_idx", "use_cache"),
        *("past_key_values", "past_key_value", "return_dict", "logits_to_keep"),
        *("output_attentions", "output_router_logits", "output_hidden_states"),
    )
)


@dataclass
class Tap:
    """State of one pass, or of a piece of it: which block is running, and the reads so far."""

    layout: Layout
    want: Want
    reader: str
    block: int = OUTSIDE
    reads: list[AttentionRead] = field(default_factory=list)
    not_causal: set[int] = field(default_factory=set)  # blocks in which a call was not
    additive: dict[int, tuple[Any, torch.Tensor]] = field(default_factory=dict)
    piece: Piece = field(init=False)

    def __post_init__(self) -> None:
        self.piece = Piece(self.layout)

    def begin(self, start: int, stop: int) -> None:
        """Say that the tokens start..stop run next, on the keys of all before them."""
        self.piece, self.block, self.reads = Piece(self.layout, (start, stop)), OUTSIDE, []
        self.additive.clear()

    def keep(self, read: AttentionRead, call: AttentionCall | None) -> None:
        """Store a read; show the call to whoever wants to inspect it while it is at hand."""
        self.reads.append(read)
        if call is not None:
            for inspect in self.want.inspect:
                inspect(call, read)

    def attention(self, module, query, key, value, attention_mask, **kwargs):
        """The registered function. The fifth name is fixed: some families pass it by keyword."""
        if attention_mask is not None and attention_mask.shape[-1] > key.shape[2]:
            attention_mask = attention_mask[..., : key.shape[2]]  # as eager attention itself does
        outside = self.block == OUTSIDE or self.piece.is_foreign(query, key)
        causal = is_causal(module, kwargs)
        if outside or not causal:
            if not outside:
                self.not_causal.add(self.block)
            whole = attention_mask is None and not causal  # then no mask means that all is seen
            mask = None if whole else self._add(attention_mask, query)
            out, _ = own_eager(module, query, key, value, mask, kwargs)
            return out, None
        if self.reader == "exact":
            return self._exact(module, query, key, value, attention_mask, kwargs, "")
        reason = why_not_lean(kwargs, query, attention_mask)
        if reason:
            return self._exact(module, query, key, value, attention_mask, kwargs, reason)
        return self._lean(module, query, key, value, attention_mask, kwargs)

    def _exact(self, module, query, key, value, mask, kwargs, reason):
        out, weights = own_eager(module, query, key, value, self._add(mask, query), kwargs)
        if weights is None or weights.dim() != 4:
            raise Unsupported(f"{type(module).__name__} does not give its attention map.")
        boolean = boolean_mask(mask)
        if boolean is not None and boolean.shape[1] != 1:
            boolean = boolean.any(1, keepdim=True)
        layout = self.piece.layout_for(query, key)
        visible = layout.visibility(boolean)
        if is_sigmoid(kwargs):
            read = read_map(
                as_shares(weights), layout, visible, self.want, self.block, "exact", SIGMOID
            )
            self.keep(read, None)  # no softmax that could be taken apart
            return out, None
        scale = scale_of(kwargs, query)
        scores = Scores(query, key, boolean, boolean is None, scale, kwargs.get("softcap"))
        learned = None
        if kwargs.get("s_aux") is not None:
            weights, learned = share_with_learned(weights, scores, value, kwargs["s_aux"])
        elif kwargs.get("sinks") is not None:
            learned = (1.0 - weights.float().sum(-1)).clamp_min(0.0)
        read = read_map(weights, layout, visible, self.want, self.block, "exact", reason)
        read.learned = learned
        self.keep(read, AttentionCall(scores, value, out, module, kwargs.get("s_aux")))
        return out, None

    def _lean(self, module, query, key, value, mask, kwargs):
        causal = mask is None
        mask = boolean_mask(mask)
        if mask is not None and self.piece.span and self.piece.sees_all(mask):
            causal, mask = True, None  # where keys are cached a mask comes with plain causality too
        scores = Scores(query, key, mask, causal, scale_of(kwargs, query), kwargs.get("softcap"))
        out, lse = attend(scores, value)
        reader = "lean" if is_fused(scores) else "lean (chunked)"
        total, learned = fold_learned(lse, kwargs.get("s_aux"))
        if learned is not None:
            out = out * (lse - total).exp().unsqueeze(-1).to(out.dtype)
        layout = self.piece.layout_for(query, key)
        visible = layout.visibility(mask)
        read = read_lean(scores, lse, total, layout, visible, self.want, self.block, reader)
        read.learned = learned
        out = out.transpose(1, 2).contiguous()
        self.keep(read, AttentionCall(scores, value, out, module, kwargs.get("s_aux")))
        return out, None

    def _add(self, mask, query):
        """Additive form of a mask for eager attention, kept per mask."""
        if mask is not None and mask.dtype != torch.bool:
            return mask
        if mask is None and self.reader == "exact":
            return None
        key = id(mask)
        if key not in self.additive:
            self.additive.clear()  # hold one converted mask at a time
            length = query.shape[2]
            keep = (
                mask
                if mask is not None
                else torch.ones(1, 1, length, length, dtype=torch.bool, device=query.device).tril()
            )
            zero = torch.zeros((), dtype=query.dtype, device=query.device)
            self.additive[key] = (mask, torch.where(keep, zero, torch.finfo(query.dtype).min))
        return self.additive[key][1]


def own_eager(module, query, key, value, mask, kwargs):
    """Eager attention as the module's own file defines it: (output, map)."""
    own = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    if own is None:
        raise Unsupported(
            f"{type(module).__name__} has no eager attention of its own to delegate to."
        )
    return own(module, query, key, value, mask, **kwargs)


def is_sigmoid(kwargs: dict) -> bool:
    """Whether weights are sigmoids of the scores, which no row sum holds together."""
    return kwargs.get("sigmoid_bias") is not None


def as_shares(weights: torch.Tensor) -> torch.Tensor:
    """Unnormalised weights [B, H, T, T] over the sum of their row, fp32, [B, H, T, T].

    As Gu et al. (arXiv 2410.10781) read sigmoid attention.
    """
    weights = weights.float()
    return weights / weights.sum(-1, keepdim=True).clamp_min(1e-30)


def is_causal(module: nn.Module, kwargs: dict) -> bool:
    """Whether the call is causal when it comes without a mask, as transformers itself decides."""
    told = kwargs.get("is_causal")
    return bool(getattr(module, "is_causal", True) if told is None else told)


def why_not_lean(kwargs: dict, query: torch.Tensor, mask: torch.Tensor | None) -> str:
    """Why the lean reader must not read this call; empty where it may.

    query [B, H, T, D]; mask [B or 1, 1 or H, T, T], boolean or additive.
    """
    unknown = sorted(k for k, v in kwargs.items() if k not in UNDERSTOOD and v is not None)
    if unknown:
        return f"unknown keyword {', '.join(unknown)}"
    if kwargs.get("sinks") is not None:
        return "sinks that depend on the query"
    if kwargs.get("dropout"):
        return "attention dropout"
    if mask is not None and mask.dtype != torch.bool:
        binary = (mask == 0) | (mask <= torch.finfo(mask.dtype).min / 2)
        if not bool(binary.all()):
            return "a bias inside the mask"
    if mask is not None and mask.shape[1] != 1:
        return "a mask of its own for each head"
    return ""


def scale_of(kwargs: dict, query: torch.Tensor) -> float:
    """Factor between dot product and score: the call's own, else 1/√D; query [B, H, T, D]."""
    scale = kwargs.get("scaling")
    return float(scale) if scale is not None else query.shape[-1] ** -0.5


def boolean_mask(mask: torch.Tensor | None) -> torch.Tensor | None:
    """A mask [B or 1, 1 or H, T, T], boolean or additive, as True = visible, of the same shape."""
    if mask is None or mask.dtype == torch.bool:
        return mask
    return mask > torch.finfo(mask.dtype).min / 2


def fold_learned(
    lse: torch.Tensor, s_aux: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Fold a learned sink logit s_aux [H] into the log-sum-exp [B, H, T]; and its mass [B, H, T].

    Without one the log-sum-exp stays and there is no mass.
    """
    if s_aux is None:
        return lse, None
    logit = s_aux.float().reshape(1, -1, 1).to(lse.device)
    total = torch.logaddexp(lse, logit)
    return total, (logit - total).exp()


def share_with_learned(
    weights: torch.Tensor, s: Scores, value: torch.Tensor, s_aux: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The map [B, H, T, T] as shares beside the learned sink, and the sink's own [B, H, T].

    weights [B, H, T, T] the family's own map; value [B, G, T, Dv]; s_aux [H] sink logits.
    Some families return the map before the sink takes its share, others after it; the row sums
    tell which.
    """
    _, lse = chunked_attention(s, value)
    total, learned = fold_learned(lse, s_aux)
    assert learned is not None
    kept = (lse - total).exp()
    sums = weights.float().sum(-1)
    if (sums - kept).abs().max() > (sums - 1.0).abs().max():
        weights = weights.float() * kept.unsqueeze(-1)
    return weights, learned


def own_map_hooks(tap: Tap, blocks: list[nn.Module]) -> list[Any]:
    """Hooks that read the map an attention module returns, and replace it by nothing."""

    def hook(module, args, output):
        if tap.block == OUTSIDE or not isinstance(output, (tuple, list)):
            return None
        length = tap.layout.valid.shape[1]
        for i, item in enumerate(output):
            if (
                isinstance(item, torch.Tensor)
                and item.dim() == 4
                and item.shape[-2:] == (length, length)
            ):
                if bool(item.triu(1).any()):
                    tap.not_causal.add(tap.block)
                    return None
                layout = tap.layout.on(item.device)
                visible = layout.visibility(_seen_in(item))
                read = read_map(item, layout, visible, tap.want, tap.block, "own maps", "")
                tap.keep(read, None)
                return type(output)([*output[:i], None, *output[i + 1 :]])
        return None

    return [
        child.register_forward_hook(hook)
        for block in blocks
        for child in block.modules()
        if "attention" in type(child).__name__.lower() or "attn" in type(child).__name__.lower()
    ]


def _seen_in(weights: torch.Tensor) -> torch.Tensor:
    """Visibility as the map itself shows it: causal, and not exactly zero in every head."""
    length = weights.shape[-1]
    causal = torch.ones(length, length, dtype=torch.bool, device=weights.device).tril()
    return (weights != 0).any(1, keepdim=True) & causal
