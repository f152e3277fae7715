"""Which key-value heads need only first and recent tokens (DuoAttention, arXiv 2410.10819).

What a query puts on the first `keep` and the latest window − keep tokens is read from its scores,
with no map held; a key-value head is a streaming head if each of its query heads puts at least
95 % there. Whether that may be relied on is then tried: these heads get a short cache, beside as
many others drawn at random.
"""

from __future__ import annotations

import numpy as np
import torch

from sinkscope.advice.bench import Bench, told
from sinkscope.detect.attention import stacked
from sinkscope.intervene.edits import SlidingCache
from sinkscope.observe.attention import observe
from sinkscope.observe.reads import AttentionCall, AttentionRead, Want
from sinkscope.observe.scores import CHUNK
from sinkscope.observe.tap import fold_learned
from sinkscope.schema.advise import AdviceRow, StreamingHead
from sinkscope.subject.prompts import Prompts

STREAMING = 0.95


def streaming_heads(
    bench: Bench, keep: int, window: int
) -> tuple[list[StreamingHead], list[AdviceRow], str]:
    """The streaming heads, what it costs to treat them so, and a sentence on it."""
    mass = np.nanmean(
        np.stack([cache_mass(bench, batch, keep, window) for batch in bench.prompts.batches()]), 0
    )
    bench.arrays["cache_mass"] = mass
    chosen = [(int(b), int(h)) for b, h in np.argwhere(mass >= STREAMING)]
    heads: list[StreamingHead] = [
        {"block": b, "head": h, "mass": float(mass[b, h])} for b, h in chosen
    ]
    count = int(np.isfinite(mass).sum())
    about = (
        f"{len(chosen)} of {count} key-value heads put {STREAMING:.0%} of their attention on the "
        f"{'first token' if keep == 1 else f'first {keep}'} and the latest {window - keep} tokens."
    )
    if not chosen:
        return heads, [], about
    others = [(int(b), int(h)) for b, h in np.argwhere(mass < STREAMING)]
    edits = {f"{len(chosen)} heads with a short cache": SlidingCache(window, keep, tuple(chosen))}
    if others:
        order = np.random.default_rng(bench.settings.seed).permutation(len(others))
        drawn = tuple(sorted(others[i] for i in order[: len(chosen)]))
        edits[f"{len(drawn)} other heads with a short cache"] = SlidingCache(window, keep, drawn)
    costs = bench.cost(edits, first=window)
    rows = [bench.row(name, cost, control="other" in name) for name, cost in costs.items()]
    price = told(bench.mean(next(iter(costs.values())).ce))
    return heads, rows, f"{about} A short cache in these alone changes the loss by {price}."


def cache_mass(bench: Bench, prompts: Prompts, keep: int, window: int) -> np.ndarray:
    """[block, key head] attention on what a short cache keeps, by queries behind the window.

    Mean over these queries and prompts, the least of the query heads of each key head.
    """
    found: dict[int, torch.Tensor] = {}

    def inspect(call: AttentionCall, read: AttentionRead) -> None:
        s = call.scores
        groups = s.q.shape[1] // s.k.shape[1]
        valid = read.visible.p0_seen  # a query of a real token
        total = torch.zeros(s.q.shape[1], device=s.q.device)
        count = torch.zeros((), device=s.q.device)
        for start in range(window, s.q.shape[2], CHUNK):
            stop = min(start + CHUNK, s.q.shape[2])
            scores, _ = s.chunk(start, stop, s.expand(s.k))
            at = torch.arange(scores.shape[-1], device=scores.device)
            query = torch.arange(start, stop, device=scores.device).unsqueeze(1)
            held = (at < keep) | (query - at < window - keep)
            whole, _ = fold_learned(scores.logsumexp(-1), call.s_aux)
            share = (scores.masked_fill(~held, -torch.inf).logsumexp(-1) - whole).exp()
            rows = valid[:, None, start:stop].to(share.dtype)
            total = total + (share * rows).sum((0, 2))
            count = count + rows.sum()
        by_head = (total / count).view(-1, groups)
        found[read.block] = by_head.min(1).values.cpu()

    observe(bench.subject, prompts, Want(received=False, inspect=(inspect,)))
    none = torch.zeros(0)
    depth = len(bench.subject.anatomy.blocks)
    return stacked([found.get(block, none).unsqueeze(0) for block in range(depth)], 1)[0].numpy()
