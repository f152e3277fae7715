"""I1 and I2: is it the token at position zero, or the position's id, that makes the sink?

A P0 circuit needs neither: whatever token stands first is the sink, and under rotary positions the
id of P0 does not matter. Rows with a role (`extra["role"]`, see `causal.evidence`) decide, the
others are shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from sinkscope.causal.evidence import IDENTITY, POSITION, QUERY_BIAS, TOKEN, Test
from sinkscope.causal.testing import CausalBench
from sinkscope.errors import InputError, Unsupported
from sinkscope.intervene.edits import PositionIds, QueryBias, TokenAt
from sinkscope.intervene.edits.base import Edit
from sinkscope.intervene.edits.tokens import DropToken, InsertToken, RandomTokens, RepeatToken
from sinkscope.result import Measured
from sinkscope.stats import bootstrap, paired_change
from sinkscope.subject.load import Subject
from sinkscope.subject.opening import bos_id
from sinkscope.subject.prompts import vocabulary

TOKEN_ARROW, POSITION_ARROW = "token at P0 -> stage 4", "position id -> stage 4"
ITEMS = 5  # vocabulary items that are put at P0 of every prompt in turn
FRESH = 8  # first positions whose tokens are not drawn: a repeat is as unmixed as P0 itself
DIFFERENT = 128  # vocabulary items that the control of a repeated token draws from
RESAMPLES = 500


def tokens(lab: CausalBench) -> list[Test]:
    """I1: P0's token replaced, dropped, another put in, one repeated; against the same at p."""
    own = random_tokens(lab, len(lab.engine.prompts), 1)
    replaced = _row(
        lab,
        TokenAt(0, own),
        TokenAt(lab.position, own),
        "a random vocabulary item for each prompt",
        control=f"the same tokens at position {lab.position}",
        extra={"role": TOKEN, "identity": explained_by_identity(lab)},
    )
    rows = [_row(lab, *one, moved=True) for one in _bos_rows(lab)]
    return [replaced, *rows, _repeated(lab)]


def positions(lab: CausalBench) -> list[Test]:
    """I2: all position ids shifted; those of P0 and p changed; the control swaps two late ones."""
    shortest = int(lab.engine.prompts.lengths.min())
    late: list[Edit] = [PositionIds(swap=(shortest - 8, shortest - 2))]
    swap = PositionIds(swap=(0, lab.position))
    edits, shift = [swap], _shift(lab)
    if shift > 0:
        edits.insert(0, PositionIds(shift=shift))
    else:
        lab.notes.append("I2: the prompts fill the model's positions, so ids are not shifted.")
    tests: list[Test] = []
    try:
        for edit in edits:
            moved = {"moved": _moved(lab, swap)} if edit is swap else {}
            tests.append(
                lab.test(
                    "I2",
                    IDENTITY,
                    [edit],
                    [late],
                    arrow=POSITION_ARROW,
                    # one of them decides: under rotary positions a swap turns the rows in between
                    claim=not tests,
                    extra={"role": POSITION, **moved},
                )
            )
    except (Unsupported, InputError) as refusal:
        lab.notes.append(f"I2: {refusal}")
    return tests


def query_bias(lab: CausalBench) -> list[Test]:
    """I2: the sink without query biases. Nothing of equal size is there to be its control."""
    if not attention_biases(lab.engine.subject):
        lab.notes.append("query bias: the attention of this model has no bias.")
        return []
    try:
        arrow, extra = "query bias -> stage 4", {"role": QUERY_BIAS}
        return [lab.test("I2", IDENTITY, [QueryBias(0.0)], arrow=arrow, extra=extra)]
    except Unsupported as refusal:
        lab.notes.append(f"query bias: {refusal}")
        return []


