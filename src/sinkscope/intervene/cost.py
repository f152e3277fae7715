"""What an edit costs, by prompt in nats a token: next-token loss, and KL from the intact model."""

from __future__ import annotations

import torch

from sinkscope.observe.layout import layout_of
from sinkscope.observe.loss import (
    log_probabilities,
    mean_by_prompt,
    predictions,
    token_kl,
    token_loss,
)
from sinkscope.subject.prompts import Prompts


def losses(logits: torch.Tensor, prompts: Prompts, first: int = 1) -> torch.Tensor:
    """[n] mean loss of the predictions made at positions `first` and later; logits [n, T, V]."""
    # a prompt at a time: log-probabilities are as large as logits
    found = [
        token_loss(log_probabilities(row[:-1]), ids[1:])
        for row, ids in zip(logits, prompts.input_ids)
    ]
    return mean_by_prompt(torch.stack(found), _counted(prompts, first)).cpu()


def divergences(
    intact: torch.Tensor, changed: torch.Tensor, prompts: Prompts, first: int = 1
) -> torch.Tensor:
    """[n] mean KL(intact ‖ changed) at positions `first` and later; both logits [n, T, V]."""
    if intact is changed:
        return torch.zeros(len(prompts), dtype=torch.float64)
    found = [
        token_kl(log_probabilities(a[:-1]), log_probabilities(b[:-1]))
        for a, b in zip(intact, changed)
    ]
    return mean_by_prompt(torch.stack(found), _counted(prompts, first)).cpu()


def _counted(prompts: Prompts, first: int) -> torch.Tensor:
    return predictions(layout_of(prompts, prompts.input_ids.device), first)
