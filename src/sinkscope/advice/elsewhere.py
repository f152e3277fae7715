"""Sinks away from position zero that a short cache must keep too.

Tokens that receive much of a head's attention wherever they stand, such as delimiters: the first of
them in each text is kept beside the first tokens, in a cache of the same size, against the token
next to it.
"""

from __future__ import annotations

import torch

from sinkscope.advice.bench import Bench, three
from sinkscope.intervene.edits import SlidingCache
from sinkscope.mixing.dose import Cost
from sinkscope.schema.advise import AdviceRow

TRIED = 2  # kinds of token


def tokens_that_stay(
    bench: Bench, window: int, keep: int, plain: Cost
) -> tuple[str | None, str, list[AdviceRow]]:
    """Whether other tokens have to stay: yes, no, or None where the texts cannot tell.

    plain  what a cache of that window costs that keeps the first tokens alone

    Returns that word, a sentence where there are such tokens, and the evidence.
    """
    first = {0: "", 1: " the first token and"}.get(keep, f" the first {keep} tokens and")
    cache = f"a cache of {window},{first}"
    words: list[str | None] = []
    said: list[str] = []
    rows: list[AdviceRow] = []
    for each in bench.scan.delimiters[:TRIED]:
        at = _first(bench, each["id"], keep)
        if each["hits"] < len(bench.prompts) or at.lt(0).all():  # fewer than one a text
            continue
        token = repr(each["token"])
        edits = {
            f"{cache} the first {token} kept": at,
            f"{cache} the one after {token} kept": torch.where(at < 0, at, at + 1),
        }
        kept, control = bench.cost(
            {what: SlidingCache(window, keep, extra=_named(at)) for what, at in edits.items()},
            first=window,
        ).values()
        rows += [
            bench.row(what, cost, control=cost is control)
            for what, cost in zip(edits, (kept, control), strict=True)
        ]
        gain = bench.saved(plain, kept)
        stays = bench.helps(plain, kept, control)
        spared = gain.high is not None and gain.high <= bench.within
        words.append("yes" if stays else "no" if spared else None)
        verb = {"yes": "has to stay", "no": "need not stay", None: "may have to stay"}[words[-1]]
        said.append(
            f"Heads also sink on {token}: the first of them in each text {verb} (without it the "
            f"loss changes by {three(gain.value, '+')} nats a token at a window of {window})."
        )
    if "yes" in words:
        said.append("No tool listed here keeps a token from the middle.")
    word = "yes" if "yes" in words else None if None in words else "no"
    return word, " ".join(said), rows


def _first(bench: Bench, token: int, keep: int) -> torch.Tensor:
    """[n] where the token first stands behind the tokens that are kept anyhow; −1 for nowhere."""
    there = bench.prompts.input_ids == token
    there[:, :keep] = False
    there &= torch.arange(there.shape[1]) < bench.prompts.lengths[:, None] - 1
    return torch.where(there.any(1), there.long().argmax(1), -1)


def _named(at: torch.Tensor) -> tuple[tuple[int, ...], ...]:
    return tuple((place,) if place >= 0 else () for place in at.tolist())
