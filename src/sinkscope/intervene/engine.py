"""Run edits: one pass from the first edited block on, attention read on the way, all restored.

    from sinkscope.intervene.edits import SetWrite
    from sinkscope.intervene.engine import Engine
    from sinkscope.observe.sites import find_sites

    subject = sinkscope.load()
    prompts = sinkscope.build_prompts(subject, n=8, length=128)
    engine = Engine(subject, prompts, find_sites(subject, prompts))
    edited = engine.run([SetWrite(block=1, kind="mlp", position=0, how="mean")])
    engine.intact.on([(3, 0)]), edited.on([(3, 0)])     # late share of P0 in head 3.0, per prompt

The intact pass keeps what every block gave. An edited pass hands those out for the blocks before
the first edit, so only the suffix is run. P0's stream depends on P0 alone, so an edit of P0 inside
the full pass is the exact edit of its one-token stream.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch

from sinkscope.errors import InputError
from sinkscope.intervene.cost import divergences, losses, spread_predictions
from sinkscope.intervene.edits.base import Context, Edit, check_right_padded
from sinkscope.intervene.prefix import NEEDED_EARLIER, keep_outputs, skipped
from sinkscope.intervene.readout import Readout, filled_up, joined
from sinkscope.intervene.readout_tap import ReadoutTap
from sinkscope.intervene.router import in_place
from sinkscope.observe.attention import call_model, check_all_seen, uses_registry
from sinkscope.observe.reads import Want
from sinkscope.observe.registry import hooks
from sinkscope.observe.residual import residual_hooks
from sinkscope.observe.sites import Sites
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts
from sinkscope.subject.tokens import vocabulary

KEPT_LOGITS = 1 << 26  # intact logits kept for all prompts together; more are computed again
LOGITS_PER_PASS = 1 << 25
CHECK_TOKENS = 24


@dataclass
class Batch:
    """Some of the prompts, and what the intact pass left behind for them.

    outputs   block -> its output, from which an edited pass goes on
    logits    [B, T, V]; received [B, L, T]: sums over reading heads and late queries
    """

    context: Context
    outputs: dict[int, Any] = field(default_factory=dict)
    logits: torch.Tensor | None = None
    received: torch.Tensor | None = None


class Engine:
    """Edited passes over one set of prompts.

    prompts    right-padded (no attention mask, no position ids of their own)
    sites      where blocks write (`observe.sites.find_sites`); edits of writes need it
    direction  [d] sink direction u, for cosines and for edits along it
    heads      [(block, head)] that edited passes read, and whose received attention is averaged in
               `Readout.received`; without any, every head is read
    positions  positions that are looked at in every pass; P0 is always the first
    of_tokens  tokens of what counts as one plain pass in `passes`; by default these prompts
    few        how many of the first prompts a pass takes that is run on a few of them only
    scored     predictions of a prompt, evenly spread, whose loss and KL are taken; None for all
    listeners  edits that change nothing and look on in the intact pass

    intact     Readout of the unedited model
    passes     forward passes spent so far: tokens × blocks run, over those of one plain pass
    suffix     whether blocks before an edit are skipped; False where that would not reproduce the
               intact logits bit for bit, and then every pass is whole

    Raises InputError for left-padded or packed prompts, Unsupported where attention is not seen.
    """

    def __init__(
        self,
        subject: Subject,
        prompts: Prompts,
        sites: Sites | None = None,
        *,
        direction: torch.Tensor | None = None,
        heads: Sequence[tuple[int, int]] = (),
        positions: Sequence[int] = (0,),
        of_tokens: int | None = None,
        few: int | None = None,
        scored: int | None = None,
        listeners: Sequence[Edit] = (),
    ) -> None:
        check_right_padded(prompts)
        if any(not 0 <= p < int(prompts.lengths.min()) for p in positions):
            raise InputError(f"positions must lie below {int(prompts.lengths.min())}, the shortest")
        self.subject, self.prompts, self.sites = subject, prompts, sites
        self.direction = direction
        self.heads = tuple((int(b), int(h)) for b, h in heads)
        self.positions = (0, *(p for p in positions if p != 0))
        self.few = len(prompts) if few is None else min(few, len(prompts))
        self._scored: torch.Tensor | None = None
        self.depth = len(subject.anatomy.blocks)
        self._blocks = subject.anatomy.modules(subject.model)
        self._plain = self.depth * (of_tokens or prompts.input_ids.numel())
        self._spent = 0
        self._head_count = 0
        self._maps = not uses_registry(subject.model)
        self._learn_reading()
        self.suffix = self._suffix_is_exact()
        self._spent = 0
        if scored is not None:  # and not before: the checks above are of a few tokens
            self._scored = spread_predictions(prompts.length, scored)
        self._batches = list(self._split())
        self.intact = joined([self._first_pass(batch, listeners) for batch in self._batches])

    @property
    def passes(self) -> float:
        """Forward passes spent so far."""
        return self._spent / self._plain

    def run(
        self,
        edits: Sequence[Edit],
        *,
        want_logits: bool = True,
        want_received: bool = False,
        few: bool = False,
    ) -> Readout:
        """One pass with all the edits in place. Every hook, mask and weight is restored after it.

        few  of the first `few` prompts only; what the others would show is NaN

        Raises InputError where an edit does not fit the model or the prompts, Unsupported where the
        family cannot be edited so.
        """
        start = min((edit.first_block() for edit in edits), default=0) if self.suffix else 0
        start = min(start, self.depth)
        parts = []
        for batch in self._batches:
            if few and batch.context.rows[0] >= self.few:
                break
            reading = self._reading(batch, want_received=want_received, edited=True)
            logits, ids = self._pass(batch, edits, start, reading, logits=want_logits)
            if batch.received is not None:
                reading.found["received"][:, :start] = batch.received[:, :start]
            ce, kl = (None, None) if logits is None else self._cost(batch, logits, ids)
            parts.append(reading.readout(ce, kl))
        edited = joined(parts)
        self._fill(edited, start)
        return filled_up(edited, len(self.prompts))

    def _fill(self, edited: Readout, start: int) -> None:
        """Blocks that were skipped are as they were."""
        rows = slice(0, len(edited.share))
        for name in ("share", "margin", "bare_share", "bare_margin"):
            getattr(edited, name)[:, :, :start] = getattr(self.intact, name)[rows, :, :start]
        for name in ("learned", "value_ratio"):
            getattr(edited, name)[:, :start] = getattr(self.intact, name)[rows, :start]

    def _split(self) -> Iterator[Batch]:
        length = self.prompts.length if self._scored is None else len(self._scored)
        rows = max(1, LOGITS_PER_PASS // (length * vocabulary(self.subject)))
        first = 0
        for part in (slice(0, self.few), slice(self.few, len(self.prompts))):
            for piece in self.prompts.take(part).batches():
                for one in piece.batches(min(len(piece), rows)):
                    yield self._batch(one, list(range(first, first + len(one))))
                    first += len(one)

    def _batch(self, prompts: Prompts, rows: list[int]) -> Batch:
        return Batch(Context(self.subject, prompts, self.sites, rows, self.direction))

    def _reading(
        self, batch: Batch, *, want_received: bool = False, edited: bool = False
    ) -> ReadoutTap:
        return ReadoutTap(
            batch.context.layout,
            Want(received=False, maps=self._maps),
            "lean",
            positions=self.positions,
            heads=self.heads,
            shape=(self.depth, self._head_count),
            want_received=want_received,
            direction=self.direction,
            only_heads=edited and bool(self.heads),
        )

    def clean(self, block: int, kind: str) -> torch.Tensor:
        """What the output projection of a block's sublayer is given at P0: [n, inputs]."""
        return torch.cat([batch.context.clean[block, kind] for batch in self._batches])

    def _first_pass(self, batch: Batch, listeners: Sequence[Edit]) -> Readout:
        """The intact pass, which keeps what every block gave."""
        reading = self._reading(batch, want_received=True)
        logits, _ = self._pass(batch, listeners, 0, reading, logits=True, keep=True)
        assert logits is not None
        batch.received = reading.found["received"]
        if logits[0].numel() * len(self.prompts) <= KEPT_LOGITS:
            batch.logits = logits
        check_all_seen(self.subject, reading)
        prompts, at = batch.context.prompts, self._scored
        kl = divergences(logits, logits, prompts, at=at)
        return reading.readout(losses(logits, prompts, at=at), kl)

    def _pass(
        self,
        batch: Batch,
        edits: Sequence[Edit],
        start: int,
        reading: ReadoutTap | None = None,
        *,
        logits: bool,
        keep: bool = False,
    ) -> tuple[torch.Tensor | None, torch.Tensor]:
        """Blocks from `start` on, with the edits in place: logits if wanted, and the token ids."""
        reading = reading or self._reading(batch)
        context = batch.context
        context.direction = self.direction
        self._spent += context.prompts.input_ids.numel() * (self.depth - min(start, self.depth))
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            inputs = stack.enter_context(in_place(context, edits, reading))
            stack.enter_context(skipped(self._blocks[:start], batch.outputs))
            stack.enter_context(hooks(residual_hooks(self.subject, reading.stream)()))
            if keep:
                stack.enter_context(hooks(keep_outputs(self._blocks, batch.outputs)))
            return call_model(self.subject, inputs, logits, self._scored), inputs["input_ids"]

    def _cost(
        self, batch: Batch, logits: torch.Tensor, ids: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss on the tokens that were run (a replaced one no longer comes next), and KL."""
        intact = batch.logits
        if intact is None:
            intact, _ = self._pass(batch, (), self.depth if self.suffix else 0, logits=True)
            assert intact is not None
        run = dataclasses.replace(batch.context.prompts, input_ids=ids)
        at = self._scored
        return losses(logits, run, at=at), divergences(intact, logits, run, at=at)

    def _learn_reading(self) -> None:
        """From a few tokens: how many heads there are, and whether the lean reader serves all."""
        batch = self._small()
        seen: list[tuple[str, int]] = []

        class Look(ReadoutTap):
            def keep(self, read, call):
                seen.append((read.reader, read.p0.shape[1]))
                self.reads.append(read)

        look = Look(batch.context.layout, Want(received=False), "lean", shape=(self.depth, 1))
        self._pass(batch, (), 0, look, logits=False)
        check_all_seen(self.subject, look)
        self._head_count = max(heads for _, heads in seen)
        self._maps = self._maps or not all(reader.startswith("lean") for reader, _ in seen)
        if any(not (0 <= b < self.depth and 0 <= h < self._head_count) for b, h in self.heads):
            raise InputError("a reading head lies outside the model.")

    def _small(self) -> Batch:
        row = self.prompts.take(slice(0, 1)).first_tokens(CHECK_TOKENS)
        return self._batch(row, [0])

    def _suffix_is_exact(self) -> bool:
        """Whether handing out the stored outputs of early blocks leaves the logits alone."""
        batch = self._small()
        whole, _ = self._pass(batch, (), 0, logits=True, keep=True)
        assert whole is not None
        depth = self.depth
        for start in sorted({1, depth // 4, depth // 2, 3 * depth // 4, depth - 1, depth} - {0}):
            try:
                logits, _ = self._pass(batch, (), start, logits=True)
            except NEEDED_EARLIER:
                return False
            assert logits is not None
            if not torch.equal(logits, whole):
                return False
        return True
