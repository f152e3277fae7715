"""A prefixed sink in full precision (PrefixQuant's question, Chen et al., arXiv 2410.05265).

A token put before every text takes the place of position zero, and its keys and values are computed
once, in full precision: are the tokens of the text then without outliers, so that one scale does?
"""

from __future__ import annotations

import torch

from sinkscope.advice.bench import Bench, cost_between, logits_of
from sinkscope.errors import InputError
from sinkscope.intervene.edits import Edit, RoundInputs
from sinkscope.mixing.conditions import Condition
from sinkscope.mixing.dose import Cost
from sinkscope.mixing.dropped import with_first
from sinkscope.subject.opening import bos_id
from sinkscope.subject.prompts import Prompts

PREFIX = (
    "a token put first and kept exact, int8 activations, a scale a tensor",
    "a token put first, not exact, int8 activations, a scale a tensor",
    "a token put first, nothing rounded",
)


def prefixed(bench: Bench) -> dict[str, Cost]:
    """What a prefix costs, alone and with int8 activations, exact and not, under PREFIX's names.

    Loss and KL of the tokens of the text, against the model as it is without a prefix.
    """
    token = spare_token(bench)
    edits: tuple[tuple[Edit, ...], ...] = (
        (RoundInputs(8, "tensor", (0,)),),
        (RoundInputs(8, "tensor"),),
        (),
    )
    return {what: _cost(bench, token, each) for what, each in zip(PREFIX, edits, strict=True)}


def spare_token(bench: Bench) -> int:
    """BOS where there is one, else the most frequent token of the texts."""
    try:
        return bos_id(bench.subject)
    except InputError:
        return int(bench.prompts.input_ids.flatten().mode().values)


def _cost(bench: Bench, token: int, edits: tuple[Edit, ...]) -> Cost:
    most = bench.subject.max_length
    prompts = bench.prompts
    if most is not None and prompts.length + 1 > most:
        prompts = prompts.first_tokens(most - 1)

    def both(rows: Prompts) -> tuple[torch.Tensor, torch.Tensor]:
        longer = logits_of(bench.subject, with_first(rows, token), Condition("prefixed", edits))
        return logits_of(bench.subject, rows), longer[:, 1:]  # of the text's own tokens

    return cost_between(bench.subject, prompts, both)
