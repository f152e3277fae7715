"""What a model and its tokenizer say of tokens: vocabulary, text of a token."""

from __future__ import annotations

from typing import Any

from sinkscope.files import storable
from sinkscope.subject.load import Subject


def token_text(tokenizer: Any, token: int) -> str:
    """Text of one token, fit to be stored; its id where there is no tokenizer."""
    if tokenizer is None:
        return str(token)
    return storable(tokenizer.decode([token]))


def vocabulary(subject: Subject) -> int:
    """Rows of the input embedding: ids at or above this cannot be looked up."""
    return subject.model.get_input_embeddings().weight.shape[0]


def usable_vocabulary(subject: Subject) -> int:
    """Ids that a tokenizer can give: padding rows of the embedding are left out."""
    size = vocabulary(subject)
    return size if subject.tokenizer is None else min(size, len(subject.tokenizer))
