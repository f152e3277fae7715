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

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from sinkscope.errors import InputError, Unsupported
from sinkscope.intervene.edits.base import Call, Context, Edit
from sinkscope.intervene.readout import Readout, ReadoutTap, TokenMass, joined
from sinkscope.observe.attention import (
    call_model,
    check_all_seen,
    follow_blocks,
    model_inputs,
    uses_registry,
)
from sinkscope.observe.layout import Layout, layout_of
from sinkscope.observe.loss import (
    log_probabilities,
    mean_by_prompt,
    predictions,
    token_kl,
    token_loss,
)
from sinkscope.observe.p0_stream import one_token_pass
from sinkscope.observe.reads import Want
from sinkscope.observe.registry import attention_functions, evaluation, hooks
from sinkscope.observe.residual import residual_hooks
from sinkscope.observe.sites import Sites
from sinkscope.observe.tap import OUTSIDE, own_map_hooks
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts, vocabulary

KEPT_LOGITS = 1 << 27  # intact logits kept for all prompts together; more are computed again
LOGITS_PER_PASS = 1 << 26
CHECK_TOKENS = 24


@dataclass
class Batch:
    """Some of the prompts, and what the intact pass left behind for them."""

    prompts: Prompts
    rows: list[int]
    layout: Layout
    outputs: dict[int, Any] = field(default_factory=dict)
    logits: torch.Tensor | None = None
    clean: dict[tuple[int, str], Any] | None = None


