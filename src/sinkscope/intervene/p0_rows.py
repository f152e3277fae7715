"""Hooks of many lists of edits on one batch, each called on its own rows only.

An edit asks its context for a block and puts hooks on it. Here the block it is given notes them
down; one real hook for each module then calls them all, each on the rows of its list. A row is P0
alone; what the edit sees beside it, as position 1, stands for all others (`p0_others`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sinkscope.intervene.edits.base import Context, Edit
from sinkscope.intervene.p0_others import IN, OUT, OtherPositions
from sinkscope.observe.stream import first_hidden, hidden_of, put_hidden, with_hidden
from sinkscope.subject.prompts import Prompts


@dataclass
class Span:
    """The rows of one list of edits, and the prompts they stand for."""

    rows: slice
    prompts: list[int]
    apart: bool


class RowsContext(Context):
    """The context of one list: its rows, each with a stand-in for the others as position 1."""

    edit: Edit
    span: Span
    noted: Noted

    @classmethod
    def of(cls, subject, sites, first: torch.Tensor, span: Span, direction, noted: Noted):
        """The context of the rows of `span`: first [n] first tokens of all prompts."""
        ids = first[span.prompts].unsqueeze(1).expand(-1, 2)
        prompts = Prompts(ids, torch.full((len(ids),), 2), "ids", "without")
        context = cls(subject, prompts, sites, span.prompts, direction)
        context.span, context.noted = span, noted
        return context

    def block(self, index: int) -> Any:
        """A decoder block that notes hooks down instead of carrying them."""
        return _Noting(super().block(index), self)


class _Noting:
    """Stands for a module: gives what the module has, and notes hooks down."""

    def __init__(self, module: nn.Module, context: RowsContext) -> None:
        self._module, self._context = module, context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    def get_submodule(self, path: str) -> _Noting:
        return _Noting(self._module.get_submodule(path), self._context)

    def register_forward_pre_hook(self, hook: Callable, *, with_kwargs: bool = False) -> None:
        self._context.noted.add(self._module, IN, hook, with_kwargs, self._context)

    def register_forward_hook(self, hook: Callable, *, with_kwargs: bool = False) -> None:
        self._context.noted.add(self._module, OUT, hook, with_kwargs, self._context)


@dataclass
class _Note:
    """One hook of one edit, and the rows it acts on."""

    hook: Callable
    with_kwargs: bool
    edit: Edit
    context: RowsContext

    def widened(self, value: Any, rows: int, hidden: torch.Tensor, other: torch.Tensor | None):
        """An argument [rows, ..] cut to the own rows, with the stand-in as a second position."""
        if isinstance(value, (tuple, list)):
            return type(value)([self.widened(v, rows, hidden, other) for v in value])
        if not isinstance(value, torch.Tensor) or not value.dim() or value.shape[0] != rows:
            return value
        own = value[self.context.span.rows]
        second = own if other is None or value is not hidden else other.to(own).reshape(own.shape)
        if own.dim() > 2 and own.shape[1] == 1:
            return torch.cat([own, second], 1)
        return torch.stack([own, second], 1).flatten(0, 1)

    def put(self, into: torch.Tensor, new: torch.Tensor) -> None:
        """Write the first of the two positions in `new` back into the own rows of [rows, ..]."""
        own = into[self.context.span.rows]
        new = new.reshape(len(own), 2, *own.shape[1:] if own.dim() < 3 else own.shape[2:])[:, 0]
        into[self.context.span.rows] = new.reshape(own.shape).to(own)


class Noted:
    """All hooks that were noted down, one real hook for each module and side."""

    def __init__(self, others: OtherPositions, rows: int) -> None:
        self.others, self.rows = others, rows
        self._notes: dict[tuple[nn.Module, str], list[_Note]] = {}

    def add(
        self, module, side: str, hook: Callable, with_kwargs: bool, context: RowsContext
    ) -> None:
        """Note down a hook of the context's edit."""
        note = _Note(hook, with_kwargs, context.edit, context)
        self._notes.setdefault((module, side), []).append(note)

    def hooks(self) -> list[Any]:
        """Put them on the model."""
        handles = []
        for (module, side), notes in self._notes.items():
            if side == IN:
                hook = self._entering(notes)
                handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
            else:
                hook = self._leaving(notes)
                handles.append(module.register_forward_hook(hook, with_kwargs=True))
        return handles

    def _stand_in(self, note: _Note, site: tuple[int, str]) -> torch.Tensor | None:
        context = note.context
        return self.others.stand_in(note.edit, site, context.rows, context)

    def _entering(self, notes: list[_Note]) -> Callable:
        def hook(module, args, kwargs):
            new = first_hidden(args, kwargs).clone()
            args, kwargs = put_hidden(args, kwargs, new)
            for note in notes:
                other = self._stand_in(note, (id(module), IN))
                a = note.widened(args, self.rows, new, other)
                k = {n: note.widened(v, self.rows, new, other) for n, v in kwargs.items()}
                given = note.hook(module, a, k) if note.with_kwargs else note.hook(module, a)
                if given is not None:
                    note.put(new, first_hidden(*(given if note.with_kwargs else (given, k))))
            return args, kwargs

        return hook

    def _leaving(self, notes: list[_Note]) -> Callable:
        def hook(module, args, kwargs, output):
            new = hidden_of(output).clone()
            output = with_hidden(output, new)
            given_in = first_hidden(args, kwargs)
            for note in notes:
                other = self._stand_in(note, (id(module), OUT))
                wide = note.widened(new, self.rows, new, other)
                out = with_hidden(output, wide)
                a = note.widened(args, self.rows, given_in, None)
                if note.with_kwargs:
                    k = {n: note.widened(v, self.rows, given_in, None) for n, v in kwargs.items()}
                    result = note.hook(module, a, k, out)
                else:
                    result = note.hook(module, a, out)
                if result is not None:
                    note.put(new, hidden_of(result))
            return output

        return hook
