"""Two attention readers behind one interface.

`exact` leaves the logits those of the untouched model, bit for bit. `lean` never holds a map.
Families that do not use transformers' attention registry are read from the maps that their own
attention modules return, one block at a time (`own maps`).
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from sinkscope.errors import InputError, NotFinite, OutOfResources, Unsupported, is_out_of_memory
from sinkscope.observe.layout import Layout, layout_of
from sinkscope.observe.pieces import Assembly, as_before, piece_inputs
from sinkscope.observe.reads import AttentionRead, Want
from sinkscope.observe.registry import attention_functions, evaluation, hooks
from sinkscope.observe.tap import OUTSIDE, Tap, own_map_hooks
from sinkscope.subject.anatomy import NOT_CAUSAL
from sinkscope.subject.load import Subject
from sinkscope.subject.memory import available
from sinkscope.subject.probe import logits_of, why_not_finite
from sinkscope.subject.prompts import Prompts

READERS = ("auto", "exact", "lean")


def check_reader(reader: str) -> None:
    """InputError for a reader that there is not."""
    if reader not in READERS:
        raise InputError(f"reader {reader!r} is not one of {', '.join(READERS)}.")


def observe(
    subject: Subject,
    prompts: Prompts,
    want: Want | None = None,
    reader: str = "auto",
    extra_hooks: Callable[[], list[Any]] | None = None,
    logits: bool = False,
    size: int | None = None,
    piece: Callable[[int, int], None] | None = None,
) -> tuple[list[AttentionRead], Layout, Any]:
    """One forward pass over a batch, with its attention read in every softmax block.

    reader       exact, lean, or auto (lean, with exact where lean cannot be right)
    extra_hooks  called when the pass begins, returns hook handles that are removed after it
    logits       run the whole model and return its logits; otherwise the decoder only
    size         tokens that go through at a time (`observe.prefill` chooses them); None for all.
                 Not with logits, columns or maps; hooks and `inspect` see a piece at a time
    piece        called with the tokens start..stop that go through next

    Returns the reads in order of the blocks, the layout of the rows, and the logits or None.
    Raises Unsupported when a block that declares softmax attention was not seen.
    """
    want = want or Want()
    layout = layout_of(prompts, subject.device)
    tap = Tap(layout, want, "exact" if reader == "exact" else "lean")
    inputs = model_inputs(subject, prompts)
    found = Assembly(prompts.length)
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(evaluation(subject.model))
        stack.enter_context(hooks(follow_blocks(tap, subject.anatomy.modules(subject.model))))
        if extra_hooks is not None:
            stack.enter_context(hooks(extra_hooks()))
        inputs |= _tapped(stack, subject, tap, reader)
        for (start, stop), part in piece_inputs(inputs, size, subject.model.config):
            if size is not None:
                tap.begin(start, stop)
            if piece is not None:
                piece(start, stop)
            output = call_model(subject, part, logits)
            found.add(tap.reads, start, stop)
    tap.reads = found.reads
    check_all_seen(subject, tap)
    if prompts.position_ids is not None:
        _check_kept_apart(subject, tap)
    return tap.reads, layout, output


def _tapped(stack: ExitStack, subject: Subject, tap: Tap, reader: str) -> dict[str, Any]:
    """Have the attention of the model pass through the tap; what to call the model with for that.

    Raises Unsupported for the lean reader on a model that does not use the attention registry.
    """
    by_registry, blocks = uses_registry(subject.model), subject.anatomy.modules(subject.model)
    if not by_registry and reader == "lean":
        raise Unsupported(
            f"{subject.anatomy.model_type} does not use the attention registry, so the lean reader "
            "cannot reach it; use --reader auto or exact."
        )
    if not by_registry:
        stack.enter_context(hooks(own_map_hooks(tap, blocks)))
    masks = "sdpa" if by_registry and tap.reader == "lean" else "eager"
    stack.enter_context(attention_functions(subject.model, tap.attention, masks))
    return {} if by_registry else {"output_attentions": True}


def uses_registry(model: Any) -> bool:
    """Whether the model's file takes its attention from transformers' registry."""
    decoder = getattr(model, "base_model", model)
    module = sys.modules.get(type(decoder).__module__)
    return hasattr(module, "ALL_ATTENTION_FUNCTIONS") and hasattr(module, "eager_attention_forward")


def run_model(subject: Subject, prompts: Prompts, logits: bool) -> Any:
    """Plain forward pass: logits [B, T, V], or None when only the decoder was run."""
    return call_model(subject, model_inputs(subject, prompts), logits)


def call_model(
    subject: Subject, inputs: dict[str, Any], logits: bool, at: torch.Tensor | None = None
) -> Any:
    """The forward call itself; raises OutOfResources where memory runs out.

    at  [K] positions whose logits are wanted; None for all
    """
    model = subject.model
    rows, length = inputs["input_ids"].shape
    # without the head: its logits would dwarf everything else at long lengths
    target = model if logits else getattr(model, "base_model", model)
    if at is not None and logits and _accepts(model, "logits_to_keep"):
        inputs = {**inputs, "logits_to_keep": at.to(subject.device)}
    refuse_square(subject, inputs)
    again = as_before(inputs)
    try:
        out = target(**inputs)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfResources(
            f"Out of memory at {rows} × {length} tokens; use a shorter --length."
        ) from None
    refuse_overflow(subject, target, again, out)
    if not logits:
        return None
    found = logits_of(model, out)
    # a family need not take positions
    return found if at is None or found.shape[1] == len(at) else found[:, at.to(found.device)]


def refuse_square(subject: Subject, inputs: dict[str, Any]) -> None:
    """OutOfResources where a whole text asks for masks that memory has no room for.

    The system would rather end the process than say so. Plain causality needs no mask; windows and
    padding take a truth value and a summand for each pair of tokens.
    """
    length = inputs["input_ids"].shape[1]
    windows = {block.layer_type for block in subject.anatomy.blocks} & {"sliding", "chunked"}
    masked = windows or "attention_mask" in inputs
    if not masked or "past_key_values" in inputs or subject.device.type != "cpu":
        return
    needed, free = length**2 * (1 + subject.dtype.itemsize), available()
    if free is not None and needed > free:
        raise OutOfResources(
            f"The masks of {length:,} tokens in one piece take {needed / 1e9:,.1f} GB of memory, "
            f"and {free / 1e9:,.1f} GB are free; use a shorter --length. Only scan takes long "
            "texts in pieces."
        )


def refuse_overflow(
    subject: Subject, target: Any, again: Callable[[], dict[str, Any]], out: Any
) -> None:
    """Raise NotFinite where what a pass gives is not finite, with the block in which that begins.

    One look at the last state of every token a pass; only where it fails, the pass runs once more.

    again  gives the arguments of the call (see `as_before`)
    """
    logits = getattr(out, "logits", None)
    last = getattr(out, "last_hidden_state", None) if logits is None else logits[..., :1]
    if last is None or last.device.type == "meta":
        return
    finite = torch.isfinite(last).all(-1)
    if bool(finite.all()):
        return
    inputs = again()
    mask = inputs.get("attention_mask")
    if isinstance(mask, torch.Tensor) and mask.dim() == 2:
        finite = finite | ~mask[:, -finite.shape[1] :].bool().to(finite.device)
    if bool(finite.all()):
        return
    begins: list[int] = []

    def look(index: int) -> Callable:
        def hook(module, args, output):
            hidden = output[0] if isinstance(output, (tuple, list)) else output
            if not torch.isfinite(hidden).all():
                begins.append(index)

        return hook

    blocks = subject.anatomy.modules(subject.model)
    where = "behind the last block on"
    with hooks([b.register_forward_hook(look(i)) for i, b in enumerate(blocks)]):
        try:
            target(**inputs)
        except Exception:  # noqa: BLE001 - what is hooked to the pass may stand but one
            where = "in this pass"
    where = f"from block {begins[0]} on" if begins else where
    dtype = str(subject.dtype).removeprefix("torch.")
    half = "use --dtype bfloat16."
    then = half if dtype == "float16" else f"what it gives {why_not_finite(subject.model)}"
    sentence = f"the activations are not finite in {dtype} {where}; {then}"
    raise NotFinite(sentence, begins[0] if begins else None)


def model_inputs(subject: Subject, prompts: Prompts) -> dict[str, Any]:
    """Keyword arguments of the forward call. Left padding gets positions that count from P0."""
    device = subject.device
    inputs: dict[str, Any] = {"input_ids": prompts.input_ids.to(device), "use_cache": False}
    positions = prompts.position_ids
    if prompts.attention_mask is not None:
        mask = prompts.attention_mask.to(device)
        inputs["attention_mask"] = mask
        positions = (mask.long().cumsum(1) - 1).clamp_min(0)
    decoder = getattr(subject.model, "base_model", subject.model)
    if positions is not None and _accepts(decoder, "position_ids"):
        inputs["position_ids"] = positions.to(device)
    elif prompts.position_ids is not None:
        raise Unsupported(
            f"{subject.anatomy.model_type} takes no position ids, so packed rows "
            "cannot be kept apart."
        )
    return inputs


def _accepts(target: Any, name: str) -> bool:
    return name in inspect.signature(target.forward).parameters


def follow_blocks(tap: Tap, blocks: list[nn.Module]) -> list[Any]:
    """Hooks that tell the tap which block is running."""

    def enter(index: int) -> Callable:
        def hook(module, args):
            tap.block = index

        return hook

    def leave(module, args, output):
        tap.block = OUTSIDE

    handles = []
    for index, block in enumerate(blocks):
        handles.append(block.register_forward_pre_hook(enter(index)))
        handles.append(block.register_forward_hook(leave))
    return handles


def check_all_seen(subject: Subject, tap: Tap) -> None:
    """Raise Unsupported where a block that declares softmax attention was not seen."""
    seen = {read.block for read in tap.reads}
    types = [block.layer_type for block in subject.anatomy.blocks]
    missing = [
        i for i, kind in enumerate(types) if kind not in ("linear", "none") and i not in seen
    ]
    _check_causal(subject, tap, seen)
    if not seen:
        raise Unsupported(
            f"No attention of {subject.anatomy.model_type} could be read: it neither "
            "uses the attention registry nor returns its maps."
        )
    declared = getattr(subject.model.config.get_text_config(decoder=True), "layer_types", None)
    if missing and declared:
        raise Unsupported(
            f"Attention of blocks {missing} of {subject.anatomy.model_type} was "
            "not seen, so the model cannot be read faithfully."
        )


def _check_causal(subject: Subject, tap: Tap, seen: set[int]) -> None:
    """Refuse attention that looks ahead, by its own word or by the mask that it was given."""
    ahead = sorted(tap.not_causal - seen)
    for read in tap.reads:
        keys = read.visible.keys_seen
        own = torch.arange(1, keys.shape[-1] + 1, device=keys.device)
        if bool((keys > own).any()):
            ahead.append(read.block)
    if ahead:
        raise Unsupported(NOT_CAUSAL.format(f"{subject.anatomy.model_type}, block {ahead[0]}"))


def _check_kept_apart(subject: Subject, tap: Tap) -> None:
    """Packed segments must not see each other: a family may ignore where positions start again."""
    own = tap.layout.relative + 1
    for read in tap.reads:
        if bool(((read.visible.keys_seen > own) & tap.layout.valid).any()):
            raise Unsupported(
                f"{subject.anatomy.model_type} does not keep packed rows apart: its "
                f"block {read.block} attends across segments."
            )
