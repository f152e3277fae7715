"""What a model loses on the next token, by prompt, over named positions.

A prediction made at position t is of token t + 1. Which predictions count is for the caller to say:
P0's own knows one token only, so on prompts those made at positions 1 and later count
(`predictions`); a training run counts every one.
"""

from __future__ import annotations

import torch

from sinkscope.observe.layout import Layout


def log_probabilities(logits: torch.Tensor) -> torch.Tensor:
    """Log-softmax over the vocabulary, in nats and fp32: logits [.., V] → [.., V]."""
    return logits.float().log_softmax(-1)


def token_loss(logprobs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of targets [..] under log-probabilities [.., V], nats."""
    return -logprobs.gather(-1, targets.to(logprobs.device).unsqueeze(-1)).squeeze(-1)


def token_kl(intact: torch.Tensor, changed: torch.Tensor) -> torch.Tensor:
    """KL(intact ‖ changed) of log-probabilities [.., V], nats: [..].

    With q − p added, which sums to 0, no term is negative.
    """
    p = intact.exp()
    return (p * (intact - changed) - p + changed.exp()).sum(-1).clamp_min(0.0)


def predictions(layout: Layout, first: int = 1) -> torch.Tensor:
    """[B, T − 1] predictions of real tokens made at positions `first` and later, P0 being 0."""
    same = layout.valid[:, 1:] & (layout.p0[:, 1:] == layout.p0[:, :-1])
    return same & layout.valid[:, :-1] & (layout.relative[:, :-1] >= first)


def mean_by_prompt(values: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """[B] mean of values [B, T] over what is counted, in double; 0 where nothing is."""
    counted = counted.to(values.device)
    total = torch.where(counted, values, 0.0).double().sum(1)
    return total / counted.sum(1).clamp_min(1)
