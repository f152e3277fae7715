"""Who makes position zero long: where it stands out, and the MLP neurons that write it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from sinkscope.advice.bench import Bench
from sinkscope.errors import Unsupported
from sinkscope.intervene.edits import Edit
from sinkscope.intervene.one_token import projection_inputs
from sinkscope.mixing.conditions import Condition, run
from sinkscope.observe.sites import Sites
from sinkscope.observe.stream import others_median
from sinkscope.subject.at_hand import weights_of
from sinkscope.subject.prompts import Prompts

STANDS_OUT = 3.0  # norm of P0 over the median of text, below which there is nothing to speak of
ROWS = 8  # texts that it is looked up on
NEURONS = 2  # as in arXiv 2503.08908; more where these write less than MOST of the norm
MOST, LARGEST = 0.9, 16


@dataclass(frozen=True)
class Writers:
    """Neurons of one MLP, and how many it has."""

    block: int
    neurons: tuple[int, ...]
    of: int

    def others(self, seed: int) -> tuple[int, ...]:
        """As many other neurons of the block, drawn at random."""
        rest = np.setdiff1d(np.arange(self.of), self.neurons)
        count = min(len(rest), len(self.neurons))
        drawn = np.random.default_rng(seed).choice(rest, count, replace=False)
        return tuple(int(neuron) for neuron in drawn)


def where_p0_stands_out(bench: Bench) -> tuple[int, float]:
    """The read point at which P0 stands out most, and its norm over the median there."""
    rows = bench.prompts.take(slice(0, ROWS))
    state = torch.cat([run_norms(bench, batch)[0] for batch in rows.batches()], 1)
    ratios = (state[:, :, 0] / others_median(state)).mean(1)
    point = int(ratios.argmax())
    return point, float(ratios[point])


def run_norms(
    bench: Bench,
    batch: Prompts,
    edits: tuple[Edit, ...] = (),
    sites: Sites | None = None,
    logits: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Norms of the stream [point, B, T], and logits [B, T, V] where they are asked for."""
    norms: list[torch.Tensor] = []

    def consume(point: int, hidden: torch.Tensor) -> None:
        norms.append(hidden.float().norm(dim=-1).cpu())

    condition = Condition("norms", edits)
    done = run(bench.subject, batch, condition, consume=consume, logits=logits, sites=sites)
    return torch.stack(norms), done.logits


def norm_writers(bench: Bench, sites: Sites, point: int) -> Writers:
    """The neurons that write most of P0's norm before a read point. Unsupported without any."""
    first = bench.prompts.input_ids[:, 0].unique()
    inputs = projection_inputs(bench.subject, sites, first.to(bench.subject.device))
    best: tuple[float, int, torch.Tensor] | None = None
    for block, module in enumerate(bench.subject.anatomy.modules(bench.subject.model)[:point]):
        sublayer = sites.mlp(block)
        if sublayer is None or sublayer.projection is None or sublayer.experts is not None:
            continue
        with weights_of(module):
            columns = sublayer.projection.columns(module).float()
        given = inputs[block, "mlp"].float()
        size = float((given @ columns).norm(dim=-1).mean())
        if best is None or size > best[0]:
            best = size, block, given.abs().mean(0) * columns.norm(dim=-1)
    if best is None:
        raise Unsupported("no block has MLP neurons within reach before that point.")
    _, block, written = best
    order = written.argsort(descending=True)
    share = written[order].square().cumsum(0) / written.square().sum()
    count = max(NEURONS, int((share < MOST).sum()) + 1)
    return Writers(block, tuple(order[: min(count, LARGEST)].tolist()), len(written))
