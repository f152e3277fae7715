"""P0 circuits with something that misleads: weak, rare, conditional, or beside what is not read."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from sinkscope.known.constructed import circuit, record
from sinkscope.known.constructed.canvas import Canvas
from sinkscope.known.constructed.circuit import GATE
from sinkscope.known.constructed.plan import BOS, CONSTANT, EOS, FLAG, SHARED, Plan
from sinkscope.known.constructed.truth import Truth
from sinkscope.settings import BUILTIN
from sinkscope.subject.documents import read_documents

LATE_KEYS = 48  # keys that a late query sees on average, at 64 tokens
HINT = 3.0  # size of a mark that decides only together with the flag
PART = 0.25  # of the first tokens of texts are marked
UNREAD = 10.0  # what no head reads, over what heads read
SATURATED = 6.0  # gate that a silenced pair of neurons differs by
BYTES = 2  # ids below are special


def weak(canvas: Canvas, plan: Plan, truth: Truth) -> None:
    """Heads attend uniformly but for P0, which gets a share of their attention."""
    record.recognise(canvas, plan, truth)
    record.amplify(canvas, plan, truth)
    truth.share = plan.spec.share
    heads = circuit.pick_heads(canvas, plan)
    for b, head in heads:
        canvas.query(b, head).zero_()
    logit = math.log(LATE_KEYS * truth.share / (1 - truth.share))
    truth.reading_heads = circuit.read_sink(canvas, plan, chosen=heads, logit=logit)
    record.settle(plan, truth, "p0", "p0-circuit")


def few_heads(canvas: Canvas, plan: Plan, truth: Truth) -> None:
    """One head in one block reads what the circuit writes."""
    record.recognise(canvas, plan, truth)
    record.amplify(canvas, plan, truth)
    truth.reading_heads = circuit.read_sink(canvas, plan, blocks=[plan.spec.from_block])
    record.settle(plan, truth, "p0", "p0-circuit")


def part(canvas: Canvas, plan: Plan, truth: Truth) -> None:
    """The circuit writes at P0 only where the token there is one of a quarter of those of texts."""
    truth.tokens = _common(plan, PART)
    canvas.embedding[truth.tokens] += HINT * plan.mark
    record.recognise(canvas, plan, truth)
    block = plan.spec.blocks[0]
    truth.writing_neurons = _amplify_marked(canvas, plan, block, circuit.amplified_size(plan))
    record.massive(canvas, plan, truth, "p0", record.all_experts(canvas))
    record.read(canvas, plan, truth, "p0", "p0-circuit")


def real_tokens(canvas: Canvas, plan: Plan, truth: Truth) -> None:
    """Ids that no text gives are marked; other neurons write where one of them is at P0."""
    truth.tokens = list(range(256 + BYTES, plan.spec.vocab))
    canvas.embedding[truth.tokens] += HINT * plan.mark
    record.recognise(canvas, plan, truth)
    size, every = circuit.amplified_size(plan), record.all_experts(canvas)
    text, rest = plan.spec.blocks if plan.pick(1, 2)[0] else plan.spec.blocks[::-1]
    truth.unread = _amplify_marked(canvas, plan, rest, size)
    truth.writing_neurons = circuit.amplify_flag(canvas, plan, text, every, size)
    for b, neuron in truth.writing_neurons:  # a mark closes the gate
        row = canvas.gate(b)[neuron]
        row -= (row @ plan.flag) * plan.mark
    truth.amplifying_blocks = [text]
    truth.amplification, truth.massive_at, truth.massive_from = "norm", "p0", text + 1
    record.read(canvas, plan, truth, "p0", "p0-circuit")


def suppression(canvas: Canvas, plan: Plan, truth: Truth) -> None:
    """Every token has the sink direction; an MLP takes it away wherever the flag is down.

    A pair of neurons with gates a + SATURATED and a, and opposite outputs, writes the same for
    every large a, and nothing where both are far below zero, which is at P0.
    """
    canvas.embedding.add_(SHARED * plan.sink)
    record.recognise(canvas, plan, truth)
    threshold = circuit.flag_threshold(canvas, plan)
    stream, block = plan.base, plan.spec.blocks[0]
    gain = GATE * stream / (plan.unit * (FLAG - threshold))
    one = stream / (plan.unit * CONSTANT) * plan.constant
    gate = gain * (threshold / CONSTANT * plan.constant - plan.flag)
    chosen = plan.pick(2 * plan.spec.writers, canvas.neurons)
    size = SHARED / (SATURATED * plan.spec.writers)
    for i, neuron in enumerate(chosen):
        up, sign = (SATURATED * one, -1.0) if i % 2 else (0.0 * one, 1.0)
        circuit.write_neuron(canvas, block, neuron, 0, gate + up, one, sign * size * plan.sink)
    truth.writing_neurons = [[block, neuron] for neuron in chosen]
    truth.amplifying_blocks, truth.amplification = [block], "direction"
    cosine = SHARED / math.sqrt(plan.base**2 + circuit.LENGTH + FLAG**2)
    truth.reading_heads = circuit.read_sink(canvas, plan, 0.75 * cosine)
    record.settle(plan, truth, "p0", "p0-circuit")


def spike_before(canvas: Canvas, plan: Plan, truth: Truth) -> None:
    """An early MLP makes P0 huge along what no head reads, a later one writes what heads read."""
    record.recognise(canvas, plan, truth)
    every, (early, late) = record.all_experts(canvas), plan.spec.blocks
    huge = circuit.amplified_size(plan)
    size = huge * 3 / UNREAD
    truth.unread = circuit.amplify_flag(canvas, plan, early, every, huge, plan.mark)
    truth.writing_neurons = circuit.amplify_flag(
        canvas, plan, late, every, size, written=(huge**2,)
    )
    _unread(canvas, plan, truth, (late, early), size / math.hypot(size, huge))


def spike_after(canvas: Canvas, plan: Plan, truth: Truth) -> None:
    """A short write that heads read, and behind the last of them a huge one that none does."""
    record.recognise(canvas, plan, truth)
    every, (early, late) = record.all_experts(canvas), plan.spec.blocks
    huge, size = circuit.amplified_size(plan), plan.base / 2
    truth.writing_neurons = circuit.amplify_flag(canvas, plan, early, every, size)
    truth.unread = circuit.amplify_flag(
        canvas, plan, late, every, huge, plan.mark, written=(size**2,)
    )
    cosine = 0.75 * size / math.hypot(size, plan.base + 4)
    _unread(canvas, plan, truth, (early, late), cosine, range(plan.spec.from_block, late + 1))


def unread_writers(canvas: Canvas, plan: Plan, truth: Truth) -> None:
    """The block that writes what heads read writes ten times as much along what none does."""
    record.recognise(canvas, plan, truth)
    every, block = record.all_experts(canvas), plan.spec.blocks[0]
    huge = circuit.amplified_size(plan)
    apart = plan.pick(2 * plan.spec.writers, canvas.neurons)
    for size, along, mine in ((huge, plan.mark, apart[::2]), (huge / UNREAD, None, apart[1::2])):
        neurons = circuit.amplify_flag(canvas, plan, block, every, size, along, chosen=mine)
        truth.unread, truth.writing_neurons = truth.writing_neurons, neurons
    _unread(canvas, plan, truth, (block, block), 1 / math.hypot(1, UNREAD))


def _unread(
    canvas: Canvas,
    plan: Plan,
    truth: Truth,
    blocks: tuple[int, int],
    cosine: float,
    readers: Sequence[int] | None = None,
) -> None:
    """Record what is written and read; `blocks` are those that write what is read, and what not."""
    writes, spikes = blocks
    truth.amplifying_blocks, truth.amplification = [writes], "norm"
    truth.massive_at, truth.massive_from = "p0", spikes + 1
    if canvas.experts > 1:
        truth.experts = [[writes, expert] for expert in record.all_experts(canvas)]
    truth.reading_heads = circuit.read_sink(canvas, plan, cosine, blocks=readers)
    record.settle(plan, truth, "p0", "p0-circuit")


def _amplify_marked(canvas: Canvas, plan: Plan, block: int, size: float) -> list[list[int]]:
    """Neurons that write where the flag is up and the token marked, not where only one is."""
    alone, mixed = (f(canvas, plan, HINT**2) for f in (circuit.flag_at_p0, circuit.flag_mixed))
    weight = (FLAG - mixed) / HINT  # an unmarked P0 and a marked later token reach the same
    threshold = FLAG + (alone - mixed) / 2
    stream = math.sqrt(plan.base**2 + circuit.LENGTH + alone**2 + HINT**2)
    gain = GATE * stream / (plan.unit * (alone - mixed) / 2)
    gate = gain * (plan.flag + weight * plan.mark - threshold / CONSTANT * plan.constant)
    every = record.all_experts(canvas)
    return circuit.writers(canvas, plan, block, every, gate, stream, size)


def _shuffled(plan: Plan, items: list[int]) -> list[int]:
    return [items[i] for i in torch.randperm(len(items), generator=plan.generator).tolist()]


def _common(plan: Plan, share: float) -> list[int]:
    """Drawn bytes that make up a share of the bundled text."""
    documents, _ = read_documents(BUILTIN)
    text = "".join(documents).encode()
    chosen: list[int] = []
    reached = 0.0
    for byte in _shuffled(plan, sorted(set(text))):
        often = text.count(byte) / len(text)
        if reached + often <= share + 0.02:
            chosen.append(byte + BYTES)
            reached += often
    return [i for i in chosen if i not in (BOS, EOS)]
