"""Two attention readers behind one interface.

`exact` delegates to the model file's own eager attention, keeps what was asked and drops the map at
once: the logits are those of the untouched model, bit for bit.
`lean` uses fused attention with its log-sum-exp (see `columns`): no map exists at any time.
Families that do not use transformers' attention registry are read from the maps that their own
attention modules return, one block at a time (`own maps`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from sinkscope.errors import OutOfResources, Unsupported
from sinkscope.observe.columns import (
    Scores,
    chunked_attention,
    key_sums,
    p0_scores,
    row_entropy,
)
from sinkscope.observe.fused import fused_attention, fused_works
from sinkscope.observe.layout import Layout, Visibility, layout_of
from sinkscope.observe.registry import attention_functions, evaluation, hooks
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts

OUTSIDE = -1  # no decoder block is running
READERS = ("auto", "exact", "lean")
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
class Want:
    """What to keep of each attention call, beside the P0 column.

    received  sums over queries for every key
    entropy   entropy of each row, in nats
    columns   key indices whose whole columns are kept
    maps      the map itself (a few short prompts only)
    inspect   functions called as fn(call, read) while queries, keys and values are at hand
    """

    received: bool = True
    entropy: bool = False
    columns: tuple[int, ...] = ()
    maps: bool = False
    inspect: tuple[Callable[[AttentionCall, AttentionRead], None], ...] = ()


@dataclass
class AttentionCall:
    """One attention call in flight, before it is dropped.

    values [B, G, T, Dv]; output [B, T, H, Dv]; s_aux learned sink logits [H] or None
    """

    scores: Scores
    values: torch.Tensor
    output: torch.Tensor
    module: nn.Module
    s_aux: torch.Tensor | None = None


@dataclass
class AttentionRead:
    """What was kept of one attention call. Sums and masses are fp32, on the model's device.

    block     index of the decoder block
    reader    exact, lean, lean (chunked) or own maps; `reason` says why it is not the one asked
    p0        [B, H, T] attention of each query on its P0 (0 where P0 is out of sight)
    received  [B, H, T] attention each key receives, summed over valid queries
    learned   [B, H, T] mass on a learned sink logit, or None where there is none
    """

    block: int
    reader: str
    reason: str
    visible: Visibility
    p0: torch.Tensor
    received: torch.Tensor | None = None
    entropy: torch.Tensor | None = None
    columns: torch.Tensor | None = None
    learned: torch.Tensor | None = None
    map: torch.Tensor | None = None


@dataclass
class _Tap:
    """State of one pass: which block is running, and the reads so far."""

    layout: Layout
    want: Want
    reader: str
    block: int = OUTSIDE
    reads: list[AttentionRead] = field(default_factory=list)
    additive: dict[int, tuple[Any, torch.Tensor]] = field(default_factory=dict)

    def keep(self, read: AttentionRead, call: AttentionCall | None) -> None:
        self.reads.append(read)
        if call is not None:
            for inspect in self.want.inspect:
                inspect(call, read)

    def attention(self, module, query, key, value, attention_mask, **kwargs):
        """The registered function. The fifth name is fixed: some families pass it by keyword."""
        outside = self.block == OUTSIDE or query.shape[2] != key.shape[2]
        if outside or not _is_causal(module, kwargs):
            out, _ = _eager(module, query, key, value, self._add(attention_mask, query), kwargs)
            return out, None
        if self.reader == "exact":
            return self._exact(module, query, key, value, attention_mask, kwargs, "")
        reason = _why_not_lean(kwargs, query, attention_mask)
        if reason:
            return self._exact(module, query, key, value, attention_mask, kwargs, reason)
        return self._lean(module, query, key, value, attention_mask, kwargs)

    def _exact(self, module, query, key, value, mask, kwargs, reason):
        out, weights = _eager(module, query, key, value, self._add(mask, query), kwargs)
        if weights is None or weights.dim() != 4:
            raise Unsupported(f"{type(module).__name__} does not give its attention map.")
        boolean = _boolean(mask)
        if boolean is not None and boolean.shape[1] != 1:
            boolean = boolean.any(1, keepdim=True)
        scale = _scale(kwargs, query)
        scores = Scores(query, key, boolean, boolean is None, scale, kwargs.get("softcap"))
        learned = None
        if kwargs.get("s_aux") is not None:
            weights, learned = _share_with_learned(weights, scores, value, kwargs["s_aux"])
        elif kwargs.get("sinks") is not None:
            learned = (1.0 - weights.float().sum(-1)).clamp_min(0.0)
        visible = self.layout.visibility(boolean)
        read = read_map(weights, self.layout, visible, self.want, self.block, "exact", reason)
        read.learned = learned
        self.keep(read, AttentionCall(scores, value, out, module, kwargs.get("s_aux")))
        return out, None

    def _lean(self, module, query, key, value, mask, kwargs):
        causal = mask is None
        mask = _boolean(mask)
        scores = Scores(query, key, mask, causal, _scale(kwargs, query), kwargs.get("softcap"))
        if scores.softcap is not None or fused_works(query.device.type, query.dtype):
            out, lse = chunked_attention(scores, value)
            reader = "lean (chunked)"
        else:
            out, lse = fused_attention(query, key, value, mask, causal, scores.scale)
            reader = "lean"
        total, learned = _fold_learned(lse, kwargs.get("s_aux"), query)
        if learned is not None:
            out = out * (lse - total).exp().unsqueeze(-1).to(out.dtype)
        visible = self.layout.visibility(mask)
        read = read_lean(scores, lse, total, self.layout, visible, self.want, self.block, reader)
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


def read_lean(
    s: Scores,
    lse: torch.Tensor,
    total: torch.Tensor,
    layout: Layout,
    visible: Visibility,
    want: Want,
    block: int,
    reader: str,
) -> AttentionRead:
    """Reduce scores and log-sum-exp to an AttentionRead. `total` includes a learned sink."""
    valid = layout.valid
    seen = visible.p0_seen.unsqueeze(1)
    p0 = torch.where(seen, (p0_scores(s, layout.p0) - total).exp(), 0.0)
    read = AttentionRead(block, reader, "", visible, p0)
    if want.received:
        read.received = key_sums(s, total, valid)
    if want.entropy:
        rows = row_entropy(s, lse)
        if total is not lse:  # entropy over the real keys and the learned sink together
            share = (lse - total).exp()
            sink = (1.0 - share).clamp_min(1e-38)
            rows = share * (rows - share.clamp_min(1e-38).log()) - sink * sink.log()
        read.entropy = torch.where(valid.unsqueeze(1), rows, 0.0)
    if want.columns:
        chosen = s.expand(s.k)[:, :, list(want.columns)]
        scores = s.q.float() @ chosen.float().transpose(-1, -2) * s.scale
        if s.softcap is not None:
            scores = torch.tanh(scores / s.softcap) * s.softcap
        hidden = _hidden_columns(s, want.columns)
        read.columns = (scores - total.unsqueeze(-1)).exp().masked_fill_(hidden, 0.0)
    if want.maps:
        k = s.expand(s.k)
        scores, seen_map = s.chunk(0, s.q.shape[2], k)
        read.map = (scores - total.unsqueeze(-1)).exp().masked_fill_(~seen_map, 0.0)
    return read


def read_map(
    weights: torch.Tensor,
    layout: Layout,
    visible: Visibility,
    want: Want,
    block: int,
    reader: str,
    reason: str,
) -> AttentionRead:
    """Reduce an attention map [B, H, T, T] to an AttentionRead."""
    valid = layout.valid
    index = layout.p0[:, None, :, None].expand(-1, weights.shape[1], -1, -1)
    p0 = weights.gather(3, index).squeeze(3).float()
    p0 = torch.where(visible.p0_seen.unsqueeze(1), p0, 0.0)
    read = AttentionRead(block, reader, reason, visible, p0)
    if want.received:
        read.received = torch.einsum("bhtk,bt->bhk", weights.float(), valid.float())
    if want.entropy:
        mass = weights.float()
        rows = torch.special.entr(mass).sum(-1)
        rest = (1.0 - mass.sum(-1)).clamp_min(0.0)
        rows = rows + torch.special.entr(torch.where(rest > 1e-5, rest, 0.0))
        read.entropy = torch.where(valid.unsqueeze(1), rows, 0.0)
    if want.columns:
        read.columns = weights[..., list(want.columns)].float()
    if want.maps:
        read.map = weights.float()
    return read


def observe(
    subject: Subject,
    prompts: Prompts,
    want: Want | None = None,
    reader: str = "auto",
    extra_hooks: Callable[[], list[Any]] | None = None,
    logits: bool = False,
) -> tuple[list[AttentionRead], Layout, Any]:
    """One forward pass over a batch, with its attention read in every softmax block.

    reader       exact, lean, or auto (lean, with exact where lean cannot be right)
    extra_hooks  called when the pass begins, returns hook handles that are removed after it
    logits       run the whole model and return its logits; otherwise the decoder only

    Returns the reads in order of the blocks, the layout of the rows, and the logits or None.
    Raises Unsupported when a block that declares softmax attention was not seen.
    """
    want = want or Want()
    layout = layout_of(prompts, subject.device)
    tap = _Tap(layout, want, "exact" if reader == "exact" else "lean")
    model = subject.model
    blocks = subject.anatomy.modules(model)
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(evaluation(model))
        handles = _follow_blocks(tap, blocks)
        stack.enter_context(hooks(handles))
        if extra_hooks is not None:
            stack.enter_context(hooks(extra_hooks()))
        by_registry = uses_registry(model)
        if by_registry:
            masks = "eager" if tap.reader == "exact" else "sdpa"
            stack.enter_context(attention_functions(model, tap.attention, masks))
        else:
            if reader == "lean":
                raise Unsupported(
                    f"{subject.anatomy.model_type} does not use the attention registry, so the "
                    "lean reader cannot reach it; use --reader auto or exact."
                )
            stack.enter_context(hooks(_own_maps(tap, blocks)))
            stack.enter_context(attention_functions(model, tap.attention, "eager"))
        output = run_model(subject, prompts, logits, own_maps=not by_registry)
    _check_all_seen(subject, tap)
    if prompts.position_ids is not None:
        _check_kept_apart(subject, tap)
    return tap.reads, layout, output


def uses_registry(model: Any) -> bool:
    """Whether the model's file takes its attention from transformers' registry."""
    decoder = getattr(model, "base_model", model)
    module = sys.modules.get(type(decoder).__module__)
    return hasattr(module, "ALL_ATTENTION_FUNCTIONS") and hasattr(module, "eager_attention_forward")


def run_model(subject: Subject, prompts: Prompts, logits: bool, own_maps: bool = False) -> Any:
    """Plain forward pass: logits [B, T, V], or None when only the decoder was run."""
    inputs = model_inputs(subject, prompts)
    if own_maps:
        inputs["output_attentions"] = True
    model = subject.model
    # without the head: its logits would dwarf everything else at long lengths
    target = model if logits else getattr(model, "base_model", model)
    try:
        out = target(**inputs)
    except (torch.OutOfMemoryError, MemoryError):
        raise OutOfResources(
            f"Out of memory at {len(prompts)} × {prompts.length} tokens; use a shorter --length."
        ) from None
    except RuntimeError as error:
        if "allocate memory" in str(error):
            raise OutOfResources(
                f"Out of memory at {len(prompts)} × {prompts.length} tokens; "
                "use a shorter --length."
            ) from None
        raise
    return out.logits if logits else None


def model_inputs(subject: Subject, prompts: Prompts) -> dict[str, Any]:
    """Keyword arguments of the forward call. Left padding gets positions that count from P0."""
    device = subject.device
    inputs: dict[str, Any] = {"input_ids": prompts.input_ids.to(device), "use_cache": False}
    positions = prompts.position_ids
    if prompts.attention_mask is not None:
        mask = prompts.attention_mask.to(device)
        inputs["attention_mask"] = mask
        positions = (mask.long().cumsum(1) - 1).clamp_min(0)
    if positions is not None and _accepts(subject.model, "position_ids"):
        inputs["position_ids"] = positions.to(device)
    elif prompts.position_ids is not None:
        raise Unsupported(
            f"{subject.anatomy.model_type} takes no position ids, so packed rows "
            "cannot be kept apart."
        )
    return inputs


def _accepts(model: Any, name: str) -> bool:
    import inspect

    target = getattr(model, "base_model", model)
    return name in inspect.signature(target.forward).parameters


def _follow_blocks(tap: _Tap, blocks: list[nn.Module]) -> list[Any]:
    def enter(index: int) -> Callable:
        def hook(module, args):
            tap.block = index

        return hook

    def leave(module, args, output):
        tap.block = OUTSIDE

    handles = []
    for index, block in enumerate(blocks):
        handles.append(block.register_forward_pre_hook(enter(index)))
        handles.append(block.register_forward_hook(leave))
    return handles


def _own_maps(tap: _Tap, blocks: list[nn.Module]) -> list[Any]:
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
                visible = tap.layout.visibility(_seen_in(item))
                tap.layout._cache.clear()
                read = read_map(item, tap.layout, visible, tap.want, tap.block, "own maps", "")
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


def _check_all_seen(subject: Subject, tap: _Tap) -> None:
    seen = {read.block for read in tap.reads}
    types = [block.layer_type for block in subject.anatomy.blocks]
    missing = [
        i for i, kind in enumerate(types) if kind not in ("linear", "none") and i not in seen
    ]
    if not seen:
        raise Unsupported(
            f"No attention of {subject.anatomy.model_type} could be read: it neither "
            "uses the attention registry nor returns its maps."
        )
    declared = getattr(subject.model.config.get_text_config(decoder=True), "layer_types", None)
    if missing and declared:
        raise Unsupported(
            f"Attention of blocks {missing} of {subject.anatomy.model_type} was "
            "not seen, so the model cannot be read faithfully."
        )


def _check_kept_apart(subject: Subject, tap: _Tap) -> None:
    """Packed segments must not see each other: a family may ignore where positions start again."""
    own = tap.layout.relative + 1
    for read in tap.reads:
        if bool(((read.visible.keys_seen > own) & tap.layout.valid).any()):
            raise Unsupported(
                f"{subject.anatomy.model_type} does not keep packed rows apart: its "
                f"block {read.block} attends across segments."
            )


def _eager(module, query, key, value, mask, kwargs):
    own = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    if own is None:
        raise Unsupported(
            f"{type(module).__name__} has no eager attention of its own to delegate to."
        )
    return own(module, query, key, value, mask, **kwargs)


def _is_causal(module: nn.Module, kwargs: dict) -> bool:
    told = kwargs.get("is_causal")
    return bool(getattr(module, "is_causal", True) if told is None else told)


def _why_not_lean(kwargs: dict, query: torch.Tensor, mask: torch.Tensor | None) -> str:
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


def _scale(kwargs: dict, query: torch.Tensor) -> float:
    scale = kwargs.get("scaling")
    return float(scale) if scale is not None else query.shape[-1] ** -0.5


def _boolean(mask: torch.Tensor | None) -> torch.Tensor | None:
    if mask is None or mask.dtype == torch.bool:
        return mask
    return mask > torch.finfo(mask.dtype).min / 2


def _fold_learned(
    lse: torch.Tensor, s_aux: torch.Tensor | None, query: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Fold a learned sink logit per head into the log-sum-exp; also its mass [B, H, T]."""
    if s_aux is None:
        return lse, None
    logit = s_aux.float().reshape(1, -1, 1).to(lse.device)
    total = torch.logaddexp(lse, logit)
    return total, (logit - total).exp()


def _share_with_learned(
    weights: torch.Tensor, s: Scores, value: torch.Tensor, s_aux: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The map as shares beside the learned sink, and the sink's own share.

    Some families return the map before the sink takes its share, others after it; the row sums
    tell which.
    """
    _, lse = chunked_attention(s, value)
    total, learned = _fold_learned(lse, s_aux, s.q)
    assert learned is not None
    kept = (lse - total).exp()
    sums = weights.float().sum(-1)
    if (sums - kept).abs().max() > (sums - 1.0).abs().max():
        weights = weights.float() * kept.unsqueeze(-1)
    return weights, learned


def _hidden_columns(s: Scores, columns: tuple[int, ...]) -> torch.Tensor:
    keys = torch.tensor(columns, device=s.q.device)
    if s.mask is not None:
        return ~s.mask[..., keys]
    rows = torch.arange(s.q.shape[2], device=s.q.device).unsqueeze(1)
    return keys > rows if s.causal else torch.zeros((), dtype=torch.bool, device=s.q.device)
