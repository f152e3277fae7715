"""What an edit costs: next-token loss, and divergence from the intact model, by prompt.

Predictions made at positions 1 and later count (P0's own knows one token only), in nats a token.
"""

from __future__ import annotations

import torch

from sinkscope.subject.prompts import Prompts


def losses(logits: torch.Tensor, prompts: Prompts, first: int = 2) -> torch.Tensor:
    """[n] mean cross-entropy of the tokens at positions `first` and later; logits [n, T, V]."""
    targets = prompts.input_ids[:, first:].to(logits.device).unsqueeze(-1)
    # a prompt at a time: log-probabilities are as large as logits
    found = [-_logs(row, first).gather(1, ids).squeeze(1) for row, ids in zip(logits, targets)]
    return _mean(found, prompts, first)


def divergences(intact: torch.Tensor, changed: torch.Tensor, prompts: Prompts) -> torch.Tensor:
    """[n] mean KL(intact ‖ changed); both logits [n, T, V]."""
    if intact is changed:
        return torch.zeros(len(prompts), dtype=torch.float64)
    return _mean([_kl(_logs(a), _logs(b)) for a, b in zip(intact, changed)], prompts)


def _logs(logits: torch.Tensor, first: int = 2) -> torch.Tensor:
    """Log-probabilities [T − first, V] of one prompt, those of tokens from `first` on."""
    return logits[first - 1 : -1].float().log_softmax(-1)


def _kl(intact: torch.Tensor, changed: torch.Tensor) -> torch.Tensor:
    """[..] KL(intact ‖ changed); with q − p added, which sums to 0, no term is negative."""
    p = intact.exp()
    return (p * (intact - changed) - p + changed.exp()).sum(-1).clamp_min(0.0)


def _mean(values: list[torch.Tensor], prompts: Prompts, first: int = 2) -> torch.Tensor:
    """[n] mean over the predictions of real tokens; values [T − first] of each prompt."""
    stacked = torch.stack(values).double().cpu()
    real = torch.arange(first, prompts.length) < prompts.lengths.unsqueeze(1)
    return (stacked * real).sum(1) / real.sum(1).clamp_min(1)
