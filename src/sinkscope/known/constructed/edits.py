"""Edits that switch parts of a constructed model off; use them inside `measure.restored`."""

from __future__ import annotations

import torch

from sinkscope.known.constructed.canvas import Canvas
from sinkscope.known.constructed.circuit import slow
from sinkscope.known.constructed.gpt_oss import NO_SINK
from sinkscope.known.constructed.record import position_table
from sinkscope.known.constructed.truth import Truth


def neurons_off(canvas: Canvas, neurons: list[list[int]]) -> None:
    """Zero the output columns of [block, neuron], in every expert."""
    for b, neuron in neurons:
        for expert in range(canvas.experts):
            canvas.down(b, expert)[:, neuron] = 0.0


def other_neurons(canvas: Canvas, truth: Truth, seed: int = 0) -> list[list[int]]:
    """As many neurons as write, of the same blocks, none of which is part of the circuit."""
    generator = torch.Generator().manual_seed(seed)
    second = (truth.secondary or {}).get("neurons", [])
    taken = {tuple(n) for n in (*truth.writing_neurons, *truth.recognising_neurons, *second)}
    chosen: list[list[int]] = []
    for b, _ in truth.writing_neurons:
        order = torch.randperm(canvas.neurons, generator=generator).tolist()
        neuron = next(n for n in order if (b, n) not in taken)
        taken.add((b, neuron))
        chosen.append([b, neuron])
    return chosen


def experts_off(canvas: Canvas, experts: list[list[int]]) -> None:
    """Zero what [block, expert] write."""
    for b, expert in experts:
        canvas.down(b, expert).zero_()


def heads_off(canvas: Canvas, heads: list[list[int]]) -> None:
    """Zero what [block, head] write."""
    for b, head in heads:
        canvas.out(b, head).zero_()


def embedding_without(canvas: Canvas, token: int, direction: torch.Tensor) -> None:
    """Remove a unit direction [d] from one token's embedding: e − ⟨e, u⟩u."""
    row = canvas.embedding[token]
    canvas.embedding[token] = row - (row @ direction) * direction


def position_replaced(canvas: Canvas, position: int, by: int) -> None:
    """Give one position id the embedding of another."""
    table = position_table(canvas)
    table[position] = table[by].clone()


def positions_swapped(canvas: Canvas, a: int, b: int) -> None:
    """Swap the embeddings of two position ids."""
    table = position_table(canvas)
    table[[a, b]] = table[[b, a]]


def query_bias_off(canvas: Canvas) -> None:
    """Zero every query bias."""
    for b in range(canvas.depth):
        for head in range(canvas.heads):
            bias = canvas.query_bias(b, head)
            assert bias is not None
            bias.zero_()


def key_columns_off(canvas: Canvas, channels: list[int]) -> None:
    """Zero the key columns of some channels, in every head."""
    for b in range(canvas.depth):
        for group in range(canvas.groups):
            canvas.key(b, group)[:, channels] = 0.0


def learned_off(canvas: Canvas) -> None:
    """Take the mass from every learned logit."""
    for b in range(canvas.depth):
        logits = canvas.learned(b)
        assert logits is not None
        logits.fill_(NO_SINK)


def readers_off(canvas: Canvas, heads: list[list[int]]) -> None:
    """Zero the queries of [block, head] that ask for the sink, bias included."""
    for b, head in heads:
        canvas.query(b, head)[slow(canvas)] = 0.0
        bias = canvas.query_bias(b, head)
        if bias is not None:
            bias.zero_()
