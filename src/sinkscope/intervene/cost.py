"""What an edit costs, by prompt in nats a token: next-token loss, and KL from the intact model.

Where logits were taken at some positions only, `at` [K] names them, and the means are over those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from sinkscope.observe.layout import layout_of
from sinkscope.observe.loss import (
    log_probabilities,
    mean_by_prompt,
    predictions,
    token_kl,
    token_loss,
)
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import TOKENS_PER_BATCH, Prompts
from sinkscope.subject.tokens import vocabulary

LOGITS = 1 << 26  # logits held at once
CACHED = 1 << 19  # logits of which log-probabilities are worked out at once on a CPU
At = torch.Tensor | None


def logit_batches(subject: Subject, prompts: Prompts) -> Iterator[Prompts]:
    """Consecutive slices of the rows, each with LOGITS logits at most, or one row."""
    tokens = min(TOKENS_PER_BATCH, LOGITS // vocabulary(subject))
    return prompts.batches(max(1, tokens // prompts.length))


def losses(logits: torch.Tensor, prompts: Prompts, first: int = 1, at: At = None) -> torch.Tensor:
    """[n] mean loss of the predictions made at positions `first` and later; logits [n, T, V]."""
    found = [
        _in_parts(lambda x, y: token_loss(log_probabilities(x), y), row, ids)
        for row, ids in zip(_predicting(logits, at), _targets(prompts, at))
    ]
    return mean_by_prompt(torch.stack(found), _counted(prompts, first, at)).cpu()


def divergences(
    intact: torch.Tensor,
    changed: torch.Tensor,
    prompts: Prompts,
    first: int = 1,
    at: At = None,
) -> torch.Tensor:
    """[n] mean KL(intact ‖ changed) at positions `first` and later; both logits [n, T, V]."""
    if intact is changed:
        return torch.zeros(len(prompts), dtype=torch.float64)
    found = [
        _in_parts(lambda x, y: token_kl(log_probabilities(x), log_probabilities(y)), a, b)
        for a, b in zip(_predicting(intact, at), _predicting(changed, at))
    ]
    return mean_by_prompt(torch.stack(found), _counted(prompts, first, at)).cpu()


def _in_parts(
    of: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    logits: torch.Tensor,
    other: torch.Tensor,
) -> torch.Tensor:
    """[T] of(logits, other) of one prompt, logits [T, V] and other [T, ..].

    On a CPU some positions at a time: what comes between is as large as the logits, and where it
    stays in the cache of the processor this takes a quarter of the time.
    """
    size = CACHED // logits.shape[-1] if logits.device.type == "cpu" else len(logits)
    parts = zip(logits.split(max(1, size)), other.split(max(1, size)))
    return torch.cat([of(a, b) for a, b in parts])


def spread_predictions(length: int, most: int) -> At:
    """At most so many positions, evenly spread over the predictions made at 1..T − 2, or None: all.

    They are the middles of equal parts.
    """
    count = length - 2
    if most >= count:
        return None
    return 1 + ((2 * torch.arange(most) + 1) * count) // (2 * most)


def _predicting(logits: torch.Tensor, at: At) -> torch.Tensor:
    return logits[:, :-1] if at is None else logits


def _targets(prompts: Prompts, at: At) -> torch.Tensor:
    ids = prompts.input_ids
    return ids[:, 1:] if at is None else ids[:, at + 1]


def _counted(prompts: Prompts, first: int, at: At) -> torch.Tensor:
    counted = predictions(layout_of(prompts, prompts.input_ids.device), first)
    return counted if at is None else counted[:, at]
