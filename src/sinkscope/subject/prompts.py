"""Prompts: which tokens are looked at, with what at position zero.

A `Prompts` is a right-padded batch of token ids. Right padding needs no attention mask under a
causal model (padding comes after everything it could disturb), so the fast kernels stay usable.
Left-padded or packed input can be built by hand with `attention_mask` or `position_ids`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sinkscope.errors import InputError
from sinkscope.subject.load import Subject

BUILTIN = "builtin"
TOKENS_PER_BATCH = 8192
KINDS = ("text", "random", "repeat", "ids")
BOS_POLICIES = ("as-is", "with", "without", "both")


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

    def take(self, rows: slice) -> Prompts:
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
        policy = "with" if _starts_with_bos(rows, subject) else "without"
    elif kind == "text":
        documents, source = read_documents(text)
        rows = text_windows(subject, documents, n, body, generator)
    else:
        rows = _synthetic(subject, kind, n, body, generator)
    if policy == "with" and kind != "ids":
        rows = [[bos_id(subject), *row] for row in rows]
    return from_rows(subject, rows, kind, policy, source)


@dataclass(frozen=True)
class PromptSettings:
    """Which prompts a command looks at; its own settings are added to these.

    text, kind, n, length, bos, seed  see `build_prompts`; bos may be "both"

    Raises InputError for a BOS policy that there is not.
    """

    text: str = BUILTIN
    kind: str = "text"
    n: int = 64
    length: int = 256
    bos: str = "as-is"
    seed: int = 0

    def __post_init__(self) -> None:
        _check_bos(self.bos)

    def build(self, subject: Subject) -> list[Prompts]:
        """Prompts for each BOS policy asked for: two sets for `both`, else one."""
        policies = ("without", "with") if self.bos == "both" else (self.bos,)
        return [
            build_prompts(
                subject,
                text=self.text,
                kind=self.kind,
                n=self.n,
                length=self.length,
                bos=policy,
                seed=self.seed,
            )
            for policy in policies
        ]


def resolve_bos(subject: Subject, bos: str) -> str:
    """Turn a policy into what happens: "with" or "without".

    as-is asks the tokenizer whether it puts BOS first by itself.
    """
    if bos == "as-is":
        tokenizer = subject.tokenizer
        if tokenizer is None or tokenizer.bos_token_id is None:
            return "without"
        encoded = tokenizer("a", add_special_tokens=True)["input_ids"]
        return "with" if encoded and encoded[0] == tokenizer.bos_token_id else "without"
    if bos == "with":
        bos_id(subject)
        return "with"
    _check_bos(bos)
    return "without"


def _check_bos(bos: str) -> None:
    if bos not in BOS_POLICIES:
        raise InputError(f"BOS policy {bos!r} is not one of {', '.join(BOS_POLICIES)}.")


def bos_id(subject: Subject) -> int:
    """The id of the BOS token; InputError where the model defines none."""
    tokenizer = subject.tokenizer
    found = tokenizer.bos_token_id if tokenizer is not None else None
    if found is None:
        found = getattr(subject.model.config.get_text_config(decoder=True), "bos_token_id", None)
    if isinstance(found, list):
        found = found[0] if found else None
    if found is None or found >= vocabulary(subject):
        raise InputError("this model has no BOS token; use --bos without or --bos as-is.")
    return int(found)


def token_text(tokenizer: Any, token: int) -> str:
    """Text of one token, fit to be stored as UTF-8; its id where there is no tokenizer."""
    if tokenizer is None:
        return str(token)
    return tokenizer.decode([token]).encode("utf-8", "replace").decode("utf-8")


def vocabulary(subject: Subject) -> int:
    """Rows of the input embedding: ids at or above this cannot be looked up."""
    return subject.model.get_input_embeddings().weight.shape[0]


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


def read_documents(text: str) -> tuple[list[str], str]:
    """Read documents from "builtin", a .txt or .jsonl file, or "hub:NAME"."""
    if text == BUILTIN:
        file = Path(__file__).resolve().parent.parent / "assets" / "excerpt.txt"
        return _nonempty(file.read_text(encoding="utf-8").split("\f"), "the excerpt"), BUILTIN
    if text.startswith("hub:"):
        return _nonempty(list(_hub_documents(text[4:])), text), text
    path = Path(text).expanduser()
    if not path.is_file():
        raise InputError(f"No such text file: {text}.")
    try:
        content = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{text} is not UTF-8 text.") from None
    if path.suffix == ".jsonl":
        documents = [
            _text_of(line, text, i)
            for i, line in enumerate(content.splitlines(), 1)
            if line.strip()
        ]
    else:
        documents = content.split("\f")
    return _nonempty(documents, text), path.name


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


def _starts_with_bos(rows: list[list[int]], subject: Subject) -> bool:
    tokenizer = subject.tokenizer
    found = tokenizer.bos_token_id if tokenizer is not None else None
    return found is not None and bool(rows) and all(row[:1] == [found] for row in rows)


def _name_position_zero(subject: Subject, first: torch.Tensor) -> list[str]:
    """What sits at position zero, most frequent first, at most eight entries."""
    ids, counts = first.unique(return_counts=True)
    top = counts.argsort(descending=True, stable=True)[:8].tolist()
    return [f"{token_text(subject.tokenizer, int(ids[i]))!r} × {int(counts[i])}" for i in top]


def _text_of(line: str, source: str, number: int) -> str:
    try:
        entry: Any = json.loads(line)
    except ValueError:
        raise InputError(f"{source}, line {number}, is not JSON.") from None
    if isinstance(entry, dict) and isinstance(entry.get("text"), str):
        return entry["text"]
    raise InputError(f'{source}, line {number}, has no "text" field.')


def _hub_documents(name: str) -> Iterator[str]:
    try:
        from datasets import load_dataset
    except ImportError:
        raise InputError(
            "Hub data sets need the extra: pip install 'sinkscope[datasets]'."
        ) from None
    try:
        stream = load_dataset(name, split="train", streaming=True)
        for row, _ in zip(stream, range(1000), strict=False):
            yield row["text"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"Hub data set {name!r} cannot be read ({error}).") from None


def _nonempty(documents: list[str], source: str) -> list[str]:
    kept = [document for document in documents if document.strip()]
    if not kept:
        raise InputError(f"{source} is empty: there is no text to look at.")
    return kept
