"""Every unit that writes at position zero, ranked by what mean-ablating it takes from the sink.

With the norms frozen, the mean late logit of a reading head h of block b_h on position zero is
⟨g_h, x_0⟩ plus a constant (`keys.SinkLogits`), and x_0 is a sum of writes. A head or neuron of
block b whose write at position zero is Δ_0, and Δ_t at the others, gives the reading heads' logits

    Σ_{h: b_h > b} ⟨g_h, Δ_0 − mean_{t>0} Δ_t⟩

which is, to first order, what goes when its write at position zero is set to the others' mean.
Unlike the write along the sink direction, which ends where that direction is taken, this follows
writers up to the last block that is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from sinkscope.circuit.components import unit_writes
from sinkscope.circuit.keys import SinkLogits
from sinkscope.circuit.unit import Unit
from sinkscope.circuit.writes import Key, dense_maps, written_along
from sinkscope.errors import Missing
from sinkscope.observe.attention import run_model
from sinkscope.observe.registry import evaluation, hooks
from sinkscope.observe.sites import Sites
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts

ROWS, USUAL_ROWS = 64, 16  # prompts whose first tokens are averaged, and whose other positions are
AMPLIFIED = 2.0  # times the others' median norm at P0: from there on others may be like P0


def units_by_logit(
    subject: Subject,
    sites: Sites,
    prompts: Prompts,
    logits: SinkLogits | Missing,
    usual: Mapping[Key, torch.Tensor],
) -> tuple[Unit, ...] | Missing:
    """Units that raise the reading heads' logits on P0, those that raise them most first.

    usual  key -> [in], the `usual_inputs`
    Where the logits are missing, so is the ranking, for the same reason.
    """
    if isinstance(logits, Missing):
        return logits
    gradient = logits.gradient.mean(0)
    reading = torch.tensor([block for block, _ in logits.heads])
    stop = int(reading.max())

    def along(block: int) -> torch.Tensor:
        return gradient[reading > block].sum(0)

    writes = written_along(subject, sites, prompts.input_ids[:ROWS, 0], along, stop, usual)
    rows = [row for row in unit_writes(writes) if row[1] > 0]
    return tuple(unit for unit, _ in sorted(rows, key=lambda row: -row[1]))


def usual_inputs(subject: Subject, sites: Sites, prompts: Prompts) -> dict[Key, torch.Tensor]:
    """Mean input [in] of every output projection (W_O, W_down), over t > 0.

    Of the first USUAL_ROWS prompts. It is the baseline of mean ablation. Positions amplified as P0
    is (some delimiters, a token that repeats the first) are left out: a few of them in a hundred
    would leave P0 long. Prompts are right-padded; padded positions count.
    """
    prompts = prompts.take(slice(0, USUAL_ROWS))
    sums: dict[Key, torch.Tensor] = {}
    counts: dict[Key, int] = {}

    def listen(key: Key) -> Any:
        def hook(module: Any, args: tuple) -> None:
            rows = args[0].detach()
            rows = rows.reshape(len(prompts), -1, rows.shape[-1]).float()
            norms = rows.norm(dim=-1)
            at_p0, usual = norms[:, 0].mean(), norms[:, 1:].median()
            like_p0 = norms > (at_p0 * usual).sqrt()  # nearer to it than to the median, in logs
            odd = like_p0[:, 1:] & (at_p0 > AMPLIFIED * usual)
            rows = rows[:, 1:][~odd]
            sums[key] = sums.get(key, 0.0) + rows.sum(0)
            counts[key] = counts.get(key, 0) + len(rows)

        return hook

    handles = [
        projection.owner(block).register_forward_pre_hook(listen((number, f"{index}{name}")))
        for number, block in enumerate(subject.anatomy.modules(subject.model))
        for index, sublayer in enumerate(sites.blocks[number])
        for name, projection in dense_maps(sublayer)
    ]
    with hooks(handles), torch.no_grad(), evaluation(subject.model):
        run_model(subject, prompts, logits=False)
    return {key: sums[key] / counts[key] for key in sums}
