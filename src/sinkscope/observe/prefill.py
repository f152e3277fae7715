"""Whether a text is read whole or in pieces, and how long these are: chosen, checked and said.

A text of more than WHOLE tokens goes through in pieces (`observe.pieces`) where the model keeps its
keys and values in transformers' cache, and a few tokens of these prompts read alike both ways.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from sinkscope.errors import first_line
from sinkscope.observe.attention import observe, uses_registry
from sinkscope.observe.reads import AttentionRead, Want
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts

WHOLE = 8192  # tokens up to which a text goes through in one piece
PIECE = 2048  # tokens of a piece; fewer where its mask or map would be larger than HELD
HELD = 1 << 28  # entries of a mask or a map
LEAST = 64
PILOT, PILOT_PIECE = 48, 20  # tokens on which both ways are compared; no multiple of the other
# Windows are narrowed to so many tokens meanwhile, so that these leave them behind.
WINDOWS, NARROW = ("sliding_window", "attention_chunk_size"), 16
# Difference of P0's column, and of entropies as parts of the largest that there is: the largest; in
# half precision, where pieces are rounded otherwise and a token may be routed to other experts for
# it, the mean over the tokens of a head.
LARGEST, MEAN = 1e-4, 1e-2


@dataclass(frozen=True)
class Prefill:
    """How prompts go through a model: `size` tokens at a time, None for all; and what is said."""

    size: int | None = None
    note: str = ""


def prefill_of(subject: Subject, prompts: Prompts, reader: str = "auto") -> Prefill:
    """Choose for these prompts, by their length T and what the model lends itself to."""
    length = prompts.length
    if length <= WHOLE:
        return Prefill()
    reason, maps = _why_whole(subject, prompts), True
    if not reason:
        reason, maps = _compared(subject, prompts, reader)
    if reason:
        return Prefill(None, f"Texts of {length:,} tokens went through the model whole: {reason}.")
    heads = (subject.anatomy.query_heads or 1) if maps else 1
    size = PIECE
    while size > LEAST and size * length * heads > HELD:
        size //= 2
    return Prefill(
        size,
        f"Texts of {length:,} tokens went through the model in pieces of {size:,}, each on the "
        "cached keys and values of all before it; every number is of the whole text.",
    )


def _why_whole(subject: Subject, prompts: Prompts) -> str:
    """Why pieces cannot be right for this kind of model or prompts; empty where they may be."""
    types = {block.layer_type for block in subject.anatomy.blocks}
    if prompts.position_ids is not None:
        return "packed rows are told apart by positions, which a cache does not keep"
    if not uses_registry(subject.model):
        return f"the attention of {subject.anatomy.model_type} is read from its own maps"
    if types & {"linear", "none", "sparse"}:
        return "some of its blocks keep another state than keys and values"
    if any(parameter.is_meta for parameter in subject.model.parameters()):
        return "its blocks lie on disk, and would be read once for each piece"
    return ""


def _compared(subject: Subject, prompts: Prompts, reader: str) -> tuple[str, bool]:
    """Read a few tokens both ways: why pieces are wrong, or nothing; and whether maps are formed.

    The last tokens, so that padding on the left does not fill the rows.
    """
    few = _last(prompts.take(slice(0, 2)))
    want = Want(received=False, entropy=True)  # which every token has, also where P0 is not seen
    with _narrow(subject.model.config.get_text_config(decoder=True)):
        whole, layout, _ = observe(subject, few, want, reader)
        try:
            parts, _, _ = observe(subject, few, want, reader, size=PILOT_PIECE)
        except Exception as error:  # noqa: BLE001 - a family may fail in any way; the reason is said
            return f"in pieces a few tokens ended in an error ({first_line(error)[:-1]})", True
    if [read.block for read in whole] != [read.block for read in parts]:
        return "in pieces other blocks attended", True
    half = subject.dtype.itemsize < 4
    pairs = zip(whole, parts, strict=True)
    differences = [d for a, b in pairs for d in _differences(a, b, layout.valid, half)]
    if wrong := [d for d in differences if not d <= (MEAN if half else LARGEST)]:  # also NaN
        return f"in pieces the attention of a few tokens differed by {max(wrong):.1g}", True
    return "", any(read.reader == "exact" for read in parts)


@contextmanager
def _narrow(config: Any) -> Iterator[None]:
    """Windows of NARROW tokens for the time being: a few tokens would never leave those of a model.

    transformers makes masks and caches from the configuration at every call.
    """
    own = {name: getattr(config, name, None) for name in WINDOWS}
    wide = [name for name, size in own.items() if isinstance(size, int) and size > NARROW]
    try:
        for name in wide:
            setattr(config, name, NARROW)
        yield
    finally:
        for name in wide:
            setattr(config, name, own[name])


def _last(prompts: Prompts) -> Prompts:
    """The last PILOT tokens of each row's real ones."""
    if prompts.attention_mask is None:
        return prompts.first_tokens(PILOT)
    kept = prompts.attention_mask[:, -PILOT:]
    ids = prompts.input_ids[:, -PILOT:]
    return dataclasses.replace(
        prompts, input_ids=ids, attention_mask=kept, lengths=kept.sum(1), documents=None
    )


def _differences(
    a: AttentionRead, b: AttentionRead, valid: torch.Tensor, mean: bool
) -> Iterator[float]:
    """Largest difference over real tokens, or over heads in its mean over those: P0, entropy."""
    for one, other, most in ((a.p0, b.p0, 1.0), (a.entropy, b.entropy, math.log(PILOT))):
        if one is None or other is None:  # only where it was not asked for
            continue
        counted = valid.unsqueeze(1).to(one.device)
        found = (one - other).abs().masked_fill(~counted, 0) / most
        yield (found.sum((0, 2)) / counted.sum() if mean else found).max().item()
