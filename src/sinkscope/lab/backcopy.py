"""Bigram-backcopy: a synthetic language with unlimited data (Guo et al., arXiv 2410.13835).

A Markov chain over characters, except that behind a trigger character the one *before* the trigger
comes again:

    x_{t+1} = x_{t-1}               if x_t is a trigger and t > 0
    x_{t+1} ~ P(· | x_t)            otherwise

P is estimated on a text. Heads that copy must be quiet behind every other character, which is the
paper's account of why a sink helps.
"""

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from sinkscope.errors import InputError
from sinkscope.lab.tokens import character_tokenizer

TRIGGERS = "tea"
SHORTEST, LONGEST = 16, 64  # characters of a document


class Backcopy:
    """The language of a text's `size` commonest characters.

    tokenizer: one token a character, after BOS and EOS. bigram: [character, character], P.
    """

    def __init__(self, texts: Iterable[str], size: int) -> None:
        text = "".join(texts)
        counts = Counter(text)
        characters = "".join(sorted(c for c, _ in counts.most_common(size)))
        if len(characters) < size or not set(TRIGGERS) <= set(characters):
            raise InputError(
                f"The text has too few characters for bigram-backcopy: {size} different ones are "
                f"needed, {', '.join(TRIGGERS)} among them."
            )
        self.tokenizer: PreTrainedTokenizerFast = character_tokenizer(characters)
        self.first = len(self.tokenizer) - size
        place = {c: i for i, c in enumerate(characters)}
        follows = torch.ones(size, size)  # no pair is impossible
        for pair, count in Counter(pairwise(text)).items():
            if pair[0] in place and pair[1] in place:
                follows[place[pair[0]], place[pair[1]]] += count
        self.bigram = follows / follows.sum(1, keepdim=True)
        self.unigram = follows.sum(1) / follows.sum()
        self.triggers = torch.tensor([place[c] for c in TRIGGERS])

    def draw(self, count: int, length: int, generator: torch.Generator, bos: int | None) -> Tensor:
        """Token ids [count, length + 1] of fresh text, behind `bos` where there is one."""
        total = length + (bos is None)
        x = torch.empty(count, total, dtype=torch.long)
        x[:, 0] = torch.multinomial(self.unigram, count, True, generator=generator)
        for t in range(1, total):
            drawn = torch.multinomial(self.bigram[x[:, t - 1]], 1, generator=generator)[:, 0]
            copies = torch.isin(x[:, t - 1], self.triggers) & (t > 1)
            x[:, t] = torch.where(copies, x[:, max(t - 2, 0)], drawn)
        x += self.first
        return x if bos is None else torch.nn.functional.pad(x, (1, 0), value=bos)

    def packed(self, count: int, generator: torch.Generator, bos: bool = False) -> Tensor:
        """`count` documents as one stream [tokens], int32, an EOS after each.

        With `bos` a BOS stands before each. Lengths are drawn from SHORTEST to LONGEST characters,
        each as likely.
        """
        first = self.tokenizer.bos_token_id if bos else None
        lengths = torch.randint(SHORTEST, LONGEST + 1, (count, 1), generator=generator) + bos
        rows = self.draw(count, LONGEST - (not bos), generator, first)
        rows = torch.nn.functional.pad(rows, (0, 1))
        place = torch.arange(rows.shape[1]).expand_as(rows)
        rows = torch.where(place == lengths, self.tokenizer.eos_token_id, rows)
        return rows[place <= lengths].int()
