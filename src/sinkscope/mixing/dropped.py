"""BOS dropped: out of distribution for a model that always had one, so it is reported apart."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from sinkscope.intervene.cost import logit_batches, losses
from sinkscope.mixing.conditions import Condition, run
from sinkscope.mixing.dose import Cost
from sinkscope.mixing.pairs import Pairs
from sinkscope.mixing.perturbation import Spread, perturb
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts


def dropped_bos(subject: Subject, pairs: Pairs) -> tuple[Spread, Cost]:
    """Spread and loss of the same text without its BOS token, the loss on the same tokens."""
    short = Pairs(
        without_first(pairs.prompts),
        pairs.variants[:, :, 1:],
        pairs.first - 1,
        pairs.last - 1,
        pairs.kinds,
    )
    spread = perturb(subject, short)
    before, after = (
        text_loss(subject, prompts, first)
        for prompts, first in ((pairs.prompts, 3), (short.prompts, 2))
    )
    none = np.full(len(pairs), np.nan)
    condition = Condition("bos-dropped")
    return spread, Cost(condition, after - before, none, none, none)


def without_first(prompts: Prompts) -> Prompts:
    """The prompts without their first token."""
    return dataclasses.replace(
        prompts, input_ids=prompts.input_ids[:, 1:], lengths=prompts.lengths - 1, bos="without"
    )


def with_first(prompts: Prompts, token: int) -> Prompts:
    """The prompts with a token before their first."""
    first = torch.full((len(prompts), 1), token)
    return dataclasses.replace(
        prompts, input_ids=torch.cat([first, prompts.input_ids], 1), lengths=prompts.lengths + 1
    )


def text_loss(subject: Subject, prompts: Prompts, first: int) -> np.ndarray:
    """[n] mean loss of the tokens from `first` on."""
    found = []
    for batch in logit_batches(subject, prompts):
        logits = run(subject, batch, logits=True).logits
        assert logits is not None
        found.append(losses(logits, batch, first - 1).numpy())
    return np.concatenate(found)
