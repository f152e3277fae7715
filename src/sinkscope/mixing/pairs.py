"""Pairs of prompts of equal length that differ at one place: token swaps, or paraphrases.

Lengths are kept, so every later token stands where it stood and its change is due to what it read.
Swaps replace the token at one position by its nearest neighbour in embedding space (largest
cosine), or by one at random; position zero is never touched.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import torch

from sinkscope.errors import InputError
from sinkscope.files import expanded
from sinkscope.settings import MixSettings
from sinkscope.subject.load import Subject
from sinkscope.subject.opening import opening_of
from sinkscope.subject.prompts import Prompts, from_rows
from sinkscope.subject.tokens import usable_vocabulary

SWAPS = MixSettings.swaps
SHORTEST = 8  # tokens: below, there is no room for an edit with something before and behind it


@dataclass
class Pairs:
    """Prompts and their variants.

    prompts   the originals, [n, T]
    variants  [n, kind, T] token ids of the variants, equal to the original outside first..last
    first, last  [n] the positions that differ
    kinds     name of each variant
    """

    prompts: Prompts
    variants: torch.Tensor
    first: torch.Tensor
    last: torch.Tensor
    kinds: tuple[str, ...]
    skipped: int = 0

    def __len__(self) -> int:
        return len(self.prompts)

    def take(self, rows: slice) -> Pairs:
        """The given prompts with their variants."""
        return Pairs(
            self.prompts.take(rows),
            self.variants[rows],
            self.first[rows],
            self.last[rows],
            self.kinds,
        )

    def stacked(self, rows: slice) -> Prompts:
        """Originals and variants as one batch: row r·(1 + kinds) is original r, variants follow."""
        one = self.prompts.take(rows)
        ids = torch.cat([one.input_ids.unsqueeze(1), self.variants[rows]], 1)
        count = ids.shape[1]
        lengths = one.lengths.repeat_interleave(count)
        return Prompts(ids.flatten(0, 1), lengths, one.kind, one.bos, source=one.source)

    def later(self) -> torch.Tensor:
        """[n, T] positions behind the edit, padding left out."""
        positions = torch.arange(self.prompts.length)
        behind = positions > self.last.unsqueeze(1)
        return behind & (positions < self.prompts.lengths.unsqueeze(1))


def swapped(
    subject: Subject, prompts: Prompts, swaps: tuple[str, ...] = SWAPS, seed: int = 0
) -> Pairs:
    """One-token swaps, at one random position of each prompt between an eighth and half of it.

    Raises InputError for prompts shorter than SHORTEST, or an unknown kind of swap.
    """
    if not swaps or any(kind not in SWAPS for kind in swaps):
        raise InputError(f"swaps are {' or '.join(SWAPS)}.")
    if int(prompts.lengths.min()) < SHORTEST:
        raise InputError(f"mixing needs prompts of at least {SHORTEST} tokens.")
    generator = torch.Generator().manual_seed(seed)
    low = (prompts.lengths // 8).clamp_min(2)
    high = (prompts.lengths // 2).clamp_min(4)
    draws = torch.rand(len(prompts), generator=generator)
    at = low + (draws * (high - low)).long()
    tokens = prompts.input_ids.gather(1, at.unsqueeze(1)).squeeze(1)
    usable = _usable(subject)
    variants = []
    for kind in swaps:
        new = (
            _nearest(subject, tokens, usable)
            if kind == "nearest"
            else _random(tokens, usable, generator)
        )
        variants.append(prompts.input_ids.scatter(1, at.unsqueeze(1), new.unsqueeze(1)))
    return Pairs(prompts, torch.stack(variants, 1), at, at, tuple(swaps))


def _usable(subject: Subject) -> torch.Tensor:
    """Ids that may stand in for another: no special tokens, none that the tokenizer lacks."""
    special = set() if subject.tokenizer is None else {*subject.tokenizer.all_special_ids}
    return torch.tensor([i for i in range(usable_vocabulary(subject)) if i not in special])


def _nearest(subject: Subject, tokens: torch.Tensor, usable: torch.Tensor) -> torch.Tensor:
    weight = subject.model.get_input_embeddings().weight.detach()
    table = weight[usable.to(weight.device)].float()
    table = table / table.norm(dim=1, keepdim=True).clamp_min(1e-30)
    own = weight[tokens.to(weight.device)].float()
    found = own @ table.T
    found[usable.to(found.device) == tokens.to(found.device).unsqueeze(1)] = -torch.inf
    return usable[found.argmax(1).cpu()]


def _random(tokens: torch.Tensor, usable: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    picks = usable[torch.randint(len(usable), tokens.shape, generator=generator)]
    again = usable[torch.randint(len(usable) - 1, tokens.shape, generator=generator)]
    # one draw that hits the token itself moves on to its neighbour in the list
    other = torch.where(again == tokens, usable[-1], again)
    return torch.where(picks == tokens, other, picks)


def read_paraphrases(
    subject: Subject, file: str, bos: str = "as-is", length: int | None = None
) -> Pairs:
    """Paraphrase pairs from a .jsonl file with fields "text" and "paraphrase" on each line.

    Only pairs of equal token counts can be compared position by position; others are skipped and
    counted (`Pairs.skipped`). Raises InputError where nothing is left.
    """
    path = expanded(file)
    if not path.is_file():
        raise InputError(f"No such file of paraphrase pairs: {file}.")
    if subject.tokenizer is None:
        raise InputError("paraphrase pairs need a tokenizer.")
    opening = opening_of(subject)
    policy = opening.policy(bos, False)
    head = opening.ids if policy == "with" else ()
    kept, skipped = [], 0
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not UTF-8 text ({error.reason}).") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        texts = _pair_of(line, file, number)
        a, b = (
            [*head, *opening.without(subject.tokenizer(t, add_special_tokens=False)["input_ids"])]
            for t in texts
        )
        a, b = a[:length], b[:length]
        differ = [i for i, (x, y) in enumerate(zip(a, b)) if x != y]
        if len(a) != len(b) or not differ or differ[0] == 0 or differ[-1] >= len(a) - 1:
            skipped += 1
            continue
        kept.append((a, b, differ[0], differ[-1]))
    if not kept:
        raise InputError(
            f"{file} holds no pair of equal token count that differs behind its first token and "
            "before its last."
        )
    prompts = from_rows(subject, [a for a, *_ in kept], "text", policy, path.name)
    variants = from_rows(subject, [b for _, b, *_ in kept], "text", policy).input_ids
    first, last = (torch.tensor([one[i] for one in kept]) for i in (2, 3))
    return Pairs(prompts, variants.unsqueeze(1), first, last, ("paraphrase",), skipped)


def _pair_of(line: str, file: str, number: int) -> tuple[str, str]:
    try:
        entry = json.loads(line)
        text, other = entry["text"], entry["paraphrase"]
    except (ValueError, KeyError, TypeError, RecursionError):
        text = other = None
    if not isinstance(text, str) or not isinstance(other, str):
        raise InputError(f'{file}, line {number}, has no "text" and "paraphrase".')
    if any("\ud800" <= letter <= "\udfff" for letter in text + other):
        raise InputError(f"{file}, line {number}, holds half a character (a lone surrogate).")
    return text, other
