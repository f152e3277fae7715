"""Which linear maps are given outliers, where and in which channel.

A map has an outlier if the largest magnitude it is given at one position is more than RATIO times
the median over positions of the largest magnitude there: with one scale for all tokens, what the
others carry is then lost in a few steps.
"""

from __future__ import annotations

from collections import defaultdict
from functools import partial

import torch

from sinkscope.advice.bench import Bench
from sinkscope.intervene.edits.base import Context, at_positions
from sinkscope.intervene.edits.rounding import linear_maps
from sinkscope.observe.attention import run_model
from sinkscope.observe.registry import evaluation, hooks
from sinkscope.schema.advise import Outlier
from sinkscope.subject.tokens import token_text

RATIO = 20.0  # int8 has 127 steps: the typical largest value of a token is left with six of them
SHOWN = 40


def outliers(bench: Bench) -> list[Outlier]:
    """The maps with an outlier, the most extreme first, at most SHOWN."""
    largest = _largest(bench)
    found = [one for name, rows in largest.items() if rows and (one := _outlier(bench, name, rows))]
    found.sort(key=lambda one: -one["size"] / max(one["median"], 1e-30))
    return found[:SHOWN]


def _largest(bench: Bench) -> dict[str, list[tuple[torch.Tensor, torch.Tensor]]]:
    """Path -> for each batch the largest magnitude [B, T] it is given, and its channel."""
    seen: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = defaultdict(list)
    for batch in bench.prompts.batches():
        look = partial(_note_input, Context(bench.subject, batch))
        handles = [
            module.register_forward_pre_hook(partial(look, seen[name]))
            for name, module in linear_maps(bench.subject)
        ]
        with torch.no_grad(), evaluation(bench.subject.model), hooks(handles):
            run_model(bench.subject, batch, logits=False)
    return seen


def _note_input(
    context: Context, seen: list[tuple[torch.Tensor, torch.Tensor]], module, args
) -> None:
    """A forward pre-hook: the largest magnitude at each position of a map's input, its channel."""
    rows = at_positions(args[0], context)
    if rows is not None:
        size, channel = rows.float().abs().flatten(2).max(-1)
        seen.append((size.cpu(), channel.cpu()))


def _outlier(
    bench: Bench, name: str, rows: list[tuple[torch.Tensor, torch.Tensor]]
) -> Outlier | None:
    size = torch.cat([each for each, _ in rows])
    channel = torch.cat([each for _, each in rows])
    valid = torch.arange(size.shape[1]) < bench.prompts.lengths.unsqueeze(1)
    median = float(size[valid].median())
    at = int(size.masked_fill(~valid, -1.0).argmax())
    row, position = divmod(at, size.shape[1])
    if float(size[row, position]) <= RATIO * median:
        return None
    token = int(bench.prompts.input_ids[row, position])
    return {
        "module": name,
        "size": float(size[row, position]),
        "median": median,
        "position": position,
        "token": token_text(bench.subject.tokenizer, token),
        "channel": int(channel[row, position]),
    }
