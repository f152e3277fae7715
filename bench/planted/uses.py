"""What a sink is good for: constructed P0 circuits whose heads read something at position zero."""

from __future__ import annotations

import math
from typing import Any

import torch

from sinkscope.known.constructed.build import build_canvas, byte_tokenizer
from sinkscope.known.constructed.canvas import Canvas
from sinkscope.known.constructed.choices import BLOCKS
from sinkscope.known.constructed.plan import Plan, make_plan
from sinkscope.known.constructed.spec import draw_spec
from sinkscope.known.constructed.truth import Truth
from sinkscope.settings import BUILTIN
from sinkscope.subject.documents import read_documents

USES = ("used", "harmful", "changes predictions", "only there")
SIZE = 4.0  # of what all reading heads together add to a stream
RARE = (250, 251)  # ids that the bundled text never has
LIKELY = 4.5  # logit of both where the sink does not tell them apart: two fifths of the mass


def build_use(use: str, seed: int) -> tuple[Any, Any, Truth]:
    """A Llama with a P0 circuit whose sink is of this use, its tokenizer and its truth.

    used                 heads read at P0 how frequent every token of the bundled text is
    harmful              they read the opposite
    changes predictions  they read which of two tokens is next, neither of which the text has
    only there           they read nothing, and nothing predicts but the frequencies themselves
    """
    block = BLOCKS["p0-two-block"][0]
    spec = draw_spec(
        "p0-two-block", seed, family="llama", vocab=258, blocks=block, from_block=2, depth=3,
        key_heads=4, heads=4, width=128, noise=0.02,
    )  # fmt: skip
    canvas, truth = build_canvas(spec)
    plan = make_plan(spec)
    with torch.no_grad():
        for b, head in truth.reading_heads:
            canvas.value(b, head).zero_()
            canvas.out(b, head).zero_()
            if use != "only there":
                canvas.value(b, head)[0] = plan.sink / plan.unit
                canvas.out(b, head)[:, 0] = SIZE / len(truth.reading_heads) * plan.mark
        told, always, longer = _entries(canvas, plan, truth)
        canvas.readout.zero_()
        frequencies = _log_frequencies(spec.vocab)[:, None]
        if use == "used":
            canvas.readout.add_(frequencies * told)
        elif use == "harmful":
            canvas.readout.add_(-frequencies * told)
        elif use == "changes predictions":
            one, other = RARE  # their probabilities add up to the same with the sink and without
            alone = LIKELY * (longer - 1) + math.log(2)
            canvas.readout[one] = LIKELY * always + alone * told
            canvas.readout[other] = LIKELY * (always - told)
        else:
            canvas.readout.add_(frequencies * always)
    return canvas.model.eval(), byte_tokenizer(spec.vocab), truth


def _entries(canvas: Canvas, plan: Plan, truth: Truth) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Rows that read one, behind the final norm: what the heads add, and the constant.

    Also by how much longer the constant is there where the heads add nothing.
    """
    ids = torch.randint(2, plan.spec.vocab, (8, 64), generator=torch.Generator().manual_seed(0))
    heads = [canvas.out(b, head) for b, head in truth.reading_heads]
    saved = [each.clone() for each in heads]
    entries = []
    for factor in (1.0, 0.0):
        for each, weights in zip(heads, saved):
            each.copy_(factor * weights)
        state = canvas.model.model(ids).last_hidden_state[:, 1:]
        entries.append([float((state @ along).mean()) for along in (plan.mark, plan.constant)])
    for each, weights in zip(heads, saved):
        each.copy_(weights)
    (told, constant), (_, longer) = entries
    return plan.mark / (told or 1.0), plan.constant / constant, longer / constant


def _log_frequencies(vocab: int) -> torch.Tensor:
    """Centred log frequency of every id in the bundled text, [vocab]."""
    documents, _ = read_documents(BUILTIN)
    ids = torch.tensor(list("".join(documents).encode())) + 2
    logs = (torch.bincount(ids, minlength=vocab).float() + 0.1).log()
    return logs - logs.mean()
