"""Conditions: the model with its sink, with the sink taken away, and with a control instead.

A condition acts on attention (what later queries read at a key, see `attend`), on P0's stream (the
edits of `sinkscope.causal`), or on both, in one pass that also reads the mass that is left. What
acts on attention leaves P0's own stream, and so its norm, exactly as it was.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from sinkscope.detect.attention import stacked
from sinkscope.errors import InputError, Unsupported
from sinkscope.intervene.attend import MASS, VALUE, Attend
from sinkscope.observe.attention import follow_blocks, run_model, uses_registry
from sinkscope.observe.layout import Layout, layout_of
from sinkscope.observe.p0_stream import p0_states
from sinkscope.observe.registry import attention_functions, evaluation, hooks
from sinkscope.observe.residual import residual_hooks
from sinkscope.observe.stream import first_hidden, hidden_of, put_hidden, with_hidden
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts

if TYPE_CHECKING:
    from sinkscope.intervene.edits import Edit
    from sinkscope.observe.sites import Sites

P0, OTHER = "p0", "other"


@dataclass(frozen=True)
class Condition:
    """How the model is run.

    name       key in results
    remove     mass (shared out over the other keys), value (zeroed where later queries read it), or
               None: attention is left alone
    at         p0, or other: a random earlier key of each prompt, drawn anew for each prompt
    dose       how much of it is removed, 0..1
    heads      (block, head) in which it is removed; None for all
    edits      edits of P0's stream or of a control's (`sinkscope.intervene.edits`)
    draws      in place of `edits`: several at random, each run by itself; `perturb` and `costs`
               give their average
    keep_norm  give P0's stream its intact norm behind the first edited block, direction as it is
    """

    name: str
    remove: str | None = None
    at: str = P0
    dose: float = 1.0
    heads: tuple[tuple[int, int], ...] | None = None
    edits: tuple[Edit, ...] = ()
    draws: tuple[tuple[Edit, ...], ...] = ()
    keep_norm: bool = False

    def __post_init__(self) -> None:
        if self.remove not in (None, MASS, VALUE) or self.at not in (P0, OTHER):
            raise InputError("a condition removes mass or value, at p0 or other.")
        if not 0.0 <= self.dose <= 1.0:
            raise InputError(f"a dose lies between 0 and 1, not at {self.dose:g}.")

    def each(self) -> list[Condition]:
        """What is run: the condition itself, or one condition for each of its draws."""
        if not self.draws:
            return [self]
        return [dataclasses.replace(self, edits=edits, draws=()) for edits in self.draws]

    def __str__(self) -> str:
        if self.draws:
            return f"average of {len(self.draws)} random draws, the first: {self.each()[0]}"
        said = []
        key = "P0" if self.at == P0 else "a random earlier key"
        share = "" if self.dose == 1 else f"{self.dose:.0%} of "
        if self.remove == MASS:
            said.append(f"{share}the mass on {key} shared out over the other keys")
        if self.remove == VALUE:
            said.append(f"{share}the value of {key} removed where later queries read it")
        if said and self.heads is not None:
            said.append(f"in {len(self.heads)} heads")
        said += [str(edit) for edit in self.edits]
        if self.keep_norm:
            said.append("P0's norm kept")
        return "; ".join(said) or "as it is"


INTACT = Condition("intact")
REDISTRIBUTED = Condition("redistributed", MASS)
VALUE_ZEROED = Condition("value-zeroed", VALUE)
OTHER_KEY = Condition("other-key", MASS, OTHER)
OTHER_VALUE = Condition("other-value", VALUE, OTHER)


def check_prompts(prompts: Prompts) -> None:
    """Raise InputError for rows whose position zero is not key zero."""
    if prompts.attention_mask is not None or prompts.position_ids is not None:
        raise InputError("mixing needs right-padded prompts, not left-padded or packed ones.")


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


@dataclass
class Pass:
    """What a pass left behind: `attend` with its masses, the logits where asked for."""

    attend: Attend
    layout: Layout
    logits: torch.Tensor | None

    def shares(self) -> torch.Tensor:
        """[B, block, H] late share of the key that was looked at, as it was really read."""
        return _stacked(self.attend.shares)

    def removed(self) -> torch.Tensor:
        """[B, block, H] mass that late queries lost at that key; 0 where nothing was taken."""
        taken, shares = self.attend.removed, self.attend.shares
        return _stacked({b: taken.get(b, torch.zeros_like(s)) for b, s in shares.items()})


def _stacked(by_block: dict[int, torch.Tensor]) -> torch.Tensor:
    """[B, block, H]; NaN for blocks without softmax attention."""
    none = next(iter(by_block.values())).new_zeros(len(next(iter(by_block.values()))), 0)
    rows = (by_block.get(block, none) for block in range(max(by_block) + 1))
    return stacked([row.float().cpu() for row in rows], 1)


def run(
    subject: Subject,
    prompts: Prompts,
    condition: Condition = INTACT,
    *,
    keys: torch.Tensor | None = None,
    consume: Callable[[int, torch.Tensor], None] | None = None,
    logits: bool = False,
    sites: Sites | None = None,
    rows: list[int] | None = None,
    clamp: dict[int, torch.Tensor] | None = None,
    keep: bool = False,
    own: bool = False,
) -> Pass:
    """One forward pass under a condition.

    keys     [B] key of each row that condition `at="other"` acts on
    consume  called as consume(point, hidden [B, T, d]) at every read point
    sites    where blocks write; edits of P0's stream need it
    rows     index of each row among all prompts, for edits that draw at random
    clamp    {block: mass [B, H, T]} to which the mass on the key is set
    keep     keep the mass of every query on the key
    own      go through the family's own attention (slow, and the reference)

    All hooks, registrations and configurations are restored after it, also on error.
    """
    check_prompts(prompts)
    check_subject(subject)
    if condition.draws:
        raise InputError(f"the draws of condition {condition.name} are run one by one.")
    layout = layout_of(prompts, subject.device)
    attend = attend_under(subject, layout, condition, keys, own=own)
    attend.clamp, attend.keep = clamp, keep
    model = subject.model
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(evaluation(model))
        stack.enter_context(hooks(follow_blocks(attend, subject.anatomy.modules(model))))  # type: ignore[arg-type]
        stack.enter_context(edited(subject, prompts, layout, condition, sites, rows))
        if consume is not None:
            stack.enter_context(hooks(residual_hooks(subject, consume)()))
        masks = "eager" if own else "sdpa"
        stack.enter_context(attention_functions(model, attend.attention, masks))
        out = run_model(subject, prompts, logits)
    return Pass(attend, layout, out)


def attend_under(
    subject: Subject,
    layout: Layout,
    condition: Condition,
    keys: torch.Tensor | None = None,
    own: bool = False,
) -> Attend:
    """The attention function of a condition; keys [B] for those that act on another key."""
    count = layout.valid.shape[0]
    if condition.at == OTHER and keys is None:
        raise InputError(f"condition {condition.name} needs to be told which keys to act on.")
    if condition.at == P0 or keys is None:
        keys = torch.zeros(count, dtype=torch.long)
    heads = None
    if condition.heads is not None:
        total = subject.anatomy.query_heads or 0
        heads = {b: torch.zeros(total, dtype=torch.bool) for b, _ in condition.heads}
        for block, head in condition.heads:
            if not 0 <= head < total:
                raise InputError(f"there is no head {head} in block {block}.")
            heads[block][head] = True
    return Attend(
        layout, keys.to(layout.valid.device), condition.remove, condition.dose, heads, own=own
    )


def edited(
    subject: Subject,
    prompts: Prompts,
    layout: Layout,
    condition: Condition,
    sites: Sites | None,
    rows: list[int] | None = None,
) -> ExitStack:
    """A context in which the condition's edits of the stream are in place."""
    stack = ExitStack()
    if not condition.edits:
        return stack
    from sinkscope.intervene.edits.base import Context

    context = Context(subject, sites, layout, rows or list(range(len(prompts))))
    # before any edit is in place
    norms = _p0_norms(subject, prompts) if condition.keep_norm else None
    with stack:
        for edit in sorted(condition.edits, key=lambda edit: edit.order):
            if edit.acts_on_attention:
                raise InputError("a condition's edits act on the stream, not on attention.")
            stack.enter_context(hooks(edit.hooks(context)))
        if norms is not None:
            first = min(edit.first_block() for edit in condition.edits)
            stack.enter_context(hooks(_norm_hooks(subject, norms, first)))
        return stack.pop_all()


