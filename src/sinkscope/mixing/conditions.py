"""Conditions: the model with its sink, with the sink taken away, and with a control instead.

A condition is a named list of edits (`sinkscope.intervene.edits`) with the name of its control.
Edits of what is read at a key leave the key's own stream, and so its norm, exactly as it was.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch

from sinkscope.errors import InputError, Unsupported
from sinkscope.intervene.edits import RemoveAttention, RemoveValue
from sinkscope.intervene.edits.base import Context, Edit
from sinkscope.intervene.edits.keys import Remove
from sinkscope.intervene.key_tap import KeyTap
from sinkscope.intervene.router import in_place
from sinkscope.observe.attention import call_model, uses_registry
from sinkscope.observe.reads import Want
from sinkscope.observe.registry import hooks
from sinkscope.observe.residual import residual_hooks
from sinkscope.observe.sites import Sites
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts


@dataclass(frozen=True)
class Condition:
    """How the model is run.

    name     key in results
    edits    what is in place in every pass
    control  name of the condition that it is held against, if there is one
    draws    in place of `edits`: several lists at random, each run by itself; `perturb` and `costs`
             give their average
    """

    name: str
    edits: tuple[Edit, ...] = ()
    control: str | None = None
    draws: tuple[tuple[Edit, ...], ...] = ()

    def __post_init__(self) -> None:
        if self.edits and self.draws:
            raise InputError(f"the draws of condition {self.name} are run one by one.")

    def each(self) -> list[Condition]:
        """What is run: the condition itself, or one condition for each of its draws."""
        if not self.draws:
            return [self]
        return [dataclasses.replace(self, edits=edits, draws=()) for edits in self.draws]

    @property
    def removals(self) -> list[Remove]:
        """The edits that take away attention on a key, or its value."""
        return [edit for edit in self.edits if isinstance(edit, Remove)]

    @property
    def at_p0(self) -> bool:
        """Whether what is removed, if anything, is P0's."""
        return all(edit.position == 0 for edit in self.removals)

    def removing(self, **changes) -> Condition:
        """The same condition with other fields of its removals: position, dose or heads."""
        edits = tuple(
            dataclasses.replace(edit, **changes) if isinstance(edit, Remove) else edit
            for edit in self.edits
        )
        return dataclasses.replace(self, edits=edits)

    def __str__(self) -> str:
        if self.draws:
            return f"average of {len(self.draws)} random draws, the first: {self.each()[0]}"
        return "; ".join(map(str, self.edits)) or "as it is"


OTHER_KEY, OTHER_VALUE = "other-key", "other-value"
INTACT = Condition("intact")
REDISTRIBUTED = Condition("redistributed", (RemoveAttention(),), control=OTHER_KEY)
VALUE_ZEROED = Condition("value-zeroed", (RemoveValue(),), control=OTHER_VALUE)


def other_key(keys: Sequence[int]) -> Condition:
    """The control of `redistributed`: the same at another key of each prompt."""
    return Condition(OTHER_KEY, REDISTRIBUTED.edits).removing(position=tuple(map(int, keys)))


def other_value(keys: Sequence[int]) -> Condition:
    """The control of `value-zeroed`: the same at another key of each prompt."""
    return Condition(OTHER_VALUE, VALUE_ZEROED.edits).removing(position=tuple(map(int, keys)))


def at_keys(condition: Condition, keys: Sequence[int]) -> Condition:
    """A condition that edits another key than P0, at these keys; others as they are."""
    return condition if condition.at_p0 else condition.removing(position=tuple(map(int, keys)))


def in_heads(condition: Condition, heads: tuple[tuple[int, int], ...]) -> Condition:
    """The same condition in some heads only; in all of them where none is named."""
    return condition.removing(heads=heads or None)


def check_subject(subject: Subject) -> None:
    """Raise Unsupported where attention, or the residual stream, is out of reach."""
    kind = subject.anatomy.model_type
    if not uses_registry(subject.model):
        raise Unsupported(
            f"{kind} does not use the attention registry, so its sink cannot be taken away there."
        )
    check_stream(subject)


def check_stream(subject: Subject) -> None:
    """Raise Unsupported where there is not one residual stream."""
    if subject.anatomy.several_streams:
        raise Unsupported(
            f"{subject.anatomy.model_type} has several residual streams, so mixing is not defined "
            "there."
        )


def run(
    subject: Subject,
    prompts: Prompts,
    condition: Condition = INTACT,
    *,
    consume: Callable[[int, torch.Tensor], None] | None = None,
    logits: bool = False,
    sites: Sites | None = None,
    rows: list[int] | None = None,
    own: bool = False,
) -> KeyTap:
    """One forward pass under a condition, with the tap that read it.

    consume  called as consume(point, hidden [B, T, d]) at every read point
    sites    where blocks write; edits of P0's stream need it
    rows     index of each row among all prompts
    own      go through the family's own attention (slow, and the reference)

    All hooks, registrations and configurations are restored after it, also on error.
    """
    context, tap = prepared(subject, prompts, condition, sites, rows, own)
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        inputs = stack.enter_context(in_place(context, condition.edits, tap))
        if consume is not None:
            stack.enter_context(hooks(residual_hooks(subject, consume)()))
        tap.logits = call_model(subject, inputs, logits)
    return tap


def prepared(
    subject: Subject,
    prompts: Prompts,
    condition: Condition,
    sites: Sites | None,
    rows: list[int] | None = None,
    own: bool = False,
) -> tuple[Context, KeyTap]:
    """The rows of a pass and its tap; refuses what cannot be run."""
    check_subject(subject)
    if condition.draws:
        raise InputError(f"the draws of condition {condition.name} are run one by one.")
    context = Context(subject, prompts, sites, rows or [])
    return context, KeyTap(context.layout, Want(), "exact" if own else "lean")


def earlier_keys(prompts: Prompts, before: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """[n] a random key of each prompt, later than P0 and earlier than `before` [n]."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(len(prompts), generator=generator)
    return 1 + (draws * (before - 1).clamp_min(1)).long().clamp_max((before - 2).clamp_min(0))
