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
from sinkscope.replications.base import LLAMA2_7B, Published, Replication, ReplicationRow, RowResult
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


def _rows() -> tuple[ReplicationRow, ...]:
    rows = [
        ReplicationRow("intact", "intact", _sink([])),
        ReplicationRow(
            "A", "token 10 attends only to itself in block 0", _sink([SelfOnly(TOKEN, (0,))])
        ),
    ]
    for key, about, control in (("B", "variance", False), ("C", "norm", True)):
        for step in STEPS:
            edit = ScaleWrite(0, "attention", TOKEN, step, about)
            name = f"{about} of its attention write in block 0, λ = {step:g}"
            rows.append(ReplicationRow(f"{key} {step:g}", name, _sink([edit]), control=control))
    for key, about, name in (
        ("B′", "variance", "variance of its attention write in block 0 brought to P0's"),
        ("C′", "stream", "stream behind it given the norm of B′, direction kept"),
    ):
        matched = MatchVariance(0, TOKEN, 1.0, "p0", about)
        rows.append(ReplicationRow(key, name, _sink([matched]), control=about == "stream"))
    rows.append(
        ReplicationRow(
            "DomRatio",
            "how far one channel stands out at P0",
            _dominance,
            (
                Published(262.88, RATIO, LLAMA2_7B, "[2nd]"),
                Published(2533.0, CHANNEL, LLAMA2_7B, "[2nd]"),
            ),
        )
    )
    return tuple(rows)


REPLICATION = Replication(
    name="li-2026",
    paper="Li et al. 2026, arXiv 2605.06611",
    title="Structural origin of sinks: a mask or variance makes one anywhere, norm does not",
    prompts={"n": 32, "length": 64, "bos": "as-is", "kind": "text"},
    metric="Mean attention of queries t ≥ T/2 to token 10 over the heads of blocks 1 and up, and "
    "its margin over the other keys with P0 left out.",
    rows=_rows(),
    differs="A, B and C are published as curves, without numbers; what counts is that A and B make "
    "a sink and C does not. B′ and C′ are ours. The paper's inputs for the variance are random "
    "tokens.",
)
