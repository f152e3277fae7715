"""Yona et al. 2025 (arXiv 2503.08908): two neurons make the norm of P0, and of repeated tokens.

The sink block is the first of 15 whose MLP writes more than mean + 2 standard deviations (over
blocks) at a lone first token. Its sink neurons are those that write most, ‖act_j·W_out[j]‖, at the
end of a token repeated over and over. Without them the large norms go, of P0 and of repeats.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from sinkscope.errors import Unsupported
from sinkscope.observe.attention import call_model
from sinkscope.observe.registry import evaluation, hooks
from sinkscope.observe.sites import write_hooks
from sinkscope.observe.stream import others_median
from sinkscope.replications.base import RowResult, read_replication
from sinkscope.replications.bench import Bench, spread
from sinkscope.replications.edits import NeuronsOff
from sinkscope.result import Measured
from sinkscope.subject.at_hand import weights_of

LAST_BLOCK, NEURONS = 15, 2
ALIKE = 0.1  # what the end of repeats must have of what P0 has
BLOCK, FIRST, SECOND = "block", "neuron 1", "neuron 2"
P0, REPEAT = "norm of P0, ×", "norm of the last repeat, ×"


def sink_block(bench: Bench) -> int:
    """The first block whose MLP write at a lone first token stands out."""
    subject = bench.subject
    norms: dict[int, float] = {}

    def consume(block: int, index: int, delta: torch.Tensor) -> None:
        if bench.sites.blocks[block][index].kind == "mlp":
            norms[block] = float(delta[:, 0].float().norm(dim=-1).mean())

    first = bench.prompts.input_ids[:, :1].unique(dim=0)
    make = write_hooks(subject, bench.sites, consume)
    with torch.no_grad(), evaluation(subject.model), hooks(make()):
        call_model(subject, {"input_ids": first.to(subject.device), "use_cache": False}, False)
    if not norms:
        raise Unsupported("no block has an MLP whose write can be read.")
    values = np.array(list(norms.values()))
    bound = values.mean() + 2 * values.std()
    for block, norm in norms.items():
        if norm > bound and block < LAST_BLOCK:
            return block
    if len(values) < 6:  # one of n values lies at most (n − 1)/√n deviations above the mean
        return max(norms, key=lambda block: norms[block])
    raise Unsupported(
        "no MLP of the first 15 blocks writes more than mean + 2 standard deviations at P0."
    )


def sink_neurons(bench: Bench, block: int) -> tuple[int, ...]:
    """The neurons of a block that write most at the last of many repeats."""
    sublayer = bench.sites.mlp(block)
    if sublayer is None or sublayer.projection is None or sublayer.experts is not None:
        raise Unsupported(f"the neurons of block {block} lie in experts or out of reach.")
    module = bench.subject.anatomy.modules(bench.subject.model)[block]
    with weights_of(module):
        size = sublayer.projection.columns(module).float().norm(dim=-1)
    seen: list[torch.Tensor] = []

    def enter(module, args):
        seen.append(args[0].detach().float())

    repeats = bench.other(kind="repeat").prompts
    handle = sublayer.projection.owner(module).register_forward_pre_hook(enter)
    with torch.no_grad(), evaluation(bench.subject.model), hooks([handle]):
        ids = repeats.input_ids.to(bench.subject.device)
        call_model(bench.subject, {"input_ids": ids, "use_cache": False}, logits=False)
    written = seen[0].reshape(*ids.shape, -1).abs().mean(0) * size
    if written[-1].max() < ALIKE * written[0].max():
        raise Unsupported(
            f"no neuron of block {block} writes at the end of repeats as it does at P0: repeats "
            "are not like P0 in this model."
        )
    return tuple(written[-1].topk(min(NEURONS, len(size))).indices.tolist())


def _place(bench: Bench) -> RowResult:
    block = sink_block(bench)
    neurons = sink_neurons(bench, block)
    values = {BLOCK: Measured(value=float(block))}
    return RowResult(
        values | dict(zip((FIRST, SECOND), (Measured(value=float(n)) for n in neurons)))
    )


def _norms(off: Callable[[Bench], list[NeuronsOff]]) -> Callable[[Bench], RowResult]:
    def measure(bench: Bench) -> RowResult:
        edits = off(bench)
        text = bench.run(edits).norm[:, 0, 1:].max(1)
        # among repeats no position is ordinary, so a repeat is set against the median of text
        repeats = bench.other(kind="repeat").look(edits, reduce=_last_norm).stream
        ordinary = bench.look(edits, reduce=_median_norm).stream
        assert repeats is not None
        assert ordinary is not None
        ratio = (repeats / ordinary.mean(0))[:, 1:].max(1)
        return RowResult(
            {P0: spread(text, bench.seed), REPEAT: spread(ratio, bench.seed)}, [*edits]
        )

    return measure


def _last_norm(x: torch.Tensor) -> float:
    return float(x[-1].norm())


def _median_norm(x: torch.Tensor) -> float:
    return float(others_median(x.norm(dim=-1)))


def _own(bench: Bench) -> list[NeuronsOff]:
    block = sink_block(bench)
    return [NeuronsOff(block, sink_neurons(bench, block))]


def _random(bench: Bench) -> list[NeuronsOff]:
    (own,) = _own(bench)
    sublayer = bench.sites.mlp(own.block)
    assert sublayer is not None
    assert sublayer.projection is not None
    module = bench.subject.anatomy.modules(bench.subject.model)[own.block]
    count = sublayer.projection.columns(module).shape[0]
    generator = torch.Generator().manual_seed(bench.seed)
    order = torch.randperm(count, generator=generator).tolist()
    return [NeuronsOff(own.block, tuple([n for n in order if n not in own.neurons][:NEURONS]))]


REPLICATION = read_replication(
    "yona-2025",
    {
        "place": _place,
        "intact": _norms(lambda bench: []),
        "off": _norms(_own),
        "random": _norms(_random),
    },
)
