"""What a model and its tokenizer say of tokens: vocabulary, text of a token, BOS policy."""

from __future__ import annotations

from typing import Any

from sinkscope.errors import InputError
from sinkscope.files import storable
from sinkscope.settings import BOS_POLICIES
from sinkscope.subject.load import Subject


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
    if bos not in BOS_POLICIES:
        raise InputError(f"BOS policy {bos!r} is not one of {', '.join(BOS_POLICIES)}.")
    return "without"


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
    """Text of one token, fit to be stored; its id where there is no tokenizer."""
    if tokenizer is None:
        return str(token)
    return storable(tokenizer.decode([token]))


def vocabulary(subject: Subject) -> int:
    """Rows of the input embedding: ids at or above this cannot be looked up."""
    return subject.model.get_input_embeddings().weight.shape[0]


def starts_with_bos(subject: Subject, rows: list[list[int]]) -> bool:
    """Whether every row of ids begins with the tokenizer's BOS token."""
    tokenizer = subject.tokenizer
    found = tokenizer.bos_token_id if tokenizer is not None else None
    return found is not None and bool(rows) and all(row[:1] == [found] for row in rows)
