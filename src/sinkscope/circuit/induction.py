"""Stage 3: later heads read position zero.

Sink margin of a head: `μ = mean_t [s_t0 − logsumexp_{j≠0} s_tj]` over late queries; the share of
attention on P0 is σ(s_t0 − logsumexp). Beside it: the margin when P0's key is computed from the
sink direction alone, the part of the logit that the query bias makes, and the logit's exact linear
attribution over everything that was added to P0's stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sinkscope.circuit.keys import SinkLogits, p0_keys, sink_logits
from sinkscope.circuit.observed import Observed
from sinkscope.circuit.observed_heads import HeadRead
from sinkscope.detect.qk import qk_split
from sinkscope.errors import Missing, Unsupported
from sinkscope.observe.scores import capped
from sinkscope.observe.sites import Sites
from sinkscope.observe.together import Later, together
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts

MOST_HEADS = 64  # reading heads that are taken apart; the strongest ones
MOST_ROWS = 64  # prompts over which the attribution is averaged
LINEAR, LINEAR_HALF = 1e-3, 5e-2  # largest error of a logit's parts that is still rounding
BIAS_ROWS = 4  # prompts on which the query bias is measured
NO_READER = Missing("no head reads position zero")


@dataclass
class Induction:
    """How heads read P0; arrays over all blocks and heads are NaN where there is no figure.

    margin   [n, L, H] nats
    from_u   [n, L, H] margin when P0's key comes from û alone; None without a direction
    bias     [L, H] part of the logit on P0 made by the query bias, nats
    """

    margin: np.ndarray
    from_u: np.ndarray | None
    bias: np.ndarray


def queries_of(observed: Observed) -> tuple[dict[int, torch.Tensor], dict[int, float]]:
    """Mean late queries [n, H, D] and score scales by block."""
    queries = {block: torch.cat(head.query) for block, head in observed.heads.items()}
    return queries, {block: head.scale for block, head in observed.heads.items()}


def read_gradients(
    subject: Subject, sites: Sites, observed: Observed, heads: Sequence[tuple[int, int]]
) -> SinkLogits | Missing:
    """The logits of reading heads on P0 taken apart, or why they are not."""
    heads = [(b, h) for b, h in heads if b in observed.heads]
    if not heads:
        return NO_READER if observed.heads else Missing(_no_queries(observed))
    queries, scales = queries_of(observed)
    rows = slice(0, MOST_ROWS)
    tokens = observed.prompts.input_ids[rows, 0]
    strongest = sorted(heads, key=lambda head: -_late_logit(observed.heads[head[0]], head[1]))
    chosen = sorted(strongest[:MOST_HEADS])
    cut = {block: query[rows] for block, query in queries.items()}
    try:
        logits = sink_logits(subject, sites, tokens, chosen, cut, scales)
    except Unsupported as error:
        return Missing(str(error).rstrip("."))
    if logits.error > (LINEAR if subject.dtype == torch.float32 else LINEAR_HALF):
        off = f"off by {logits.error:.1e}"
        return Missing(f"keys are not linear in P0's stream with norms frozen ({off})")
    return logits


def induction(
    subject: Subject,
    sites: Sites,
    prompts: Prompts,
    observed: Observed,
    u: torch.Tensor | None,
) -> Induction:
    """Margins of all heads, and what they rest on; u [d] the sink direction, where there is one."""
    blocks = len(sites.blocks)
    if not observed.heads:
        empty = np.full((len(prompts), blocks, 1), np.nan)
        return Induction(empty, None, empty[0])
    width = max(head.query[0].shape[1] for head in observed.heads.values())
    margin = np.full((len(prompts), blocks, width), np.nan)
    for block, head in observed.heads.items():
        rows = torch.cat(head.logit) - torch.cat(head.others)
        margin[:, block, : rows.shape[1]] = rows.numpy()
    with together(subject) as start:
        bias = start(_bias_part, subject, prompts, observed, blocks, width)
        from_u = _from_direction(subject, observed, u, margin) if u is not None else None
        return Induction(margin, from_u, bias())


def _no_queries(observed: Observed) -> str:
    if observed.own_maps:
        return "the family shows its attention maps only, not its queries and keys"
    if observed.sigmoid:
        return "sigmoid attention has no softmax in which logits compete"
    if observed.several:
        return "its blocks attend more than once"
    return "the rows are padded on the left or packed"


def _late_logit(head: HeadRead, index: int) -> float:
    return float((torch.cat(head.logit) - torch.cat(head.others))[:, index].nanmean())


def _from_direction(subject, observed: Observed, u: torch.Tensor, margin) -> np.ndarray:
    """Margins with P0's key computed from u alone, at P0's own norm."""
    queries, scales = queries_of(observed)
    found = np.full(margin.shape, np.nan)
    tokens = observed.prompts.input_ids[:, 0]
    norms: dict[int, torch.Tensor] = {}
    passes: list[Later] = []

    def keep(block: int, hidden: torch.Tensor) -> torch.Tensor:
        norms[block] = hidden.norm(dim=-1, keepdim=True)
        return hidden

    def replaced(block: int, hidden: torch.Tensor) -> torch.Tensor:
        return (u.to(hidden) * norms[block]).expand_as(hidden)

    def read(block: int, keys: torch.Tensor, leaf: torch.Tensor) -> None:
        head = observed.heads[block]
        keys = keys.float().repeat_interleave(queries[block].shape[1] // keys.shape[1], 1)
        logit = capped((queries[block] * keys.cpu()).sum(-1) * scales[block], head.softcap)
        others = torch.cat(head.others)
        found[:, block, : logit.shape[1]] = (logit - others).numpy()

    blocks = sorted(observed.heads)
    with together(subject) as start:  # the second behind the first, block by block
        for own, on_keys in ((keep, lambda *_: None), (replaced, read)):
            passes.append(start(p0_keys, subject, tokens, blocks, own, on_keys, blocks[-1] + 1))
        for done in passes:
            done()
    return found


def _bias_part(subject, prompts: Prompts, observed: Observed, blocks: int, width: int):
    found = np.full((blocks, width), np.nan)
    split = qk_split(subject, prompts.take(slice(0, BIAS_ROWS)))
    if split is None or len(split["qk_bias_part"]) != len(observed.heads):
        return found
    for block, row in zip(observed.heads, split["qk_bias_part"]):
        found[block, : len(row)] = row
    return found