def _p0_norms(subject: Subject, prompts: Prompts) -> torch.Tensor:
    """[B, point] norms of P0's stream, which depends on its token alone: a pass of length one."""
    tokens, index = prompts.input_ids[:, 0].unique(return_inverse=True)
    return p0_states(subject, tokens)[index].norm(dim=-1)


def _norm_hooks(subject: Subject, norms: torch.Tensor, first: int) -> list[Any]:
    """Scale P0's stream to norms [B, point], behind block `first`."""
    blocks = subject.anatomy.modules(subject.model)

    def scaled(hidden: torch.Tensor, point: int) -> torch.Tensor:
        wanted = norms[:, point].to(hidden.device)
        own = hidden[:, 0].float().norm(dim=-1).clamp_min(1e-30)
        new = hidden.clone()
        new[:, 0] = (hidden[:, 0].float() * (wanted / own).unsqueeze(-1)).to(hidden.dtype)
        return new

    def at(point: int) -> Callable:
        def enter(module, args, kwargs):
            return put_hidden(args, kwargs, scaled(first_hidden(args, kwargs), point))

        return enter

    def leave(module, args, output):
        return with_hidden(output, scaled(hidden_of(output), len(blocks)))

    handles = [
        blocks[point].register_forward_pre_hook(at(point), with_kwargs=True)
        for point in range(first + 1, len(blocks))
    ]
    return [*handles, blocks[-1].register_forward_hook(leave)]


def in_heads(condition: Condition, heads: tuple[tuple[int, int], ...]) -> Condition:
    """The same condition in some heads only; in all of them where none is named."""
    return dataclasses.replace(condition, heads=heads or None)


def earlier_keys(prompts: Prompts, before: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """[n] a random key of each prompt, later than P0 and earlier than `before` [n]."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(len(prompts), generator=generator)
    return 1 + (draws * (before - 1).clamp_min(1)).long().clamp_max((before - 2).clamp_min(0))
