"""Position zero's stream under many lists of edits at once: one pass of one-token sequences.

P0 attends only to itself, so its edited stream is a pass of one token. Each list of edits has rows
of its own in one batch: the edits' hooks are not put on the model but noted down, and called on
their own rows only. What an edit takes from other positions comes from the intact pass
(`p0_others`): the others are held, whatever else is edited.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch

from sinkscope.intervene.edits import KeepUnits
from sinkscope.intervene.edits.base import Edit
from sinkscope.intervene.one_token import projection_inputs
from sinkscope.intervene.p0_others import OtherPositions, looks_at_others
from sinkscope.intervene.p0_rows import Noted, RowsContext, Span
from sinkscope.intervene.prefix import NEEDED_EARLIER, keep_outputs, skipped
from sinkscope.observe.attention import call_model, follow_blocks
from sinkscope.observe.registry import attention_functions, evaluation, hooks
from sinkscope.observe.residual import residual_hooks
from sinkscope.observe.sites import Sites
from sinkscope.observe.stream import hidden_of, with_hidden
from sinkscope.observe.tap import OUTSIDE, own_eager
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts

ROWS = 2048  # one-token sequences run at a time, at most
ENOUGH = 256  # and so many are a pass of their own, if the next ones could skip more blocks


@dataclass
class Edited:
    """P0 under E lists of edits, for n prompts.

    keys     block -> [E, n, G, D], rotation included; blocks before `start` are as they were
    streams  point -> [E, n, d]; points before `start` likewise
    start    the first block that was run
    """

    keys: dict[int, torch.Tensor]
    streams: dict[int, torch.Tensor]
    start: int


class EditedP0:
    """Runs lists of edits of P0 in one-token passes.

    suffix   whether the blocks before the first edit are handed out instead of run
    spent    rows × blocks run so far
    """

    def __init__(
        self,
        subject: Subject,
        prompts: Prompts,
        sites: Sites,
        others: OtherPositions,
        direction: torch.Tensor | None = None,
    ) -> None:
        self.subject, self.sites, self.others = subject, sites, others
        self.direction = direction
        self.blocks = subject.anatomy.modules(subject.model)
        self.first = prompts.input_ids[:, 0]
        self.tokens, self._token_of = self.first.unique(return_inverse=True)
        # one prompt for each first token, where an edit asks for nothing of its prompt
        self._holders = [int((self._token_of == i).nonzero()[0]) for i in range(len(self.tokens))]
        self._outputs: dict[int, Any] = {}
        self._clean: dict[tuple[int, str], Any] | None = None
        self.spent = 0
        self.suffix = False
        self.intact = self._intact()
        self.suffix = self._suffix_is_exact()

    def run(self, lists: Sequence[Sequence[Edit]]) -> Edited:
        """P0 under each of the lists. Raises Unsupported for edits that are not of P0 alone."""
        if self._clean is None and any(isinstance(e, KeepUnits) for edits in lists for e in edits):
            found = projection_inputs(self.subject, self.sites, self.first)  # before any edit
            self._clean = {key: rows for key, rows in found.items() if key[1] != "experts"}
        spans, done = [], 0
        for edits in lists:
            apart = any(_of_prompt(edit) for edit in edits)
            prompts = list(range(len(self.first))) if apart else self._holders
            spans.append(Span(slice(done, done + len(prompts)), prompts, apart))
            done += len(prompts)
        start = min((edit.first_block() for edits in lists for edit in edits), default=0)
        start = min(start, len(self.blocks) - 1) if self.suffix else 0
        keys, streams = self._pass(lists, spans, start)
        index = torch.cat([self._rows_of(span) for span in spans])
        n = len(self.first)

        def sorted_out(rows: torch.Tensor) -> torch.Tensor:
            return rows[index.to(rows.device)].unflatten(0, (len(lists), n))

        return Edited(
            {block: sorted_out(rows) for block, rows in keys.items()},
            {point: sorted_out(rows) for point, rows in streams.items()},
            start,
        )

    def chunks(self, lists: Sequence[Sequence[Edit]]) -> list[list[int]]:
        """Indices of lists to be run together: those that begin late apart from early ones."""

        def begins(i: int) -> int:
            return min((edit.first_block() for edit in lists[i]), default=0)

        found: list[list[int]] = []
        taken = start = 0
        for i in sorted(range(len(lists)), key=begins):
            apart = any(_of_prompt(edit) for edit in lists[i])
            rows = len(self.first) if apart else len(self._holders)
            later = taken >= ENOUGH and begins(i) > start
            if not found or later or taken + rows > ROWS:
                found.append([])
                taken, start = 0, begins(i)
            found[-1].append(i)
            taken += rows
        return found

    def _rows_of(self, span: Span) -> torch.Tensor:
        """[n] the row of the batch that is P0 of each prompt."""
        own = torch.arange(len(self.first)) if span.apart else self._token_of
        return own + span.rows.start

    def _intact(self) -> Edited:
        """The unedited pass; keeps what every block gives for each first token."""

        with hooks(keep_outputs(self.blocks, self._outputs)):
            return self.run([[]])

    def _suffix_is_exact(self) -> bool:
        """Whether handing out stored outputs of early blocks leaves later keys alone."""
        span = [Span(slice(0, len(self._holders)), self._holders, False)]
        depth = len(self.blocks)
        try:
            for start in sorted({depth // 3, 2 * depth // 3, depth - 1} - {0}):
                keys, _ = self._pass([[]], span, start)
                for block, rows in keys.items():
                    if not torch.equal(rows, self.intact.keys[block][0, self._holders]):
                        return False
        except NEEDED_EARLIER:
            return False
        return True

    def _pass(
        self, lists: Sequence[Sequence[Edit]], spans: list[Span], start: int
    ) -> tuple[dict[int, torch.Tensor], dict[int, torch.Tensor]]:
        """Keys and streams, one row for each one-token sequence."""
        listener = _Listener(start)
        prompts = [row for span in spans for row in span.prompts]
        ids = self.first[prompts].to(self.subject.device).unsqueeze(1)
        noted = Noted(self.others, len(prompts))
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(evaluation(self.subject.model))
            for edits, span in zip(lists, spans):
                context = self._context(span, noted)
                for edit in sorted(edits, key=lambda edit: edit.order):
                    ids = self._note(edit, context, span, noted, ids)
            stack.enter_context(skipped(self.blocks[:start], self._handed(prompts, start)))
            stack.enter_context(hooks(follow_blocks(listener, self.blocks)))  # type: ignore[arg-type]
            stack.enter_context(hooks(noted.hooks()))
            stack.enter_context(hooks(residual_hooks(self.subject, listener.stream)()))
            stack.enter_context(
                attention_functions(self.subject.model, listener.attention, "eager")
            )
            call_model(self.subject, {"input_ids": ids, "use_cache": False}, logits=False)
        self.spent += len(prompts) * (len(self.blocks) - start)
        return listener.keys, listener.streams

    def _note(self, edit: Edit, context: RowsContext, span: Span, noted: Noted, ids: torch.Tensor):
        looks_at_others(edit)  # refuses what is no edit of P0's stream
        context.edit = edit
        edit.prepare(context)
        edit.hooks(context)
        two = ids[span.rows].expand(-1, 2)
        ids = ids.clone()
        ids[span.rows] = edit.inputs(context, {"input_ids": two})["input_ids"][:, :1]
        return ids

    def _context(self, span: Span, noted: Noted) -> RowsContext:
        context = RowsContext.of(self.subject, self.sites, self.first, span, self.direction, noted)
        if self._clean is not None:
            context.clean = {key: rows[span.prompts] for key, rows in self._clean.items()}
        return context

    def _handed(self, prompts: list[int], start: int) -> dict[int, Any]:
        """What each skipped block gives for these rows."""
        index = self._token_of[prompts]
        handed = {}
        for block in range(start):
            output = self._outputs[block]
            hidden = hidden_of(output)
            handed[block] = with_hidden(output, hidden[index.to(hidden.device)])
        return handed


def _of_prompt(edit: Edit) -> bool:
    """Whether the edit's value differs between prompts that begin with the same token."""
    token = getattr(edit, "token", None)
    return bool(looks_at_others(edit)) or hasattr(edit, "intact") or isinstance(token, tuple)


class _Listener:
    """Reads keys and streams of the blocks that are run."""

    def __init__(self, start: int) -> None:
        self.block, self.start = OUTSIDE, start
        self.keys: dict[int, torch.Tensor] = {}
        self.streams: dict[int, torch.Tensor] = {}

    def stream(self, point: int, hidden: torch.Tensor) -> None:
        """Keep P0's residual stream at one read point, hidden [rows, 1, d]."""
        if point >= self.start:
            self.streams[point] = hidden[:, 0]

    def attention(self, module, query, key, value, attention_mask, **kwargs):
        """The registered function: notes the keys, then attends as the family does."""
        if self.block != OUTSIDE and key.shape[2] == 1:
            self.keys[self.block] = key[:, :, 0]
        return own_eager(module, query, key, value, attention_mask, kwargs)[0], None
