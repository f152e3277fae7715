"""Prompts: which tokens are looked at, with what at position zero.

A `Prompts` is a right-padded batch of token ids. Right padding needs no attention mask under a
causal model (padding comes after everything it could disturb), so the fast kernels stay usable.
Left-padded or packed input can be built by hand with `attention_mask` or `position_ids`.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from sinkscope.errors import InputError
from sinkscope.settings import BUILTIN, PromptSettings, part_of
from sinkscope.subject.documents import read_documents
from sinkscope.subject.load import Subject
from sinkscope.subject.tokens import (
    bos_id,
    resolve_bos,
    starts_with_bos,
    token_text,
    vocabulary,
)

TOKENS_PER_BATCH = 8192
KINDS = ("text", "random", "repeat", "ids")


@dataclass
class Prompts:
    """Token ids and what is known about them.

    input_ids       [n, T] int64
    lengths         [n] true lengths, for right padding
    kind            text, random, repeat or ids
    bos             with or without: what position zero holds, after the policy was applied
    attention_mask  [n, T] only for left padding; None otherwise
    position_ids    [n, T] only for packed rows; None otherwise
    source          where the text came from
    """

    input_ids: torch.Tensor
    lengths: torch.Tensor
    kind: str
    bos: str
    attention_mask: torch.Tensor | None = None
    position_ids: torch.Tensor | None = None
    source: str = ""
    position_zero: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return self.input_ids.shape[0]

    @property
    def length(self) -> int:
        """Padded length T."""
        return self.input_ids.shape[1]

    @property
    def sha256(self) -> str:
        """Hash of ids, lengths, mask and positions."""
        digest = hashlib.sha256()
        for tensor in (self.input_ids, self.lengths, self.attention_mask, self.position_ids):
            if tensor is not None:
                digest.update(tensor.to(torch.int64).cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def batches(self, rows: int | None = None) -> Iterator[Prompts]:
        """Consecutive slices of at most `rows` rows; by default about 8,192 tokens each."""
        rows = rows or max(1, TOKENS_PER_BATCH // self.length)
        for start in range(0, len(self), rows):
            yield self.take(slice(start, start + rows))

    def first_tokens(self, count: int) -> Prompts:
        """The same rows cut after `count` tokens (right-padded prompts only)."""
        return Prompts(
            self.input_ids[:, :count],
            self.lengths.clamp_max(count),
            self.kind,
            self.bos,
            source=self.source,
            position_zero=self.position_zero,
        )

    def take(self, rows: slice | torch.Tensor) -> Prompts:
        """The given rows as a Prompts of their own."""

        def cut(tensor: torch.Tensor | None) -> torch.Tensor | None:
            return None if tensor is None else tensor[rows]

        return Prompts(
            self.input_ids[rows],
            self.lengths[rows],
            self.kind,
            self.bos,
            attention_mask=cut(self.attention_mask),
            position_ids=cut(self.position_ids),
            source=self.source,
            position_zero=self.position_zero,
        )


def build_prompts(
    subject: Subject,
    *,
    text: str = BUILTIN,
    kind: str = "text",
    n: int = 64,
    length: int = 256,
    bos: str = "as-is",
    seed: int = 0,
    ids: list[list[int]] | None = None,
) -> Prompts:
    """Build prompts of `n` rows of at most `length` tokens.

    kind   text: windows of a text; random: uniform token ids; repeat: one random token per row,
           repeated; ids: the given `ids`
    text   "builtin" (public-domain novels), a .txt or .jsonl file (field "text"), or
           "hub:NAME" for a Hub data set
    bos    as-is: what the tokenizer does by itself; with: a BOS token is put first; without: not
    Raises InputError for empty text, ids outside the vocabulary, or a length over the model's.
    """
    if kind not in KINDS:
        raise InputError(f"prompt kind {kind!r} is not one of {', '.join(KINDS)}.")
    if n < 1 or length < 2:
        raise InputError("at least one prompt of at least two tokens is needed.")
    _check_length(subject, length)
    generator = torch.Generator().manual_seed(seed)
    policy = resolve_bos(subject, bos)
    body = length - 1 if policy == "with" else length
    source = ""
    if kind == "ids":
        rows = [list(map(int, row))[:length] for row in ids or []]
        policy = "with" if starts_with_bos(subject, rows) else "without"
    elif kind == "text":
        documents, source = read_documents(text)
        rows = text_windows(subject, documents, n, body, generator)
    else:
        rows = _synthetic(subject, kind, n, body, generator)
    if policy == "with" and kind != "ids":
        rows = [[bos_id(subject), *row] for row in rows]
    return from_rows(subject, rows, kind, policy, source)


def prompts_of(subject: Subject, settings: PromptSettings) -> list[Prompts]:
    """The prompts that settings describe, one for each BOS policy: two for `both`, else one."""
    policies = ("without", "with") if settings.bos == "both" else (settings.bos,)
    asked = dataclasses.asdict(part_of(settings, PromptSettings))
    return [build_prompts(subject, **{**asked, "bos": policy}) for policy in policies]


def from_rows(
    subject: Subject, rows: list[list[int]], kind: str, bos: str, source: str = ""
) -> Prompts:
    """Right-pad rows of token ids into a Prompts. Raises InputError for unusable ids."""
    rows = [row for row in rows if len(row) >= 2]
    if not rows:
        raise InputError("the prompts are empty: no row of at least two tokens was found.")
    lengths = torch.tensor([len(row) for row in rows])
    _check_length(subject, int(lengths.max()))
    input_ids = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)
    for i, row in enumerate(rows):
        input_ids[i, : len(row)] = torch.tensor(row)
    limit = vocabulary(subject)
    if int(input_ids.max()) >= limit or int(input_ids.min()) < 0:
        raise InputError(
            f"token id {int(input_ids.max())} lies outside the model's vocabulary of {limit}: "
            "the tokenizer and the model do not belong together."
        )
    return Prompts(
        input_ids,
        lengths,
        kind,
        bos,
        source=source,
        position_zero=_name_position_zero(subject, input_ids[:, 0]),
    )


def text_windows(
    subject: Subject, documents: list[str], n: int, body: int, generator: torch.Generator
) -> list[list[int]]:
    """Windows of `body` tokens, spread evenly over the documents, so that first tokens vary.

    Where the text has fewer than `n` whole windows, every window there is is used once; a text
    shorter than one window gives one shorter row per document.
    """
    if subject.tokenizer is None:
        raise InputError("this model folder has no tokenizer; use --prompts random or repeat.")
    streams = [
        subject.tokenizer(document, add_special_tokens=False, verbose=False)["input_ids"]
        for document in documents
    ]
    whole = [
        (s, start)
        for s, stream in enumerate(streams)
        for start in range(0, len(stream) - body + 1, body)
    ]
    if not whole:
        return [stream[:body] for stream in streams if stream][:n]
    order = torch.randperm(len(whole), generator=generator)[:n].tolist()
    return [streams[s][start : start + body] for s, start in (whole[i] for i in order)]


def _synthetic(
    subject: Subject, kind: str, n: int, body: int, generator: torch.Generator
) -> list[list[int]]:
    size = vocabulary(subject)
    if subject.tokenizer is not None:
        size = min(size, len(subject.tokenizer))
    if kind == "random":
        return torch.randint(size, (n, body), generator=generator).tolist()
    return torch.randint(size, (n, 1), generator=generator).expand(n, body).tolist()


def _check_length(subject: Subject, length: int) -> None:
    limit = subject.max_length
    if limit is not None and length > limit:
        raise InputError(
            f"length {length} is beyond this model's maximum of {limit}; "
            f"use --length {limit} or less."
        )


def _name_position_zero(subject: Subject, first: torch.Tensor) -> list[str]:
    """What sits at position zero, most frequent first, at most eight entries."""
    ids, counts = first.unique(return_counts=True)
    top = counts.argsort(descending=True, stable=True)[:8].tolist()
    return [f"{token_text(subject.tokenizer, int(ids[i]))!r} × {int(counts[i])}" for i in top]