def random_tokens(lab: CausalBench, count: int, draw: int) -> tuple[int, ...]:
    """Vocabulary items that a tokenizer can give, none special and none of the prompts' first."""
    subject, prompts = lab.engine.subject, lab.engine.prompts
    size = vocabulary(subject)
    avoid = set(prompts.input_ids[:, :FRESH].flatten().tolist())
    if subject.tokenizer is not None:
        size = min(size, len(subject.tokenizer))
        avoid |= set(subject.tokenizer.all_special_ids)
    bos = _bos(lab)
    if bos is not None:
        avoid.add(bos)
    generator = torch.Generator().manual_seed(1000 * lab.seed + draw)
    order = [t for t in torch.randperm(size, generator=generator).tolist() if t not in avoid]
    if not order:
        raise InputError("the prompts use up the vocabulary: there is no other token to try.")
    return tuple(order[i % len(order)] for i in range(count))


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
        "share": bootstrap(here.mean(0), lab.seed),
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
    low, high = np.percentile(kept or [value], [2.5, 97.5])
    return Measured(value=value, low=min(float(low), value), high=max(float(high), value))


def _row(
    lab: CausalBench,
    edit: Edit,
    same: Edit,
    note: str,
    *,
    control: str = "",
    moved: bool = False,
    extra: Mapping[str, Any] | None = None,
) -> Test:
    """An edit at P0 beside the same elsewhere; it is evidence where it has a role."""
    return lab.test(
        "I1",
        IDENTITY,
        [edit],
        [[same]],
        control=control,
        arrow=TOKEN_ARROW,
        claim="role" in (extra or {}),
        note=note,
        moved=moved,
        extra=extra,
    )


def _bos_rows(lab: CausalBench) -> list[tuple[Edit, Edit, str]]:
    """The other BOS policy: dropped where prompts begin with it, put in where they do not."""
    bos = _bos(lab)
    if bos is None:
        return []
    if bool((lab.engine.prompts.input_ids[:, 0] == bos).all()):
        return [(DropToken(0), DropToken(lab.position), "BOS dropped: the text's own first token")]
    return [(InsertToken(bos), InsertToken(bos, lab.position), "BOS put first")]


def _repeated(lab: CausalBench) -> Test:
    """One token everywhere: all positions are then as unmixed as P0, and the mask marks none.

    A sink by recognition falls toward uniform attention; one by position embedding need not. The
    control replaces all tokens too, by different ones.
    """
    items = random_tokens(lab, len(lab.engine.prompts), 3)
    edit = RepeatToken(items)
    note = "one token repeated: nothing but its position tells P0 from the others"
    different = RandomTokens(random_tokens(lab, DIFFERENT, 4), lab.seed)
    blocks = [block for block, _ in lab.heads]
    extra = {
        "share": bootstrap(lab.run([edit], few=True).on(lab.heads), lab.seed),
        "uniform": float(np.nanmean(lab.circuit.uniform_late[blocks])),
    }
    return _row(lab, edit, different, note, moved=True, extra=extra)


def _moved(lab: CausalBench, edit: Edit) -> dict[str, Any]:
    """What of the sink turned up at the position that P0 changed ids with."""
    read, at = lab.run([edit], few=True), lab.position
    before = lab.engine.intact.on(lab.heads, at)
    change = paired_change(read.on(lab.heads, at), before, lab.intact_sink, lab.seed)
    return {"position": at, "share": change}


def _bos(lab: CausalBench) -> int | None:
    try:
        return bos_id(lab.engine.subject)
    except InputError:
        return None  # this model has none


def _shift(lab: CausalBench) -> int:
    """By the length of the prompts, or as far as the model's positions reach."""
    length, limit = lab.engine.prompts.length, lab.engine.subject.max_length
    return length if limit is None else min(length, limit - length)


def attention_biases(subject: Subject) -> bool:
    """Whether any attention sublayer holds a bias, of whatever projection."""
    return any(
        name.endswith("bias")
        for block in subject.anatomy.blocks
        for path in block.attention
        for name, _ in subject.model.get_submodule(path).named_parameters()
    )
