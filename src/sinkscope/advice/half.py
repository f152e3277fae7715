"""Does the model overflow float16, at which block, and where.

The largest magnitude at each read point of the residual stream and in what each linear map gives,
in the dtype it was loaded in, against 65,504; and, where memory allows a second copy, a pass in
float16 itself, since sums inside a layer can overflow where their result would not.
"""

from __future__ import annotations

import copy
from functools import partial

import numpy as np
import torch

from sinkscope.advice.bench import Bench
from sinkscope.advice.lines import lines, loadable
from sinkscope.errors import NotFinite
from sinkscope.intervene.edits.rounding import linear_maps
from sinkscope.observe.attention import run_model
from sinkscope.observe.registry import evaluation, hooks
from sinkscope.observe.residual import residual_hooks
from sinkscope.schema import Measured
from sinkscope.schema.advise import Advice
from sinkscope.subject.prompts import Prompts
from sinkscope.subject.tokens import token_text

QUESTION = "Is float16 safe?"
LARGEST = 65504.0
NEAR = 4.0  # other texts have larger values; a factor of four is kept in hand
ROWS, TOKENS = 2, 64
WIDER = ("overflows", "near the limit")  # answers with which another dtype is advised


def advise_half(bench: Bench) -> Advice:
    """Whether float16 holds what the model computes."""
    tops, where, channel, position, token = _largest(bench)
    size = float(tops.max())
    broken = _first_not_finite(bench)
    over = size > LARGEST or (broken is not None and broken != "")
    answer = "overflows" if over else "safe" if size * NEAR < LARGEST else "near the limit"
    if answer == "safe" and bench.too_little:
        answer = "undetermined"
    place = f"{where}, channel {channel}, at position {position} (on {token!r})"
    seen = f"the largest activation in {len(tops)} texts is {size:,.0f}"
    if over:
        beginning = f", first at {broken}" if broken else ""
        sentence = f"Load it in bfloat16: {seen} in {place}, and float16 ends at 65,504{beginning}."
    else:
        tried = "" if broken is None else "; a pass in float16 stayed finite"
        word = {
            "safe": "It is",
            "near the limit": "It is near the limit, so bfloat16 is safer",
            "undetermined": f"{bench.too_little} So far",
        }[answer]
        joint = " " if answer == "undetermined" else ": "
        sentence = f"{word}{joint}{seen} of 65,504, in {place}{tried}."
    name = loadable(bench.subject)
    return Advice(
        question=QUESTION,
        answer=answer,
        sentence=sentence,
        value=Measured(value=size),
        facts={
            "fp16": None if answer == "undetermined" else answer.replace(" ", "-"),
            "largest": size,
        },
        lines=lines("dtype", dtype="bfloat16", **name) if answer in WIDER else [],
        limits=_limits(bench, bench.mean(tops), broken),
    )


def _limits(bench: Bench, of_text: Measured, broken: str | None) -> str:
    """What a maximum over so many texts says of others, beside the largest of a text [mean]."""
    tried = f"The pass in float16 took {ROWS} texts."
    if broken is None:
        tried = f"No copy in float16 was made: {bench.no_copy}."
    ends = "" if of_text.low is None else f" ({of_text.low:,.0f} to {of_text.high:,.0f})"
    return (
        f"This is a maximum, not a mean: another document exceeds that of {bench.count} with a "
        f"chance of 1 in {bench.count + 1}, hence a factor of {NEAR:.0f} in hand. The largest "
        f"activation of a text is {of_text.value:,.0f} on average{ends}, in the dtype the model "
        "was loaded in. " + tried
    )


def _largest(bench: Bench) -> tuple[np.ndarray, str, int, int, str]:
    """The largest magnitude in each text [n]; of all, the part, channel, position and token."""
    tops: list[torch.Tensor] = []
    best: tuple[float, str, int, int, int] = (0.0, "nothing", 0, 0, 0)

    def look(batch: Prompts, name: str, x: torch.Tensor) -> None:
        nonlocal best
        size, channel = x.detach().float().abs().reshape(*batch.input_ids.shape, -1).max(-1)
        valid = torch.arange(size.shape[1]) < batch.lengths.unsqueeze(1)
        size = size.cpu().masked_fill(~valid, 0.0)
        torch.maximum(tops[-1], size.max(1).values, out=tops[-1])
        top = float(size.max())
        if top > best[0]:
            row, position = divmod(int(size.argmax()), size.shape[1])
            at = int(channel[row, position])
            best = (top, name, at, position, int(batch.input_ids[row, position]))

    def leave(batch: Prompts, name: str, module, args, output: torch.Tensor) -> None:
        if output.shape[:2] == batch.input_ids.shape:
            look(batch, name, output)

    def stream(batch: Prompts, point: int, hidden: torch.Tensor) -> None:
        look(batch, f"the stream at read point {point}", hidden)

    for batch in bench.prompts.batches():
        tops.append(torch.zeros(len(batch)))
        handles = [
            module.register_forward_hook(partial(leave, batch, name))
            for name, module in linear_maps(bench.subject)
        ]
        handles += residual_hooks(bench.subject, partial(stream, batch))()
        with torch.no_grad(), evaluation(bench.subject.model), hooks(handles):
            run_model(bench.subject, batch, logits=False)
    _, name, channel, position, token = best
    of_texts = torch.cat(tops).double().numpy()
    return of_texts, name, channel, position, token_text(bench.subject.tokenizer, token)


def _first_not_finite(bench: Bench) -> str | None:
    """The first block whose output is not finite in float16; "" for none, None if not tried."""
    subject = bench.subject
    if bench.no_copy:
        return None
    model = copy.deepcopy(subject.model).half().eval()
    half = type(subject)(model, subject.tokenizer, subject.anatomy, subject.identity)
    rows = bench.prompts.take(slice(0, ROWS)).first_tokens(TOKENS)
    try:
        with torch.no_grad():
            run_model(half, rows, logits=False)
    except NotFinite as error:
        return "the end" if error.block is None else f"block {error.block}"
    return ""
