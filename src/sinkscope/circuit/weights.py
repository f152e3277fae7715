"""The weight view of amplification: which input each writing neuron detects.

A gated neuron writes σ(g·x)·(u·x)·W_down. Its rows g and u, with the gain of the norm before the
MLP folded in, are held against two signals: what attention adds to P0 less what it adds elsewhere
(recognition), and the whole difference of the streams that the MLP reads. The strongest channel c
of the sink direction is, as far as the writing neurons go, the quadratic form
`S_c = sym Σ_n W_down[c,n]·g_n u_nᵀ` (Sun et al., arXiv 2603.05498); where recognition is handed to
amplification, its leading eigenvector lies along a signal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cosine_similarity

from sinkscope.circuit.frozen import affine_form
from sinkscope.circuit.unit import NEURON, Unit, by_block
from sinkscope.observe.p0_stream import one_token_pass
from sinkscope.observe.projection import Projection
from sinkscope.observe.residual import is_norm
from sinkscope.observe.sites import Sites
from sinkscope.observe.stream import first_hidden
from sinkscope.observe.together import together
from sinkscope.schema.trace import Quadratic, WeightView
from sinkscope.subject.at_hand import plain_weight, weights_of
from sinkscope.subject.load import Subject

MOST = 16  # neurons shown for each block


def weight_view(
    subject: Subject,
    sites: Sites,
    writers: Sequence[Unit],
    signals: dict[int, dict[str, torch.Tensor]],
    u: torch.Tensor,
) -> list[WeightView]:
    """One row for each writing block with a dense MLP: cosines of input rows with the signals.

    signals  block -> {attention: [d], stream: [d]}
    Blocks whose MLP keeps its input maps in another form than one row for each neuron, and routed
    experts, are left out.
    """
    with together(subject) as start:
        rows = [
            start(_row, subject, sites, block, neurons[:MOST], signals[block], u)
            for block, neurons in by_block(writers, NEURON).items()
        ]
        found = [row() for row in rows]
    return [row for row in found if row is not None]


def _row(
    subject: Subject,
    sites: Sites,
    block: int,
    chosen: list[int],
    signals: dict[str, torch.Tensor],
    u: torch.Tensor,
) -> WeightView | None:
    module = subject.anatomy.modules(subject.model)[block]
    sublayer = sites.mlp(block)
    if sublayer is None or sublayer.projection is None or sublayer.experts is not None:
        return None
    if not (maps := input_maps(module, sublayer.projection)):
        return None
    gain = _gain_before(subject, block, maps)  # ends with the block at hand
    with weights_of(module):
        maps = input_maps(module, sublayer.projection)
        inputs = {name: weight[chosen].float().cpu() * gain for name, (_, weight) in maps.items()}
        columns = sublayer.projection.columns(module)[chosen].float().cpu()
    row: WeightView = {"block": block, "neurons": chosen}
    for signal, vector in signals.items():
        row[signal] = {  # type: ignore[literal-required]
            name: cosine_similarity(weight, vector.expand_as(weight), dim=1).tolist()
            for name, weight in inputs.items()
        }
    if len(inputs) == 2:
        row["quadratic"] = _quadratic(columns, inputs, signals, u)
    return row


def input_maps(block: nn.Module, last: Projection) -> dict[str, tuple[str, torch.Tensor]]:
    """Input rows of the neurons: name -> (module path, [neurons, d]).

    Names are gate and up, or in without a gate; empty where the maps are not found. Of two maps,
    the gate is the one that its name says; a fused map holds the gate first.
    """
    neurons, width = last.columns(block).shape
    root = last.module.rpartition(".")[0]
    found: dict[str, torch.Tensor] = {}
    for name, child in block.get_submodule(root).named_modules():
        weight = getattr(child, "weight", None)
        path = f"{root}.{name}".strip(".")
        if path == last.module or not isinstance(weight, torch.Tensor) or weight.dim() != 2:
            continue
        rows = plain_weight(child)
        found[path] = rows.T if type(child).__name__ == "Conv1D" else rows
    for path, rows in found.items():
        if rows.shape == (2 * neurons, width):
            gate, up = rows.chunk(2)
            return {"gate": (path, gate), "up": (path, up)}
    single = [path for path, rows in found.items() if rows.shape == (neurons, width)]
    if len(single) == 1:
        return {"in": (single[0], found[single[0]])}
    if len(single) == 2:
        first, second = sorted(single, key=lambda p: "gate" not in p and not p.endswith("w1"))
        return {"gate": (first, found[first]), "up": (second, found[second])}
    return {}


def _gain_before(
    subject: Subject, block: int, maps: dict[str, tuple[str, torch.Tensor]]
) -> torch.Tensor:
    """Gain [d] of the norm whose output the input maps read; ones where it is not one norm's."""
    module = subject.anatomy.modules(subject.model)[block]
    path = next(iter(maps.values()))[0]
    seen: list[tuple[nn.Module, torch.Tensor, torch.Tensor]] = []
    gain: list[torch.Tensor] = []

    def norm(child, args, output):
        if isinstance(output, torch.Tensor) and args and output.shape == args[0].shape:
            seen.append((child, args[0], output))

    def reads(child, args, kwargs):
        x = first_hidden(args, kwargs)
        for owner, given, output in seen:
            if output.numel() == x.numel() and torch.equal(output.flatten(), x.flatten()):
                gain[:] = [affine_form(owner, given[:1]).gain.flatten().cpu()]

    def taps() -> list[Any]:
        return [
            *(one.register_forward_hook(norm) for one in module.modules() if is_norm(one)),
            module.get_submodule(path).register_forward_pre_hook(reads, with_kwargs=True),
        ]

    one_token_pass(subject, torch.tensor([0]), taps, block + 1)
    return gain[0] if gain else torch.ones(next(iter(maps.values()))[1].shape[1])


def _quadratic(
    columns: torch.Tensor,
    inputs: dict[str, torch.Tensor],
    signals: dict[str, torch.Tensor],
    u: torch.Tensor,
) -> Quadratic:
    """The strongest channel's quadratic form over the writing neurons. columns [k, d]."""
    channel = int((columns * u).sum(0).abs().argmax())
    gate, up = inputs["gate"].double(), inputs["up"].double()
    # S has rank 2k at most, so its spectrum is that of a small matrix
    basis, _ = torch.linalg.qr(torch.cat([gate, up]).T)
    weights = columns[:, channel].double()
    small = torch.einsum("k,ki,kj->ij", weights, gate @ basis, up @ basis)
    values, vectors = torch.linalg.eigh((small + small.T) / 2)
    lead = int(values.abs().argmax())
    vector = basis @ vectors[:, lead]
    return {
        "channel": channel,
        "eigenvalue": float(values[lead]),
        "rank_one_share": float(values[lead].square() / values.square().sum().clamp_min(1e-30)),
        "overlap": {
            name: float(cosine_similarity(vector, signal.double(), dim=0).abs())
            for name, signal in signals.items()
        },
    }
