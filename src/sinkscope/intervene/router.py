"""Put edits under a model: hooks, inputs, weights, and a route for every attention call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from sinkscope.errors import Unsupported
from sinkscope.intervene.attend import Call
from sinkscope.intervene.edits.base import Context, Edit
from sinkscope.intervene.edits.keys import KeyEdits, KeyRead
from sinkscope.observe.attention import follow_blocks, model_inputs, uses_registry
from sinkscope.observe.registry import attention_functions, evaluation, hooks
from sinkscope.observe.tap import OUTSIDE, Tap, is_causal, own_map_hooks


@dataclass
class EditTap(Tap):
    """A tap that is also told of the calls that key edits changed.

    keys  [B] the key that they act on, P0 where there are none; known once the edits are in place
    """

    keys: torch.Tensor = field(init=False)

    def changed(self, call: Call, read: KeyRead) -> None:
        """Take a call that key edits changed."""
        raise NotImplementedError


@contextmanager
def in_place(context: Context, edits: Sequence[Edit], tap: EditTap) -> Iterator[dict[str, Any]]:
    """Edits and the tap in place; yields the keyword arguments of the forward call.

    An exact tap sends every call through the family's own attention. All hooks, masks, weights and
    registrations are restored, also on error. Raises InputError where an edit does not fit the
    model or the prompts, Unsupported where the family cannot be edited so.
    """
    subject, model = context.subject, context.subject.model
    by_registry = uses_registry(model)
    if not by_registry and any(edit.acts_on_attention for edit in edits):
        raise Unsupported(
            f"{subject.anatomy.model_type} does not use the attention registry, so who sees whom "
            "cannot be edited there; edits of writes and of the stream can."
        )
    edits = sorted(edits, key=lambda edit: edit.order)
    for edit in edits:
        edit.prepare(context)
    router = _Router(tap, context, edits)
    blocks = subject.anatomy.modules(model)
    inputs = model_inputs(subject, context.prompts)
    with ExitStack() as stack:
        stack.callback(context.calls.clear)
        stack.enter_context(evaluation(model))
        stack.enter_context(hooks(follow_blocks(tap, blocks)))
        for edit in edits:
            stack.enter_context(hooks(edit.hooks(context)))
            stack.enter_context(edit.weights(context))
            inputs = edit.inputs(context, inputs)
        if not by_registry:
            inputs["output_attentions"] = True
            stack.enter_context(hooks(own_map_hooks(tap, blocks)))
        masks = "sdpa" if by_registry and tap.reader == "lean" else "eager"
        stack.enter_context(attention_functions(model, router.attention, masks))
        yield inputs


class _Router:
    """Sends each attention call through the edits and on to the tap."""

    def __init__(self, tap: EditTap, context: Context, edits: Sequence[Edit]) -> None:
        self.tap, self.context = tap, context
        self.edits = [edit for edit in edits if edit.acts_on_attention]
        self.at_key = KeyEdits(context, edits)
        tap.keys = self.at_key.keys
        self._capturing = False
        self._captured: torch.Tensor | None = None
        context.capture = self.capture

    def capture(self, call: Callable[[], Any]) -> torch.Tensor:
        """Run a function that calls an attention module; the query [B, H, T, D] that it gives."""
        self._capturing = True
        try:
            call()
        finally:
            self._capturing = False
        query, self._captured = self._captured, None
        assert query is not None
        return query

    def attention(self, module, query, key, value, attention_mask, **kwargs):
        """The registered function. The fifth name is fixed: some families pass it by keyword."""
        if self._capturing:
            self._captured = query
            batch, heads, length = query.shape[:3]
            return value.new_zeros(batch, length, heads, value.shape[-1]), None
        if attention_mask is not None and attention_mask.shape[-1] > key.shape[2]:
            attention_mask = attention_mask[..., : key.shape[2]]  # as eager attention itself does
        call = Call(module, query, key, value, attention_mask, kwargs)
        block = self.tap.block
        if block != OUTSIDE and query.shape[2] == key.shape[2]:
            for edit in self.edits:
                call = edit.attention(self.context, block, call)
            if self.at_key.acting(block) and is_causal(module, kwargs):
                read = self.at_key.attend(block, call, own=self.tap.reader == "exact")
                self.tap.changed(call, read)
                return read.output, None
        return self.tap.attention(module, call.query, call.key, call.value, call.mask, **kwargs)