class Engine:
    """Edited passes over one set of prompts.

    prompts    right-padded (no attention mask, no position ids of their own)
    sites      where blocks write (`observe.sites.find_sites`); edits of writes need it
    direction  [d] sink direction u, for cosines and for edits along it
    heads      [(block, head)] that edited passes read, and whose received attention is averaged in
               `Readout.received`; without any, every head is read
    positions  positions that are looked at in every pass; P0 is always the first
    of_tokens  tokens of what counts as one plain pass in `passes`; by default these prompts

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
    ) -> None:
        if prompts.attention_mask is not None or prompts.position_ids is not None:
            raise InputError("edits need right-padded prompts, not left-padded or packed ones.")
        if any(not 0 <= p < int(prompts.lengths.min()) for p in positions):
            raise InputError(f"positions must lie below {int(prompts.lengths.min())}, the shortest")
        self.subject, self.prompts, self.sites = subject, prompts, sites
        self.direction = direction
        self.heads = tuple((int(b), int(h)) for b, h in heads)
        self.positions = (0, *(p for p in positions if p != 0))
        self.depth = len(subject.anatomy.blocks)
        self._blocks = subject.anatomy.modules(subject.model)
        self._registry = uses_registry(subject.model)
        self._plain = self.depth * (of_tokens or prompts.input_ids.numel())
        self._spent = 0
        self._head_count = 0
        self._maps = not self._registry
        self._learn_reading()
        self.suffix = self._suffix_is_exact()
        self._spent = 0
        self._batches = list(self._split())
        self.intact = joined([self._first_pass(batch) for batch in self._batches])

    def token_mass(self) -> TokenMass:
        """Which tokens late queries look at in the intact model, by head; costs a pass."""
        ids = self.prompts.input_ids
        mass = TokenMass(ids, self.prompts.lengths, self.depth, self._head_count)
        for batch in self._batches:
            reading = self._reading(batch, False)
            reading.tokens, reading.token_rows = mass, batch.rows
            self._pass(batch, (), 0, reading, False)
        return mass

    @property
    def passes(self) -> float:
        """Forward passes spent so far."""
        return self._spent / self._plain

    def run(
        self,
        edits: Sequence[Edit],
        want_logits: bool = True,
        want_received: bool = False,
    ) -> Readout:
        """One pass with all the edits in place. Every hook, mask and weight is restored after it.

        Raises InputError where an edit does not fit the model or the prompts, Unsupported where the
        family cannot be edited so.
        """
        edits = sorted(edits, key=lambda edit: edit.order)
        if any(edit.acts_on_attention for edit in edits) and not self._registry:
            raise Unsupported(
                f"{self.subject.anatomy.model_type} does not use the attention registry, so who "
                "sees whom cannot be edited there; edits of writes and of the stream can."
            )
        start = min((edit.first_block() for edit in edits), default=0)
        if want_received:
            start = min([start, *(block for block, _ in self.heads)])
        parts = []
        for batch in self._batches:
            if any(edit.needs_clean for edit in edits):
                self._clean(batch)  # before the edits are in place
            reading = self._reading(batch, want_received, edited=True)
            logits = self._pass(batch, edits, start if self.suffix else 0, reading, want_logits)
            ce, kl = None, None
            if logits is not None:
                ce, kl = self._cost(batch, logits, edits)
            parts.append(reading.readout(ce, kl))
        edited = joined(parts)
        self._fill(edited, min(start, self.depth))
        return edited

    def _fill(self, edited: Readout, start: int) -> None:
        """Blocks that were skipped are as they were."""
        if not self.suffix or start == 0:
            return
        for name in ("share", "margin", "bare_share", "bare_margin"):
            getattr(edited, name)[:, :, :start] = getattr(self.intact, name)[:, :, :start]
        for name in ("learned", "value_ratio"):
            getattr(edited, name)[:, :start] = getattr(self.intact, name)[:, :start]

    def _split(self) -> Iterator[Batch]:
        rows = LOGITS_PER_PASS // (self.prompts.length * vocabulary(self.subject))
        first = 0
        for part in self.prompts.batches():
            for piece in part.batches(max(1, min(len(part), rows))):
                index = list(range(first, first + len(piece)))
                yield Batch(piece, index, layout_of(piece, self.subject.device))
                first += len(piece)

    def _reading(self, batch: Batch, want_received: bool, edited: bool = False) -> ReadoutTap:
        return ReadoutTap(
            batch.layout,
            Want(received=False, maps=self._maps),
            "lean",
            positions=self.positions,
            heads=self.heads,
            shape=(self.depth, self._head_count),
            want_received=want_received,
            direction=self.direction,
            only_heads=edited and bool(self.heads),
        )

    def _context(self, batch: Batch) -> Context:
        def clean(block: int, kind: str) -> Any:
            return self._clean(batch)[block, kind]

        return Context(
            self.subject, self.sites, batch.layout, batch.rows, self.direction, clean=clean
        )

    def _clean(self, batch: Batch) -> dict[tuple[int, str], Any]:
        if batch.clean is None:
            batch.clean = clean_inputs(self.subject, self.sites, batch.prompts.input_ids[:, 0])
        return batch.clean

    def clean(self, block: int, kind: str) -> torch.Tensor:
        """What the output projection of a block's sublayer is given at P0: [n, inputs]."""
        return torch.cat([self._clean(batch)[block, kind] for batch in self._batches])

    def _first_pass(self, batch: Batch) -> Readout:
        """The intact pass, which keeps what every block gave."""
        reading = self._reading(batch, want_received=True)
        logits = self._pass(batch, (), 0, reading, True, keep=True)
        assert logits is not None
        if logits[0].numel() * len(self.prompts) <= KEPT_LOGITS:
            batch.logits = logits
        check_all_seen(self.subject, reading)
        ce, kl = _cost(batch, logits, logits, batch.prompts.input_ids)
        return reading.readout(ce, kl)

    def _pass(
        self,
        batch: Batch,
        edits: Sequence[Edit],
        start: int,
        reading: ReadoutTap | None,
        logits: bool,
        keep: bool = False,
    ) -> torch.Tensor | None:
        """Blocks from `start` on, with the edits in place; gives the logits if they are wanted."""
        subject, model = self.subject, self.subject.model
        context = self._context(batch)
        reading = reading or self._reading(batch, False)
        router = _Router(reading, context, edits)
        inputs = model_inputs(subject, batch.prompts)
        if not self._registry:
            inputs["output_attentions"] = True
        self._spent += batch.prompts.input_ids.numel() * (self.depth - min(start, self.depth))
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(evaluation(model))
            stack.enter_context(_skipped(self._blocks[:start], batch.outputs))
            stack.enter_context(hooks(follow_blocks(reading, self._blocks)))
            for edit in edits:
                stack.enter_context(hooks(edit.hooks(context)))
                stack.enter_context(edit.weights(context))
                inputs = edit.inputs(context, inputs)
            if not self._registry:
                stack.enter_context(hooks(own_map_hooks(reading, self._blocks)))
            stack.enter_context(hooks(residual_hooks(subject, reading.stream)()))
            if keep:
                stack.enter_context(hooks(_keep_outputs(self._blocks, batch.outputs)))
            masks = "sdpa" if self._registry else "eager"
            stack.enter_context(attention_functions(model, router.attention, masks))
            return call_model(subject, inputs, logits)

    def _cost(self, batch: Batch, logits: torch.Tensor, edits: Sequence[Edit]):
        intact = batch.logits
        if intact is None:
            intact = self._pass(batch, (), self.depth if self.suffix else 0, None, True)
            assert intact is not None
        inputs = {"input_ids": batch.prompts.input_ids}
        for edit in edits:  # a token that was replaced is no longer what comes next
            inputs = edit.inputs(self._context(batch), inputs)
        return _cost(batch, logits, intact, inputs["input_ids"])

    def _learn_reading(self) -> None:
        """From a few tokens: how many heads there are, and whether the lean reader serves all."""
        batch = self._small()
        seen: list[tuple[str, int]] = []

        class Look(ReadoutTap):
            def keep(self, read, call):
                seen.append((read.reader, read.p0.shape[1]))
                self.reads.append(read)

        look = Look(batch.layout, Want(received=False), "lean", shape=(self.depth, 1))
        self._pass(batch, (), 0, look, False)
        check_all_seen(self.subject, look)
        self._head_count = max(heads for _, heads in seen)
        self._maps = self._maps or not all(reader.startswith("lean") for reader, _ in seen)
        if any(not (0 <= b < self.depth and 0 <= h < self._head_count) for b, h in self.heads):
            raise InputError("a reading head lies outside the model.")

    def _small(self) -> Batch:
        row = self.prompts.take(slice(0, 1)).first_tokens(CHECK_TOKENS)
        return Batch(row, [0], layout_of(row, self.subject.device))

    def _suffix_is_exact(self) -> bool:
        """Whether handing out the stored outputs of early blocks leaves the logits alone."""
        batch = self._small()
        whole = self._pass(batch, (), 0, None, True, keep=True)
        assert whole is not None
        depth = self.depth
        for start in sorted({1, depth // 4, depth // 2, 3 * depth // 4, depth - 1, depth} - {0}):
            try:
                logits = self._pass(batch, (), start, None, True)
            except (RuntimeError, KeyError, TypeError, AttributeError, ValueError, IndexError):
                return False  # a later block needed something that an earlier one leaves behind
            assert logits is not None
            if not torch.equal(logits, whole):
                return False
        return True


class _Router:
    """Sends each attention call through the edits and on to the tap."""

    def __init__(self, reading: ReadoutTap, context: Context, edits: Sequence[Edit]) -> None:
        self.reading, self.context = reading, context
        self.edits = [edit for edit in edits if edit.acts_on_attention]
        self._capturing = False
        self._captured: torch.Tensor | None = None
        context.capture = self.capture

    def capture(self, call: Callable[[], Any]) -> torch.Tensor:
        """Run a function that calls an attention module; the query it comes up with."""
        self._capturing = True
        try:
            call()
        finally:
            self._capturing = False
        query, self._captured = self._captured, None
        assert query is not None
        return query

    def attention(self, module, query, key, value, attention_mask, **kwargs):
        """The registered function."""
        if self._capturing:
            self._captured = query
            batch, heads, length = query.shape[:3]
            return value.new_zeros(batch, length, heads, value.shape[-1]), None
        inside = self.reading.block != OUTSIDE and query.shape[2] == key.shape[2]
        if self.edits and inside:
            call = Call(module, query, key, value, attention_mask, kwargs)
            for edit in self.edits:
                call = edit.attention(self.context, self.reading.block, call)
            query, key, value, attention_mask = call.query, call.key, call.value, call.mask
        return self.reading.attention(module, query, key, value, attention_mask, **kwargs)


def clean_inputs(
    subject: Subject, sites: Sites | None, first: torch.Tensor
) -> dict[tuple[int, str], Any]:
    """What every output projection is given at P0, from one pass over sequences of one token.

    first [B] token ids. Keys and values as `Context.clean` describes them.
    """
    if sites is None:
        raise InputError("this edit needs the write sites of the model (observe.sites).")
    found: dict[tuple[int, str], Any] = {}

    def row(key: tuple[int, str]) -> Callable:
        def hook(module, args):
            found[key] = args[0].reshape(len(first), -1)

        return hook

    def arguments(key: tuple[int, str]) -> Callable:
        def hook(module, args, kwargs):
            found[key] = args, kwargs

        return hook

    handles = []
    for index, block in enumerate(subject.anatomy.modules(subject.model)):
        for sublayer in sites.blocks[index]:
            if sublayer.shared is not None:
                owner = sublayer.shared.owner(block)
                handles.append(owner.register_forward_pre_hook(row((index, "shared"))))
            if sublayer.experts is not None:
                experts = block.get_submodule(sublayer.experts)
                hook = arguments((index, "experts"))
                handles.append(experts.register_forward_pre_hook(hook, with_kwargs=True))
            elif sublayer.projection is not None:
                owner = sublayer.projection.owner(block)
                handles.append(owner.register_forward_pre_hook(row((index, sublayer.kind))))
    one_token_pass(subject, first, lambda: handles)
    return found


@contextmanager
def _skipped(blocks: Sequence[nn.Module], outputs: dict[int, Any]) -> Iterator[None]:
    """Let blocks give their stored outputs instead of running."""
    saved = [(block, block.__dict__.get("forward")) for block in blocks]
    try:
        for index, block in enumerate(blocks):
            block.forward = _giver(outputs[index])  # type: ignore[method-assign]
        yield
    finally:
        for block, forward in saved:
            if forward is None:
                block.__dict__.pop("forward", None)
            else:
                block.forward = forward


def _giver(output: Any) -> Callable:
    def forward(*args: Any, **kwargs: Any) -> Any:
        return output

    return forward


def _keep_outputs(blocks: Sequence[nn.Module], outputs: dict[int, Any]) -> list[Any]:
    def keep(index: int) -> Callable:
        def hook(module, args, output):
            outputs[index] = output

        return hook

    return [block.register_forward_hook(keep(i)) for i, block in enumerate(blocks)]


def _cost(
    batch: Batch, logits: torch.Tensor, intact: torch.Tensor, ids: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy and KL(intact ‖ edited) per prompt, nats a token, at 1 ≤ t < length − 1."""
    ce, kl = [], []
    for row in range(len(ids)):  # one prompt at a time: log-probabilities are as large as logits
        new = log_probabilities(logits[row, :-1])
        old = new if intact is logits else log_probabilities(intact[row, :-1])
        ce.append(token_loss(new, ids[row, 1:]))
        kl.append(token_kl(old, new))
    counted = predictions(batch.layout)
    return tuple(mean_by_prompt(torch.stack(x), counted).float() for x in (ce, kl))  # type: ignore[return-value]
