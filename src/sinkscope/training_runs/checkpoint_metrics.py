"""The light set: stages 1 to 4 of the circuit in one forward pass and one pass of single tokens.

What is looked at is fixed for a whole run (prompts, first tokens, horizon, read point), so that
checkpoints can be compared. With read points l = input of block l, everything within the first
`horizon` blocks:

    r_l    = ‖x^l_0‖ / median_{t>0} ‖x^l_t‖
    u      = unit vector of (mean normalised P0 over first tokens) − (mean normalised others), at
             the read point `point`
    a_l    = mean over first tokens of ⟨x̂^l_0, u⟩, against the spread of ⟨x̂^l_t, u⟩, t > 0
    Δ^l    = x^{l+1}_0 − x^l_0, what block l adds at P0
    late share of a head = mean of A_{t0} over queries in the second half

(measures of `docs/measures.md`; Peng et al., arXiv 2603.06591; Ran-Milo et al., arXiv 2604.14722).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import nn

from sinkscope.detect.arrays import nan_mean
from sinkscope.observe.attention import observe, run_model
from sinkscope.observe.layout import Layout, layout_of
from sinkscope.observe.p0_stream import p0_states
from sinkscope.observe.reads import AttentionRead, Want
from sinkscope.observe.registry import evaluation
from sinkscope.observe.residual import residual_hooks
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts
from sinkscope.training_runs.partial import first_blocks
from sinkscope.training_runs.parts import P0Parts, p0_parts

KEPT = 16  # other positions of each prompt whose states are kept for directions
TARGETS = 32  # random keys whose late share is the null of P0's
AT_ONCE = 1024  # tokens: with few blocks in memory, activations would soon outweigh weights
CHANNELS = 5  # largest channels of P0 that are followed


@dataclass(frozen=True)
class View:
    """What is looked at in every checkpoint of a run.

    prompts       the same token ids throughout
    first_tokens  [F] token ids that are put at P0 by themselves
    horizon       number of first blocks that are looked at
    point         read point at which the sink direction u is taken, at most `horizon`
    loss          whether the next-token loss is measured (needs the whole model)
    parts         whether neurons and experts are named (needs a proven residual stream)
    seed          of random positions
    """

    prompts: Prompts
    first_tokens: torch.Tensor
    horizon: int
    point: int
    loss: bool = False
    parts: bool = True
    seed: int = 0


@dataclass
class CheckpointMetrics:
    """Metrics of one checkpoint, from one forward pass; arrays are float32 unless they hold ids.

    late          [prompt, block, head] late share of P0; NaN for heads a block does not have
    target_late   [block, head, target] mean late share of random keys in the first half
    log_ratio     [prompt, point] log r_l
    direction     [d] u
    p0_along      [token, point] ⟨x̂_0, u⟩ for each first token
    others_along  [2, point] mean and standard deviation of ⟨x̂_t, u⟩
    cosine        [point] mean cosine of P0 between first tokens
    write         [token, block] ⟨Δ^l, u⟩
    channels      [CHANNELS] largest channels of P0 at the block input measured
    neurons       [n, 2] (block, neuron) of the fewest neurons that make 90 % of what MLPs write
    experts       [n, 2] (block, expert) that P0 is routed to
    loss          [prompt] mean next-token loss in nats; empty where it was not measured
    """

    late: np.ndarray
    target_late: np.ndarray
    log_ratio: np.ndarray
    direction: np.ndarray
    p0_along: np.ndarray
    others_along: np.ndarray
    cosine: np.ndarray
    write: np.ndarray
    channels: np.ndarray
    neurons: np.ndarray
    experts: np.ndarray
    loss: np.ndarray

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def light(subject: Subject, view: View) -> CheckpointMetrics:
    """Measure one checkpoint.

    Raises Unsupported where attention or the residual stream cannot be read.
    """
    loss = _loss(subject, view.prompts) if view.loss else np.zeros(0, np.float32)
    with first_blocks(subject, view.horizon) as part:
        late, targets, log_ratio, others = _pass(part, view)
        parts = p0_parts(part, view) if view.parts else P0Parts.none()
        states = p0_states(part, view.first_tokens).float().cpu()
    return CheckpointMetrics(
        late=late,
        target_late=targets,
        log_ratio=log_ratio,
        loss=loss,
        **_along(states, others, view.point, parts),
    )


def _along(
    states: torch.Tensor, others: torch.Tensor, point: int, parts: P0Parts
) -> dict[str, np.ndarray]:
    """Everything that is measured along u. states [F, P, d]; others [n, P, d] unit vectors."""
    unit = states / states.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    difference = unit[:, point].mean(0) - others[:, point].mean(0)
    u = difference / difference.norm().clamp_min(1e-12)
    along = others @ u
    written = (states[:, 1:] - states[:, :-1]) @ u
    magnitude = states[:, point].abs().mean(0)
    neurons, experts = parts.chosen(u, point)
    return {
        "direction": u.numpy(),
        "p0_along": (unit @ u).numpy(),
        "others_along": torch.stack([along.mean(0), along.std(0)]).numpy(),
        "cosine": _cosine(unit).numpy(),
        "write": written.numpy(),
        "channels": magnitude.argsort(descending=True, stable=True)[:CHANNELS].numpy(),
        "neurons": neurons,
        "experts": experts,
    }


def _cosine(unit: torch.Tensor) -> torch.Tensor:
    """Mean cosine between all pairs of rows, (‖Σ x̂‖² − n) / (n(n−1)): [P]; NaN for one row."""
    count = unit.shape[0]
    total = unit.double().sum(0).square().sum(-1)
    return ((total - count) / (count * (count - 1)) if count > 1 else total * torch.nan).float()


def _pass(part: Subject, view: View) -> tuple[np.ndarray, np.ndarray, np.ndarray, torch.Tensor]:
    """One forward pass over the prompts: late shares, their null, log r, states of others."""
    generator = torch.Generator().manual_seed(view.seed)
    length = int(view.prompts.lengths.min())
    keys = 1 + torch.randperm(max(length // 2 - 1, 1), generator=generator)[:TARGETS]
    kept = 1 + torch.randperm(length - 1, generator=generator)[:KEPT]
    late, targets, ratios, others = [], [], [], []
    for batch in view.prompts.batches(max(1, AT_ONCE // view.prompts.length)):
        stream = _Stream(layout_of(batch, part.device), kept)
        want = Want(received=False, columns=tuple(keys.tolist()))
        reads, layout, _ = observe(
            part, batch, want, extra_hooks=residual_hooks(part, stream.consume)
        )
        late.append(_stack([_late(read.p0, read, layout) for read in reads]))
        targets.append(_stack([_late_columns(read, layout) for read in reads]))
        ratios.append(torch.stack(stream.log_ratio, 1))
        others.append(torch.stack(stream.others, 1))
    return (
        torch.cat(late).numpy(),
        nan_mean(torch.cat(targets).numpy()),
        torch.cat(ratios).numpy(),
        torch.cat(others),
    )


class _Stream:
    """Keeps log r of every prompt and the unit states of a few other positions, by read point."""

    def __init__(self, layout: Layout, kept: torch.Tensor) -> None:
        self.layout, self.kept = layout, kept
        self.log_ratio: list[torch.Tensor] = []
        self.others: list[torch.Tensor] = []

    def consume(self, point: int, hidden: torch.Tensor) -> None:
        """Take the residual stream [B, T, d] at one read point."""
        layout = self.layout.on(hidden.device)
        x = hidden.float()
        norms = x.norm(dim=-1)
        others = layout.valid & ~layout.is_p0
        median = norms.masked_fill(~others, torch.nan).nanmedian(1).values
        p0 = norms.gather(1, layout.is_p0.int().argmax(1, keepdim=True)).squeeze(1)
        self.log_ratio.append((p0.clamp_min(1e-12) / median.clamp_min(1e-12)).log().cpu())
        chosen = x[:, self.kept.to(x.device)]
        unit = chosen / chosen.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        self.others.append(unit.flatten(0, 1).cpu())


def _late(mass: torch.Tensor, read: AttentionRead, layout: Layout) -> torch.Tensor:
    """Mean of [B, H, T] over the late queries that see P0: [B, H]."""
    counted = (layout.on(mass.device).late & read.visible.p0_seen).unsqueeze(1)
    count = counted.sum(-1)
    mean = (mass * counted).sum(-1) / count.clamp_min(1)
    return torch.where(count > 0, mean, torch.nan).cpu()


def _late_columns(read: AttentionRead, layout: Layout) -> torch.Tensor:
    """Late share of each chosen key: [B, H, targets]."""
    assert read.columns is not None
    columns = read.columns.unbind(-1)
    return torch.stack([_late(column, read, layout) for column in columns], -1)


def _stack(rows: list[torch.Tensor]) -> torch.Tensor:
    """Stack [B, H, ..] over blocks to [B, block, H, ..]; blocks with fewer heads get NaN."""
    heads = max(row.shape[1] for row in rows)
    padded = [
        torch.cat(
            [row, row.new_full((row.shape[0], heads - row.shape[1], *row.shape[2:]), torch.nan)], 1
        )
        for row in rows
    ]
    return torch.stack(padded, 1).float()


def _loss(subject: Subject, prompts: Prompts) -> np.ndarray:
    """Mean next-token loss of each prompt in nats: [prompt]."""
    losses = []
    with torch.no_grad(), evaluation(subject.model):
        for batch in prompts.batches():
            logits = run_model(subject, batch, logits=True).float()
            targets = batch.input_ids.to(logits.device)[:, 1:]
            each = nn.functional.cross_entropy(
                logits[:, :-1].flatten(0, 1), targets.flatten(), reduction="none"
            ).view(targets.shape)
            valid = layout_of(batch, logits.device).valid[:, 1:]
            losses.append(((each * valid).sum(1) / valid.sum(1).clamp_min(1)).cpu())
    return torch.cat(losses).numpy()
