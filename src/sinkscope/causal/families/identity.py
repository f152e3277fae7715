"""I1: is it the token at position zero that makes the sink?

A P0 circuit needs none: whatever token stands first is the sink. Rows with a role (`extra["role"]`,
see `causal.evidence`) decide, the others are shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from sinkscope.causal.evidence import IDENTITY, SUFFICIENCY, TOKEN, TOKEN_GIVEN, Planned, Test
from sinkscope.causal.testing import CausalBench
from sinkscope.errors import InputError
from sinkscope.intervene.edits import TokenAt
from sinkscope.intervene.edits.base import Edit
from sinkscope.intervene.edits.tokens import DropToken, InsertToken, RandomTokens, RepeatToken
from sinkscope.result import Measured
from sinkscope.stats import resampled
from sinkscope.subject.opening import bos_id
from sinkscope.subject.tokens import usable_vocabulary

TOKEN_ARROW = "token at P0 -> stage 4"
ITEMS = 5  # vocabulary items that are put at P0 of every prompt in turn
FRESH = 8  # first positions whose tokens are not drawn: a repeat is as unmixed as P0 itself
DIFFERENT = 128  # vocabulary items that the control of a repeated token draws from
RESAMPLES = 500


def tokens(lab: CausalBench) -> list[Test]:
    """I1: P0's token replaced, given to p, dropped, another put in, one repeated.

    The control does the same at p, and gives p another token.
    """
    own = other_tokens(lab, 1)
    replaced = _row(
        lab,
        TokenAt(0, own),
        TokenAt(lab.position, own),
        "a random vocabulary item for each prompt",
        control=f"the same tokens at position {lab.position}",
        extra={"role": TOKEN, "identity": explained_by_identity(lab)},
    )
    rows = [_row(lab, *one, shifted=True) for one in _bos_rows(lab)]
    return [replaced, *_given(lab, own), *rows, _repeated(lab)]


def other_tokens(lab: CausalBench, draw: int) -> tuple[int, ...]:
    """A vocabulary item for each prompt that is not its own first token.

    None of any prompt's first tokens, if there are enough such items; else none of its own first
    ones; where the vocabulary is too small for that, any but the one at P0.
    """
    ids = lab.engine.prompts.input_ids
    fresh = set(ids[:, :FRESH].flatten().tolist())
    order = _shuffled(lab, draw)
    if sum(token not in fresh for token in order) >= min(len(ids), DIFFERENT):
        return random_tokens(lab, len(ids), draw)
    found = []
    for i, row in enumerate(ids[:, :FRESH].tolist()):
        turned = order[i % len(order) :] + order[: i % len(order)]
        left = [t for t in turned if t not in row] or [t for t in turned if t != row[0]]
        if not left:
            raise InputError("the vocabulary holds no other token that could stand at P0.")
        found.append(left[0])
    return tuple(found)


def random_tokens(lab: CausalBench, count: int, draw: int) -> tuple[int, ...]:
    """Vocabulary items that a tokenizer can give, none special; none of the prompts' first ones
    either, unless these are all there are.
    """
    fresh = set(lab.engine.prompts.input_ids[:, :FRESH].flatten().tolist())
    order = _shuffled(lab, draw)
    order = [token for token in order if token not in fresh] or order
    return tuple(order[i % len(order)] for i in range(count))


def _shuffled(lab: CausalBench, draw: int) -> list[int]:
    """All tokens that text can hold, in random order; at least one."""
    subject = lab.engine.subject
    special = {_bos(lab)}
    if subject.tokenizer is not None:
        special |= {*subject.tokenizer.all_special_ids}
    generator = torch.Generator().manual_seed(1000 * lab.seed + draw)
    order = torch.randperm(usable_vocabulary(subject), generator=generator).tolist()
    return [token for token in order if token not in special] or order


def explained_by_identity(lab: CausalBench) -> dict[str, Any]:
    """How much of the variance of the sink's mass the token at P0 explains.

    A few vocabulary items are put at P0 of every prompt in turn, through P0's key where that path
    is at hand; `explained` is their part of the variance, with an interval by resampling prompts.
    `share` is the sink that is left on average, `spread` its standard deviation over items: a large
    part of a variance that is next to nothing says little.
    """
    items = random_tokens(lab, ITEMS, 2)
    edits = [[TokenAt(0, item)] for item in items]
    here = np.stack(
        [
            lab.run(edit).on(lab.heads) if change is None else lab.intact_sink + change
            for edit, change in zip(edits, lab.screen.changes(edits))
        ]
    )
    return {
        "tokens": list(items),
        "explained": _interval(here, lab.seed),
        "share": lab.draw.mean(here.mean(0)),
        "spread": float(here.mean(1).std(ddof=1)),
    }


def explained(shares: np.ndarray) -> float | None:
    """The first axis' part of the variance of shares[token, prompt], 0 to 1.

    share = mean + token + prompt + rest, with variance components by the method of moments
    (two-way random effects, one value a cell). None for fewer than two of either, or no variance.
    """
    k, n = shares.shape
    if k < 2 or n < 2:
        return None
    mean = shares.mean()
    token, prompt = shares.mean(1) - mean, shares.mean(0) - mean
    rest = shares - mean - token[:, None] - prompt[None]
    error = float((rest**2).sum()) / ((k - 1) * (n - 1))
    of_token = max(0.0, float((token**2).sum()) / (k - 1) - error / n)
    of_prompt = max(0.0, float((prompt**2).sum()) / (n - 1) - error / k)
    total = of_token + of_prompt + error
    return None if total < 1e-16 else of_token / total


def _interval(shares: np.ndarray, seed: int) -> Measured:
    value = explained(shares)
    if value is None:
        return Measured(value=None)
    generator, n = np.random.default_rng(seed), shares.shape[1]
    drawn = [explained(shares[:, generator.integers(n, size=n)]) for _ in range(RESAMPLES)]
    kept = [one for one in drawn if one is not None]
    return resampled(value, kept or [value])


def _row(
    lab: CausalBench,
    edit: Edit,
    same: Edit,
    note: str,
    *,
    control: str = "",
    shifted: bool = False,
    extra: Mapping[str, Any] | None = None,
) -> Test:
    """An edit at P0 beside the same elsewhere; it is evidence where it has a role."""
    plan = Planned(
        "I1", IDENTITY, [edit], [[same]], control, TOKEN_ARROW, note=note, shifted=shifted
    )
    extra = extra or {}
    return lab.test(replace(plan, claim="role" in extra, extra=extra))


def _bos_rows(lab: CausalBench) -> list[tuple[Edit, Edit, str]]:
    """The other BOS policy: dropped where prompts begin with it, put in where they do not."""
    bos = _bos(lab)
    if bos is None:
        return []
    if _begin_with(lab, bos):
        return [(DropToken(0), DropToken(lab.position), "BOS dropped: the text's own first token")]
    return [(InsertToken(bos), InsertToken(bos, lab.position), "BOS put first")]


def _repeated(lab: CausalBench) -> Test:
    """One token everywhere: all positions are then as unmixed as P0, and the mask marks none.

    A sink by recognition falls toward uniform attention; one by position embedding need not. The
    control replaces all tokens too, by different ones.
    """
    items = other_tokens(lab, 3)
    edit = RepeatToken(items)
    note = "one token repeated: nothing but its position tells P0 from the others"
    different = RandomTokens(random_tokens(lab, DIFFERENT, 4), lab.seed)
    blocks = [block for block, _ in lab.heads]
    extra = {
        "share": lab.draw.mean(lab.run([edit], few=True).on(lab.heads)),
        "uniform": float(np.nanmean(lab.circuit.uniform_late[blocks])),
    }
    return _row(lab, edit, different, note, shifted=True, extra=extra)


def _given(lab: CausalBench, own: tuple[int, ...]) -> list[Test]:
    """P0's BOS put at p too: is it a sink wherever it stands?"""
    bos = _bos(lab)
    if bos is None or not lab.ordinary().any() or not _begin_with(lab, bos):
        return []
    edit, other = ([TokenAt(lab.position, token)] for token in (bos, own))
    extra = {"role": TOKEN_GIVEN}
    plan = Planned("I1", SUFFICIENCY, edit, [other], arrow=TOKEN_ARROW, extra=extra)
    return [lab.test(plan)]


def _begin_with(lab: CausalBench, token: int) -> bool:
    return bool((lab.engine.prompts.input_ids[:, 0] == token).all())


def _bos(lab: CausalBench) -> int | None:
    try:
        return bos_id(lab.engine.subject)
    except InputError:
        return None  # this model has none
