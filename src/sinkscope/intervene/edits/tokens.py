"""Edits that change which tokens stand where: one replaced, dropped, put in or repeated.

What a query is asked to predict moves along, so cross-entropy is of the new sequence, and the KL
from the intact logits compares other text positions than before: it says nothing here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from sinkscope.errors import InputError
from sinkscope.intervene.edits.base import Context, Edit
from sinkscope.subject.tokens import vocabulary


@dataclass(frozen=True)
class TokenAt(Edit):
    """Put a token at a position: one for all prompts, or one for each of them (in their order)."""

    position: int
    token: int | tuple[int, ...]
    order = 0

    def __str__(self) -> str:
        what = f"token {self.token}" if isinstance(self.token, int) else "other tokens"
        return f"{what} at position {self.position}"

    def inputs(self, context: Context, inputs: dict[str, Any]) -> dict[str, Any]:
        """Replace the ids."""
        context.check(self.position)
        tokens = _of_rows(self.token, context)
        ids = inputs["input_ids"].clone()
        ids[:, self.position] = torch.tensor(tokens, device=ids.device)
        return {**inputs, "input_ids": ids}


@dataclass(frozen=True)
class DropToken(Edit):
    """Take the token of `position` out; what follows moves up and the last token is doubled."""

    position: int = 0
    order = 0

    def __str__(self) -> str:
        return f"drop the token at position {self.position}"

    def inputs(self, context: Context, inputs: dict[str, Any]) -> dict[str, Any]:
        """Move the ids behind `position` one to the left."""
        context.check(self.position)
        ids = inputs["input_ids"].clone()
        ids[:, self.position : -1] = inputs["input_ids"][:, self.position + 1 :]
        return {**inputs, "input_ids": ids}


@dataclass(frozen=True)
class InsertToken(Edit):
    """Put `token` before what stands at `position`; what follows moves back, the last falls out."""

    token: int
    position: int = 0
    order = 0

    def __str__(self) -> str:
        return f"token {self.token} put in at position {self.position}"

    def inputs(self, context: Context, inputs: dict[str, Any]) -> dict[str, Any]:
        """Move the ids from `position` on one to the right."""
        context.check(self.position)
        _check(context, [self.token])
        ids = inputs["input_ids"].clone()
        ids[:, self.position + 1 :] = inputs["input_ids"][:, self.position : -1]
        ids[:, self.position] = self.token
        return {**inputs, "input_ids": ids}


@dataclass(frozen=True)
class RepeatToken(Edit):
    """One token from position `start` to the end: one for all prompts, or one for each of them."""

    token: int | tuple[int, ...]
    start: int = 0
    order = 0

    def __str__(self) -> str:
        what = f"token {self.token}" if isinstance(self.token, int) else "one random token"
        return f"{what} repeated from position {self.start} on"

    def inputs(self, context: Context, inputs: dict[str, Any]) -> dict[str, Any]:
        """Replace the ids."""
        context.check(self.start)
        tokens = _of_rows(self.token, context)
        ids = inputs["input_ids"].clone()
        ids[:, self.start :] = torch.tensor(tokens, device=ids.device).unsqueeze(1)
        return {**inputs, "input_ids": ids}


@dataclass(frozen=True)
class RandomTokens(Edit):
    """Random tokens out of `tokens` at every position, drawn by `seed` for each prompt."""

    tokens: tuple[int, ...]
    seed: int = 0
    order = 0

    def __str__(self) -> str:
        return "random tokens at every position"

    def inputs(self, context: Context, inputs: dict[str, Any]) -> dict[str, Any]:
        """Replace the ids."""
        _check(context, list(self.tokens))
        pool = torch.tensor(self.tokens)
        length = inputs["input_ids"].shape[1:]
        drawn = [
            pool[torch.randint(len(pool), length, generator=generator)]
            for generator in context.generators(self.seed)
        ]
        return {**inputs, "input_ids": torch.stack(drawn).to(inputs["input_ids"].device)}


def _of_rows(token: int | tuple[int, ...], context: Context) -> list[int]:
    """The token of each prompt in the batch."""
    if isinstance(token, int):
        tokens = [token] * len(context.rows)
    else:
        if max(context.rows) >= len(token):
            raise InputError(f"{len(token)} tokens were given for more prompts.")
        tokens = [token[row] for row in context.rows]
    _check(context, tokens)
    return tokens


def _check(context: Context, tokens: list[int]) -> None:
    if not all(0 <= token < vocabulary(context.subject) for token in tokens):
        raise InputError("a token id lies outside the model's vocabulary.")
