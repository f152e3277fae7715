"""Li et al. 2026 (arXiv 2605.06611): a sink by mask or by variance, and not by norm.

(A) token 10 attends only to itself in the first block; (B) the variance over channels of what its
attention writes there is raised, o′ = μ + λ(o − μ); (C) its norm is raised instead, o′ = λo, which
must not make a sink. As printed, B and C differ by (λ − 1)μ only, which is next to nothing where
the mean over channels is; so B′ and C′ are added, which a pre-norm tells apart: the variance of the
write brought to that of P0, and the stream behind it given the same norm at its own direction.
DomRatio = max_j|h_j| / mean_j|h_j| of P0 behind the norm of a block.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from sinkscope.errors import Unsupported
from sinkscope.intervene.edits import MatchVariance, ScaleWrite, SelfOnly
from sinkscope.intervene.edits.base import Edit
from sinkscope.observe.attention import call_model, model_inputs
from sinkscope.observe.registry import evaluation, hooks
from sinkscope.observe.stream import first_hidden
from sinkscope.replications.base import RowResult, read_replication
from sinkscope.replications.bench import Bench, spread
from sinkscope.result import Measured
from sinkscope.stats import paired_change

TOKEN = 10
STEPS = (2.0, 4.0, 8.0, 16.0)
SHARE, MARGIN, RATIO, CHANNEL = "share of token 10", "margin gained, nats", "DomRatio", "channel"


def _sink(edits: list[Edit]) -> Callable[[Bench], RowResult]:
    """Late share and margin of token 10 over the heads of all blocks but the first."""

    def measure(bench: Bench) -> RowResult:
        first = min(1, bench.depth - 1)
        read, intact = (bench.run(each, TOKEN) for each in (edits, []))

        def mean(values: np.ndarray) -> np.ndarray:
            return np.nanmean(values[:, 1, first:], axis=(1, 2))

        gained = paired_change(mean(read.bare_margin), mean(intact.bare_margin), seed=bench.seed)
        return RowResult({SHARE: spread(mean(read.share), bench.seed), MARGIN: gained}, edits)

    return measure


def dominance(bench: Bench) -> tuple[np.ndarray, np.ndarray]:
    """DomRatio of P0 at the input of every block's attention [n, L], and the channel [n, L]."""
    subject = bench.subject
    modules = subject.anatomy.modules(subject.model)
    seen: dict[int, torch.Tensor] = {}

    def enter(block: int):
        def hook(module, args, kwargs):
            seen.setdefault(block, first_hidden(args, kwargs)[:, 0].detach().float().abs().cpu())

        return hook

    sources = []
    for index, block in enumerate(modules):
        attention = bench.sites.attention(index)
        if attention is None:
            raise Unsupported(f"block {index} has no softmax attention, so no input of it.")
        sources.append(block.get_submodule(attention.source))
    handles = [
        source.register_forward_pre_hook(enter(index), with_kwargs=True)
        for index, source in enumerate(sources)
    ]
    tokens = bench.prompts.first_tokens(2)
    with torch.no_grad(), evaluation(subject.model), hooks(handles):
        call_model(subject, model_inputs(subject, tokens), logits=False)
    rows = torch.stack([seen[block] for block in range(len(modules))], 1)
    ratio = rows.max(-1).values / rows.mean(-1).clamp_min(1e-12)
    return ratio.numpy(), rows.argmax(-1).numpy()


def _dominance(bench: Bench) -> RowResult:
    ratio, channel = dominance(bench)
    block = int(ratio.mean(0).argmax())
    values, counts = np.unique(channel[:, block], return_counts=True)
    top = int(values[counts.argmax()])
    return RowResult(
        {RATIO: spread(ratio[:, block], bench.seed), CHANNEL: Measured(value=float(top))},
        note=f"behind the norm of block {block}, where it is largest",
    )


def _measures() -> dict[str, Callable[[Bench], RowResult]]:
    found = {"intact": _sink([]), "A": _sink([SelfOnly(TOKEN, (0,))])}
    for key, about in (("B", "variance"), ("C", "norm")):
        for step in STEPS:
            found[f"{key} {step:g}"] = _sink([ScaleWrite(0, "attention", TOKEN, step, about)])
    for key, about in (("B′", "variance"), ("C′", "stream")):
        found[key] = _sink([MatchVariance(0, TOKEN, 1.0, "p0", about)])
    return {**found, "DomRatio": _dominance}


REPLICATION = read_replication("li-2026", _measures())
