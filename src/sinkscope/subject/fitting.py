"""Whether prompts fit a model: its positions, its vocabulary, and the memory there is."""

from __future__ import annotations

import torch

from sinkscope.errors import InputError
from sinkscope.subject.load import Subject
from sinkscope.subject.memory import refuse_long_rows
from sinkscope.subject.tokens import vocabulary


def refuse_unfit(subject: Subject, ids: torch.Tensor, positions: torch.Tensor | None) -> None:
    """Raise InputError for prompts [n, T] that the model has no tokens or no positions for."""
    check_length(subject, ids.shape[1] if positions is None else int(positions.max()) + 1)
    limit = vocabulary(subject)
    if int(ids.max()) >= limit or int(ids.min()) < 0:
        raise InputError(
            f"token id {int(ids.max())} lies outside the model's vocabulary of {limit}: "
            "the tokenizer and the model do not belong together."
        )


def check_length(subject: Subject, length: int, option: str = "length") -> None:
    """Raise InputError for more tokens than the model has positions; option: what asked for it."""
    limit = subject.max_length
    if limit is not None and length > limit:
        raise InputError(
            f"{option} {length} is beyond this model's maximum of {limit}; "
            f"use --{option} {limit} or less."
        )


def check_memory(subject: Subject, rows: int, length: int) -> None:
    """Raise TooLarge for rows that do not fit the memory there is."""
    if subject.device.type == "cpu":
        refuse_long_rows(rows, length, subject.anatomy.hidden_size, subject.dtype.itemsize)


def larger_tokenizer(subject: Subject) -> list[str]:
    """What is to be said where a tokenizer knows tokens that the model has no embedding for."""
    known = 0 if subject.tokenizer is None else len(subject.tokenizer)
    if known <= vocabulary(subject):
        return []
    return [
        f"The tokenizer knows {known:,} tokens and the model {vocabulary(subject):,}: it may be "
        "another model's."
    ]
