"""Prompts: which tokens are looked at, with what at position zero.

A `Prompts` is a right-padded batch of token ids. Right padding needs no attention mask under a
causal model (padding comes after everything it could disturb), so the fast kernels stay usable.
Left-padded or packed input can be built by hand with `attention_mask` or `position_ids`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import operator
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from sinkscope.errors import InputError
from sinkscope.settings import BUILTIN, PromptSettings, part_of
from sinkscope.subject.documents import chat_renderer, read_chats, read_documents
from sinkscope.subject.fitting import check_length, check_memory, larger_tokenizer, refuse_unfit
from sinkscope.subject.load import Subject
from sinkscope.subject.opening import Opening, opening_of
from sinkscope.subject.tokens import token_text, usable_vocabulary
from sinkscope.subject.windows import Rows, text_rows

TOKENS_PER_BATCH = 8192
KINDS = ("text", "random", "repeat", "ids")
LATE_QUERIES = 12  # as many as one prompt has that is just long enough to verify on
SHOWN = 3  # positions whose tokens are told: what a tokenizer or a template puts first


@dataclass(repr=False)
class Prompts:
    """Token ids and what is known about them.

    input_ids       [n, T] int64
    lengths         [n] true lengths, for right padding
    kind            text, random, repeat or ids
    bos             with or without: what position zero holds, after the policy was applied
    attention_mask  [n, T] only for left padding; None otherwise
    position_ids    [n, T] only for packed rows; None otherwise
    source          where the text came from
    positions       what stands at positions 0, 1, 2, most frequent first, such as "'<s>' × 64"
    notes           what must be known of these prompts: what was left out, or is not as asked
    documents       [n] number of the document that each row was cut from; None where rows are apart
    """

    input_ids: torch.Tensor
    lengths: torch.Tensor
    kind: str
    bos: str
    attention_mask: torch.Tensor | None = None
    position_ids: torch.Tensor | None = None
    source: str = ""
    positions: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    documents: torch.Tensor | None = None

    def __post_init__(self) -> None:
        """Raise InputError for parts that are not of one size."""
        rows, whole = tuple(self.input_ids.shape[:1]), tuple(self.input_ids.shape)
        due = {"lengths": rows, "documents": rows, "attention_mask": whole, "position_ids": whole}
        for name, shape in due.items():
            part = getattr(self, name)
            if part is not None and tuple(part.shape) != shape:
                raise InputError(
                    f"prompts: {name} is {list(part.shape)}, and input_ids {list(whole)}."
                )

    def __repr__(self) -> str:
        """How many of what length, of what kind, and the BOS policy."""
        rows, length = self.input_ids.shape
        return f"<sinkscope.Prompts: {rows} of {length} tokens, {self.kind}, {self.bos} BOS>"

    @property
    def position_zero(self) -> list[str]:
        """What stands at position zero."""
        return self.positions[0] if self.positions else []

    def __len__(self) -> int:
        return self.input_ids.shape[0]

    @property
    def length(self) -> int:
        """Padded length T."""
        return self.input_ids.shape[1]

    @property
    def right_padded(self) -> bool:
        """Whether each row is one text from its first place on: neither left-padded nor packed."""
        return self.attention_mask is None and self.position_ids is None

    @property
    def enough(self) -> bool:
        """Whether there are late queries enough to say that there is a sink, or none."""
        return int((self.lengths // 2).sum()) >= LATE_QUERIES

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
        lengths = self.lengths.clamp_max(count)
        return dataclasses.replace(
            self,
            input_ids=self.input_ids[:, :count],
            lengths=lengths,
            attention_mask=None,
            position_ids=None,
        )

    @property
    def units(self) -> np.ndarray | None:
        """[n] document of each row, where several rows come from one; None where they are apart."""
        if self.documents is None or len(self.documents.unique()) == len(self):
            return None
        return self.documents.numpy()

    def take(self, rows: slice | torch.Tensor) -> Prompts:
        """The given rows, a slice or indices or a mask [n], as a Prompts of their own."""

        def cut(tensor: torch.Tensor | None) -> torch.Tensor | None:
            return None if tensor is None else tensor[rows]

        return dataclasses.replace(
            self,
            input_ids=self.input_ids[rows],
            lengths=self.lengths[rows],
            attention_mask=cut(self.attention_mask),
            position_ids=cut(self.position_ids),
            documents=cut(self.documents),
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
    chat_template: bool = False,
    ids: list[list[int]] | None = None,
    by_turns: bool = False,
) -> Prompts:
    """Build prompts of `n` rows of at most `length` tokens.

    kind   text: windows of a text; random: uniform token ids; repeat: one random token per row,
           repeated; ids: the given `ids`
    text   "builtin" (public-domain novels), a .txt or .jsonl file (field "text", or "messages"
           with `chat_template`), or "hub:NAME" for a Hub data set
    bos    as-is: what the tokenizer does by itself, and what the text brings; with: BOS is put
           first; without: not. `Prompts.bos` says what is there
    by_turns  windows come from as many documents as there can be, not from any
    Raises InputError for empty text, ids outside the vocabulary, or a length over the model's.
    """
    if kind not in KINDS:
        raise InputError(f"prompt kind {kind!r} is not one of {', '.join(KINDS)}.")
    asked = PromptSettings(str(text), kind, n, length, bos, seed, chat_template)
    check_length(subject, asked.length)
    if chat_template and kind != "text":
        raise InputError(f"--chat-template renders chats of --text; prompts are {kind} here.")
    rows, source = _rows(subject, asked, ids, by_turns)
    prompts = from_rows(subject, rows.ids, kind, rows.bos, source)
    rows.notes += larger_tokenizer(subject)
    told = len(rows.documents) == len(prompts) > 0
    units = torch.tensor(rows.documents) if told else None
    return dataclasses.replace(prompts, notes=rows.notes, documents=units)


def _rows(
    subject: Subject, asked: PromptSettings, ids: list[list[int]] | None, by_turns: bool
) -> tuple[Rows, str]:
    """Rows of ids as they are asked for, and where their text comes from."""
    opening = opening_of(subject)
    generator = torch.Generator().manual_seed(asked.seed)
    if asked.kind == "ids":
        return _given(opening, [row[: asked.length] for row in _whole_numbers(ids)]), ""
    if asked.kind != "text":
        return _synthetic(subject, opening, asked, generator), ""
    if asked.chat_template:
        documents, source = read_chats(asked.text, chat_renderer(subject.tokenizer))
    else:
        documents, source = read_documents(asked.text)
    rows = text_rows(
        subject.tokenizer, opening, documents,
        n=asked.n, length=asked.length, bos=asked.bos, generator=generator, by_turns=by_turns,
    )  # fmt: skip
    return rows, source


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
    check_length(subject, int(lengths.max()))
    check_memory(subject, len(rows), int(lengths.max()))
    input_ids = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)
    for i, row in enumerate(rows):
        input_ids[i, : len(row)] = torch.tensor(row)
    prompts = Prompts(input_ids, lengths, kind, bos, source=source)
    refuse_unfit(subject, prompts.input_ids, prompts.position_ids)
    return with_positions(subject, prompts)


def _whole_numbers(ids: Any) -> list[list[int]]:
    """Rows of ids as lists. Raises InputError for what is none."""
    ids = ids.tolist() if hasattr(ids, "tolist") else ids or []
    try:
        return [[operator.index(token) for token in row] for row in ids]
    except TypeError:
        raise InputError("ids are rows of token ids: a list of lists of whole numbers.") from None


def with_positions(subject: Subject, prompts: Prompts) -> Prompts:
    """The prompts with the text of what stands at positions 0, 1, 2, counted from P0."""
    if prompts.positions:
        return prompts
    ids = prompts.input_ids
    start = torch.zeros(len(ids), dtype=torch.long)
    if prompts.attention_mask is not None:
        start = prompts.attention_mask.int().argmax(1)
    shown = min(SHOWN, int(prompts.lengths.min()))
    columns = [ids.gather(1, (start + i).unsqueeze(1)).flatten() for i in range(shown)]
    return dataclasses.replace(prompts, positions=[_named(subject, each) for each in columns])


def _given(opening: Opening, rows: list[list[int]]) -> Rows:
    """Rows of ids as they were given, under the name of what they hold."""
    begin = sum(opening.begins(row) for row in rows)
    if begin == len(rows):
        return Rows(rows, "with" if rows else "without")
    some = f"{begin} of {len(rows)} rows of ids begin with {opening.text}, the others do not."
    return Rows(rows, "without", [some] if begin else [])


def _synthetic(
    subject: Subject, opening: Opening, asked: PromptSettings, generator: torch.Generator
) -> Rows:
    """Rows of drawn ids; a draw that would put BOS first by chance is the next id instead."""
    policy = opening.policy(asked.bos, False)
    first = list(opening.ids) if policy == "with" else []
    size = usable_vocabulary(subject)
    body = asked.length - len(first)
    check_memory(subject, asked.n, asked.length)
    width = body if asked.kind == "random" else 1
    drawn = torch.randint(size, (asked.n, width), generator=generator)
    if opening.ids:
        drawn[:, 0] = torch.where(
            drawn[:, 0] == opening.ids[0], (drawn[:, 0] + 1) % size, drawn[:, 0]
        )
    rows = [first + row for row in drawn.expand(asked.n, body).tolist()]
    return Rows(rows, policy, opening.notes(policy))


def _named(subject: Subject, tokens: torch.Tensor) -> list[str]:
    """The text of tokens with their counts, most frequent first, at most eight entries."""
    ids, counts = tokens.unique(return_counts=True)
    top = counts.argsort(descending=True, stable=True)[:8].tolist()
    return [f"{token_text(subject.tokenizer, int(ids[i]))!r} × {int(counts[i])}" for i in top]
