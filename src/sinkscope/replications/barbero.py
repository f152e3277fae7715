"""Barbero et al. 2025 (arXiv 2504.02732): strong sinks, with and without BOS, and mixing.

Sink rate at ε = 0.8 over 64 tokens; how far the change of one token spreads with BOS and without.
The paper shows the spread as a figure, and what BOS is worth as task accuracy, which is not
measured here; cross-entropy is.
"""

from __future__ import annotations

import torch

from sinkscope.errors import InputError, Unsupported
from sinkscope.intervene.edits import TokenAt
from sinkscope.observe.attention import observe
from sinkscope.observe.reads import Want
from sinkscope.observe.residual import keep_streams
from sinkscope.replications.base import RowResult, read_replication
from sinkscope.replications.bench import Bench, rate, spread
from sinkscope.subject.opening import resolve_bos
from sinkscope.subject.prompts import Prompts
from sinkscope.subject.tokens import vocabulary

STRONG, GU, COST, SPREAD = "sink rate ε 0.8, %", "sink rate ε 0.3, %", "cross-entropy", "spread"
PERTURBED = 4  # the token at T / 4 is changed


def _measure(bench: Bench) -> RowResult:
    alpha = bench.look().alpha[..., 0]
    ce = bench.run().ce
    assert ce is not None
    return RowResult(
        {
            STRONG: spread(rate(alpha, 0.8), bench.seed, percent=True),
            GU: spread(rate(alpha, 0.3), bench.seed, percent=True),
            COST: spread(ce, bench.seed),
        }
    )


def _policy(bench: Bench, bos: str) -> Bench:
    try:
        held = resolve_bos(bench.subject, bos)
    except InputError:
        raise Unsupported("this model defines no BOS token to put first.") from None
    return bench if bench.prompts.bos == held else bench.other(bos=bos)


def _spread(bench: Bench) -> RowResult:
    """Mean over blocks and positions behind a changed token of ‖x(s) − x(s′)‖ / ‖x(s)‖."""
    at = bench.prompts.length // PERTURBED
    ids = bench.prompts.input_ids
    token = next(
        one for one in range(vocabulary(bench.subject)) if one not in set(ids[:, at].tolist())
    )
    changed = ids.clone()
    changed[:, at] = token
    states = [_stream(bench, one) for one in (ids, changed)]
    difference = (states[0] - states[1]).norm(dim=-1) / states[0].norm(dim=-1).clamp_min(1e-12)
    valid = torch.arange(ids.shape[1])[None] < bench.prompts.lengths[:, None]
    valid[:, : at + 1] = False
    mean = (difference * valid).sum((0, 2)) / (valid.sum(1) * len(difference))
    return RowResult({SPREAD: spread(mean.numpy(), bench.seed)}, [TokenAt(at, token)])


def _stream(bench: Bench, ids: torch.Tensor) -> torch.Tensor:
    """The streams [point, n, T, d] behind every block."""
    prompts = Prompts(ids, bench.prompts.lengths, "ids", bench.prompts.bos)
    parts = []
    for part in prompts.batches():
        points, taps = keep_streams(bench.subject)
        observe(bench.subject, part, Want(received=False), extra_hooks=taps)
        parts.append(torch.stack([points[point] for point in sorted(points)[1:]]))
    return torch.cat(parts, 1)


REPLICATION = read_replication(
    "barbero-2025",
    {
        "with": lambda bench: _measure(_policy(bench, "with")),
        "without": lambda bench: _measure(_policy(bench, "without")),
        "spread with": lambda bench: _spread(_policy(bench, "with")),
        "spread without": lambda bench: _spread(_policy(bench, "without")),
    },
)
