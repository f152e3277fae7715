"""P0 read at a long context, over a plain pass in the same pieces: 4 blocks of width 512.

Each piece goes plainly through one copy of the model and read through another, in turns, so that
both see the same machine; how far it is stands on stderr, with the ratio so far. Behind that, the
attention that all keys receive, and a plain pass over the whole in one piece.
"""

from __future__ import annotations

import copy
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from typing import Any

from scale_parts.common import floor, peak_gb

WIDTH, BLOCKS, HEADS, VOCABULARY = 512, 4, 8, 1024
TOLD = 16_384  # tokens, at the most, between two lines on stderr


def measure(options: Namespace) -> dict[str, Any]:
    """CPU seconds of both in turns, and the peak of memory."""
    import torch

    from sinkscope.observe.attention import observe, run_model
    from sinkscope.observe.parity import token_prompts
    from sinkscope.observe.prefill import PIECE, WHOLE, prefill_of
    from sinkscope.observe.reads import Want
    from sinkscope.subject.load import Subject

    torch.manual_seed(0)
    model = _model(options)
    subject, other = Subject.from_model(model), Subject.from_model(copy.deepcopy(model))
    prompts = token_prompts(torch.randint(VOCABULARY, (1, options.length)))
    warm = token_prompts(prompts.input_ids[:, :64])
    size = prefill_of(subject, prompts).size
    if size is None:
        assert options.length <= WHOLE
        size = PIECE  # shorter than what goes in pieces by itself, for a curve

    def read(of: Subject, batch: Any, want: Want, **about: Any) -> None:
        observe(of, batch, want, "lean", size=size, **about)

    loaded = peak_gb()
    for warming in (Want(received=False), Want()):
        read(subject, warm, warming)
    turns = _Turns(_plain_pieces(other, prompts, size))
    read(subject, prompts, Want(received=False), piece=turns.plain)
    turns.end(options.length)
    peak = peak_gb()
    began = time.process_time()
    read(subject, prompts, Want())
    all_keys = time.process_time() - began
    began = time.process_time()
    with torch.no_grad():
        run_model(other, prompts, logits=False)
    whole = time.process_time() - began
    seconds = {"plain": turns.seconds["plain"], "p0": turns.seconds["p0"]}
    seconds |= {"all keys": all_keys, "plain, in one piece": whole}
    return {
        "length": options.length,
        "piece": size,
        "dtype": options.dtype,
        "threads": torch.get_num_threads(),
        "cpu_seconds": {name: round(value, 1) for name, value in seconds.items()},
        "all_keys_over_plain": round(all_keys / seconds["plain"], 2),
        "p0_over_plain_in_one_piece": round(seconds["p0"] / whole, 2),
        "gb_when_loaded": round(loaded, 2),
        "gb_with_all_keys": round(peak_gb(), 2),
        "floors": [
            floor("peak resident memory with both caches, GB", peak, 16.0),
            floor("P0 column over a plain pass in the same pieces, CPU time",
                  seconds["p0"] / seconds["plain"], 1.15),
        ],
    }  # fmt: skip


def _model(options: Namespace) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=4 * WIDTH,
        num_hidden_layers=BLOCKS, num_attention_heads=HEADS, num_key_value_heads=HEADS,
        max_position_embeddings=options.length,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval().to(getattr(torch, options.dtype))


def _plain_pieces(subject: Any, prompts: Any, size: int) -> Iterator[None]:
    """A plain pass by transformers' own attention and cache; each step takes a piece."""
    import torch

    from sinkscope.observe.attention import call_model, model_inputs
    from sinkscope.observe.pieces import piece_inputs

    inputs = model_inputs(subject, prompts)
    for _, piece in piece_inputs(inputs, size, subject.model.config):
        with torch.no_grad():
            call_model(subject, piece, logits=False)
        yield


class _Turns:
    """Takes the plain piece before each one that is read, and the CPU time of both."""

    def __init__(self, pieces: Iterator[None]) -> None:
        self.pieces = pieces
        self.seconds = {"plain": 0.0, "p0": 0.0}
        self._read_since: float | None = None
        self._told = 0

    def plain(self, start: int, stop: int) -> None:
        """Called before tokens start..stop are read."""
        self.end(start)
        began = time.process_time()
        next(self.pieces)
        self._read_since = time.process_time()
        self.seconds["plain"] += self._read_since - began

    def end(self, done: int) -> None:
        """What has been read since the last plain piece ends here; told every now and then."""
        if self._read_since is not None:
            self.seconds["p0"] += time.process_time() - self._read_since
        if done >= min(2 * self._told, self._told + TOLD) and done:
            self._told = done
            plain, p0 = self.seconds["plain"], self.seconds["p0"]
            said = f"{done:>7} tokens: plain {plain:.1f} s, P0 read {p0:.1f} s ({p0 / plain:.3f}), "
            print(said + f"peak {peak_gb():.2f} GB", file=sys.stderr, flush=True)
