"""Mixing over context length and over depth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sinkscope.intervene.readout import over_heads
from sinkscope.mixing.collapse import repeat_collapse
from sinkscope.mixing.conditions import REDISTRIBUTED, in_heads
from sinkscope.mixing.pairs import SWAPS, swapped
from sinkscope.mixing.perturbation import perturb
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts

SHORTEST = 64
LONGEST = 1024  # where no other is asked for: beyond, a sweep costs more than all the rest


@dataclass
class LengthSweep:
    """Spread at the end of the stack, and late share of P0 in the sinking heads, by length.

    lengths [k]; intact, without [k, n] final spread with the sink and with its mass redistributed
    share [k, n] late share of P0
    repeat, repeat_without [k, n] how far the last state moves when the last token is repeated
    (`repeat_collapse`), with the sink and without it
    """

    lengths: list[int]
    intact: np.ndarray
    without: np.ndarray
    share: np.ndarray
    repeat: np.ndarray
    repeat_without: np.ndarray


def lengths_up_to(limit: int) -> list[int]:
    """64, 128, .. up to the limit; the limit itself at the end."""
    found = [SHORTEST * 2**k for k in range(20) if SHORTEST * 2**k < limit]
    return [*found, limit]


def sweep_length(
    subject: Subject,
    prompts: Prompts,
    lengths: Sequence[int],
    heads: tuple[tuple[int, int], ...],
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> LengthSweep:
    """The same texts cut after each length, so that only the length differs.

    prompts must be as long as the longest; heads are those whose sink is taken away.
    """
    intact, without, share = [], [], []
    gone = in_heads(REDISTRIBUTED, heads)
    for done, length in enumerate(lengths):
        pairs = swapped(subject, prompts.first_tokens(length), SWAPS, seed)
        whole = perturb(subject, pairs)
        taken = perturb(subject, pairs, gone)
        intact.append(whole.final)
        without.append(taken.final)
        share.append(over_heads(whole.shares, heads))
        if progress:
            progress(done + 1, len(lengths))
    return LengthSweep(
        list(lengths),
        np.array(intact),
        np.array(without),
        np.array(share),
        repeat_collapse(subject, prompts, lengths).T,
        repeat_collapse(subject, prompts, lengths, gone).T,
    )


def sweep_depth(
    subject: Subject,
    pairs,
    heads: tuple[tuple[int, int], ...],
    progress: Callable[[int, int], None] | None = None,
) -> dict[int, np.ndarray]:
    """{block: final spread [n]} with the sink taken away in that block alone, sinking blocks."""
    found = {}
    blocks = sorted({block for block, _ in heads})
    for done, block in enumerate(blocks):
        only = tuple(head for head in heads if head[0] == block)
        found[block] = perturb(subject, pairs, in_heads(REDISTRIBUTED, only)).final
        if progress:
            progress(done + 1, len(blocks))
    return found
