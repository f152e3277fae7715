"""What begins a sequence: BOS as the tokenizer puts it, as the text brings it, as it is asked for.

"With BOS" means with the tokens that the tokenizer puts before a text by itself (BOS alone for
most, `[gMASK]<sop>` for some), or, where it puts none, with the token that it or the configuration
names.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sinkscope.errors import InputError
from sinkscope.settings import ONE_POLICY
from sinkscope.subject.load import Subject
from sinkscope.subject.tokens import token_text, vocabulary

MOST_TRIED = 256  # tokens of which one should be a letter
Ids = TypeVar("Ids", list[int], "array[int]")


@dataclass(frozen=True)
class Opening:
    """The tokens that begin a sequence with BOS.

    ids        what is put first; empty where neither tokenizer nor configuration knows of any
    text       those tokens as text
    by_itself  whether the tokenizer puts them there unasked
    named      whether the tokenizer names them at all; else only the configuration does
    """

    ids: tuple[int, ...]
    text: str
    by_itself: bool
    named: bool

    def policy(self, asked: str, brought: bool) -> str:
        """What happens under a policy: "with" or "without".

        as-is is "with" where the tokenizer puts BOS first, or where every document brings its own
        (`brought`). Raises InputError for a policy there is not, or where there is no BOS to put.
        """
        if asked not in ONE_POLICY:
            raise InputError(f"BOS policy {asked!r} is not one of {', '.join(ONE_POLICY)}.")
        if asked == "with" and not self.ids:
            raise InputError(
                "this model has no BOS token in its vocabulary; use --bos without or --bos as-is."
            )
        if asked == "as-is":
            return "with" if self.by_itself or (brought and self.ids) else "without"
        return asked

    def begins(self, row: Sequence[int]) -> bool:
        """Whether a row of ids begins with BOS."""
        return bool(self.ids and len(row)) and row[0] == self.ids[0]

    def without(self, row: Ids) -> Ids:
        """The row behind every BOS that it begins with."""
        while self.begins(row):
            whole = tuple(row[: len(self.ids)]) == self.ids
            row = row[len(self.ids) if whole else 1 :]
        return row

    def notes(self, policy: str) -> list[str]:
        """What must be said of rows with these tokens first."""
        if policy == "without" or not self.ids:
            return []
        if not self.named:
            return [
                f"The tokenizer names no BOS token and never puts one first; {self.text}, which "
                "the configuration names, was put at position zero because it was asked for."
            ]
        if len(self.ids) > 1:
            return [f"With BOS means with {self.text} here, which the tokenizer puts first."]
        return []


def opening_of(subject: Subject) -> Opening:
    """What the tokenizer of a subject puts first, or else the BOS token that is named."""
    tokenizer = subject.tokenizer
    ids = _put_first(tokenizer) if tokenizer is not None else ()
    by_itself = bool(ids)
    if not ids and tokenizer is not None and tokenizer.bos_token_id is not None:
        ids = (int(tokenizer.bos_token_id),)
    named = bool(ids)
    if not ids:
        ids = _configured(subject)
    if any(token >= vocabulary(subject) for token in ids):
        ids, by_itself = (), False
    text = " ".join(repr(token_text(tokenizer, token)) for token in ids)
    return Opening(ids, text, by_itself, named or tokenizer is None)


def _put_first(tokenizer: Any) -> tuple[int, ...]:
    """The special tokens that a tokenizer puts before a text by itself."""
    sample, plain = _sample(tokenizer)
    whole = tokenizer(sample, add_special_tokens=True)["input_ids"]
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return tuple(whole[:start])
    return ()


def _sample(tokenizer: Any) -> tuple[str, list[int]]:
    """A text that the tokenizer makes tokens of, and these; one of other letters leaves "a" out."""
    texts = (tokenizer.decode([i], skip_special_tokens=True) for i in range(len(tokenizer)))
    for text in itertools.chain("a", itertools.islice(texts, MOST_TRIED)):
        if ids := tokenizer(text, add_special_tokens=False)["input_ids"]:
            return text, ids
    return "a", []


def _configured(subject: Subject) -> tuple[int, ...]:
    """The BOS token that the configuration names."""
    found = getattr(subject.model.config.get_text_config(decoder=True), "bos_token_id", None)
    if isinstance(found, list):
        found = found[0] if found else None
    return () if found is None else (int(found),)


def resolve_bos(subject: Subject, bos: str) -> str:
    """What happens under a policy, for prompts that bring no BOS of their own."""
    return opening_of(subject).policy(bos, False)


def bos_id(subject: Subject) -> int:
    """The id of the token that stands at position zero with BOS; InputError where there is none."""
    opening = opening_of(subject)
    opening.policy("with", False)
    return opening.ids[0]
