"""What is looked at in every checkpoint of a run, so that their figures compare."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sinkscope.subject.prompts import Prompts


@dataclass(frozen=True)
class View:
    """What is looked at in every checkpoint of a run.

    prompts       the same token ids throughout
    first_tokens  [F] token ids that are put at P0 by themselves
    horizon       number of first blocks that are looked at
    point         read point at which the sink direction u is taken, at most `horizon`
    loss          whether the next-token loss is measured (needs the whole model)
    parts         whether neurons and experts are named (needs a proven residual stream)
    seed          of random positions
    """

    prompts: Prompts
    first_tokens: torch.Tensor
    horizon: int
    point: int
    loss: bool = False
    parts: bool = True
    seed: int = 0


def within(first: int, blocks: int) -> str:
    """What a sentence holds for, where not all blocks were looked at; nothing where all were."""
    if first >= blocks:
        return ""
    return f" in the first {'' if first == 1 else f'{first} '}of {blocks} blocks"
