"""Checks of the readers against each other and against the untouched model.

Used by `sinkscope doctor` (this machine), `sinkscope models` (every family) and the tests.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

from sinkscope.observe.attention import model_inputs, observe
from sinkscope.observe.columns import chunked_attention, chunked_key_sums
from sinkscope.observe.fused import fused_attention, fused_works
from sinkscope.observe.layout import Layout, layout_of
from sinkscope.observe.reads import AttentionCall, AttentionRead, Want, read_lean
from sinkscope.observe.registry import configurations, evaluation
from sinkscope.observe.scores import Scores
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts

KEPT = ("p0", "received", "late", "columns", "learned")


def token_prompts(ids: torch.Tensor) -> Prompts:
    """Whole rows of token ids [B, T] as Prompts."""
    lengths = torch.full((ids.shape[0],), ids.shape[1])
    return Prompts(ids, lengths, "ids", "without")


def left_padded(ids: torch.Tensor, padding: int = 5) -> Prompts:
    """Rows [B, T] as Prompts: in the second half of the rows the first tokens are padding."""
    mask = torch.ones_like(ids)
    mask[ids.shape[0] // 2 :, :padding] = 0
    return Prompts(ids, mask.sum(1), "ids", "without", attention_mask=mask)


def packed(ids: torch.Tensor) -> Prompts:
    """Rows [B, T] as Prompts of two packed segments: positions start again in the middle."""
    half = ids.shape[1] // 2
    positions = torch.cat([torch.arange(half), torch.arange(ids.shape[1] - half)])
    lengths = torch.full((ids.shape[0],), ids.shape[1])
    return Prompts(
        ids, lengths, "ids", "without", position_ids=positions.expand(ids.shape[0], -1).clone()
    )


def plain_logits(subject: Subject, prompts: Prompts) -> torch.Tensor:
    """Logits [B, T, V] of the untouched model under its own eager attention."""
    model = subject.model
    saved = [(c, c._attn_implementation_internal) for c in configurations(model)]
    try:
        for config, _ in saved:
            config._attn_implementation_internal = "eager"
        with torch.no_grad(), evaluation(model):
            return model(**model_inputs(subject, prompts)).logits
    finally:
        for config, implementation in saved:
            config._attn_implementation_internal = implementation


def exact_difference(subject: Subject, prompts: Prompts) -> float:
    """Largest difference in logits between the exact reader's pass and the untouched model."""
    _, _, logits = observe(subject, prompts, Want(), "exact", logits=True)
    return (logits - plain_logits(subject, prompts)).abs().max().item()


@dataclass
class Parity:
    """Lean against exact: largest absolute difference, and how many blocks lean served."""

    difference: float
    lean_blocks: int
    readers: list[str]


def lean_difference(subject: Subject, prompts: Prompts) -> Parity:
    """Compare two whole passes, one with each reader, in every figure they keep.

    Received attention is compared as a mean over queries, like every other figure in 0..1.
    """
    want = Want(columns=(0, 1))
    exact, layout, _ = observe(subject, prompts, want, "exact")
    lean, _, _ = observe(subject, prompts, want, "auto")
    worst = max((_difference(a, b, layout) for a, b in zip(exact, lean, strict=True)), default=0.0)
    readers = [read.reader + (f" ({read.reason})" if read.reason else "") for read in lean]
    return Parity(worst, sum(read.reader.startswith("lean") for read in lean), readers)


def half_precision_errors(subject: Subject, prompts: Prompts) -> tuple[float, float]:
    """Errors of (lean, exact) against fp32 arithmetic on the same half-precision queries and keys.

    Block by block on the same inputs, since two whole passes in half precision drift apart by
    rounding whatever reads them. The exact reader inherits the rounding of the model's own eager
    attention, which keeps its scores in half precision; lean does not.
    """
    worst = [0.0, 0.0]
    layout = layout_of(prompts, subject.device)
    want = Want(columns=(0, 1))

    def inspect(call: AttentionCall, read: AttentionRead) -> None:
        s = call.scores
        full = dataclasses.replace(s, q=s.q.float(), k=s.k.float())
        _, right_lse = chunked_attention(full, call.values)
        right = _read(full, right_lse, call.s_aux, read, layout, want, chunked=True)
        if s.softcap is None and fused_works(s.q.device.type, s.q.dtype) is None:
            _, lse = fused_attention(s.q, s.k, call.values, s.mask, s.causal, s.scale)
        else:
            _, lse = chunked_attention(s, call.values)
        lean = _read(s, lse, call.s_aux, read, layout, want)
        worst[0] = max(worst[0], _difference(lean, right, layout))
        if read.reader == "exact":
            worst[1] = max(worst[1], _difference(read, right, layout))

    observe(subject, prompts, Want(columns=(0, 1), inspect=(inspect,)), "exact")
    return worst[0], worst[1]


def _read(
    s: Scores,
    lse: torch.Tensor,
    s_aux: torch.Tensor | None,
    like: AttentionRead,
    layout: Layout,
    want: Want,
    chunked: bool = False,
) -> AttentionRead:
    """The lean reduction with a learned sink folded in."""
    total = lse if s_aux is None else torch.logaddexp(lse, s_aux.float().view(1, -1, 1))
    read = read_lean(s, lse, total, layout, like.visible, want, like.block, "lean")
    if chunked:
        read.received = chunked_key_sums(s, total, layout.valid)
        read.late = chunked_key_sums(s, total, layout.late)
    return read


def _difference(a: AttentionRead, b: AttentionRead, layout: Layout) -> float:
    valid = layout.valid.unsqueeze(1)
    worst = 0.0
    for name in KEPT:
        x, y = getattr(a, name), getattr(b, name)
        if x is None or y is None:
            continue
        if name in ("received", "late"):
            seen = a.visible.seen_by if name == "received" else a.visible.late_seen
            x, y = (z / seen.clamp_min(1).unsqueeze(1) for z in (x, y))
        rows = valid.unsqueeze(-1) if x.dim() == 4 else valid
        worst = max(worst, ((x - y) * rows).abs().max().item())
    return worst
