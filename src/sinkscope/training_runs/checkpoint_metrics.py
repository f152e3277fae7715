"""One checkpoint: stages 1 to 4 of the circuit in one forward pass and one of single tokens.

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

from sinkscope.detect.attention import AttentionStats
from sinkscope.detect.decision import sinks_of
from sinkscope.errors import InputError
from sinkscope.intervene.cost import logit_batches, losses
from sinkscope.observe.attention import observe, run_model
from sinkscope.observe.layout import Layout, layout_of
from sinkscope.observe.p0_stream import p0_states
from sinkscope.observe.reads import Want
from sinkscope.observe.registry import evaluation
from sinkscope.observe.residual import residual_hooks
from sinkscope.observe.stream import OthersMean, mean_cosine, norm_ratio, sink_direction, unit
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts
from sinkscope.training_runs.partial import first_blocks
from sinkscope.training_runs.parts import P0Parts, p0_parts
from sinkscope.training_runs.view import View

KEPT = 16  # other positions of each prompt from which their spread along u is taken
AT_ONCE = 1024  # tokens: with few blocks in memory, activations would soon outweigh weights
CHANNELS = 5  # largest channels of P0 that are followed


@dataclass
class CheckpointMetrics:
    """Metrics of one checkpoint, from one forward pass; arrays are float32 unless they hold ids.

    late          [prompt, block, head] late share of P0; NaN for heads a block does not have
    uniform       [block] late share under uniform attention
    sinks         [block, head] heads that sink, by the rule of `detect.decision`
    target_late   [block, head, key] mean late share of the other keys of the first half
    log_ratio     [prompt, point] log r_l
    direction     [d] u
    p0_along      [token, point] ⟨x̂_0, u⟩ for each first token
    others_along  [2, point] mean of ⟨x̂_t, u⟩, and its standard deviation in a sample of t
    cosine        [point] mean cosine of P0 between first tokens
    write         [token, block] ⟨Δ^l, u⟩
    channels      [CHANNELS] largest channels of P0 at the block input measured
    neurons       [n, 2] (block, neuron) of the fewest neurons that make 90 % of what MLPs write
    experts       [n, 2] (block, expert) that P0 is routed to
    loss          [prompt] mean next-token loss at t ≥ 1, in nats; empty where it was not measured
    said          [bytes] UTF-8 of what is to be known of how the checkpoint was loaded
    """

    late: np.ndarray
    uniform: np.ndarray
    sinks: np.ndarray
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
    said: np.ndarray

    @property
    def note(self) -> str:
        """What is to be known of how the checkpoint was loaded, or ""."""
        return self.said.tobytes().decode("utf-8", "replace")

    def arrays(self) -> dict[str, np.ndarray]:
        """Name -> array [...], shaped as the field."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def light(subject: Subject, view: View) -> CheckpointMetrics:
    """Measure one checkpoint.

    Raises Unsupported where attention or the residual stream cannot be read, InputError for
    left-padded or packed prompts.
    """
    if not view.prompts.right_padded:
        raise InputError("a timeline needs right-padded prompts, not left-padded or packed ones.")
    loss = _loss(subject, view.prompts) if view.loss else np.zeros(0, np.float32)
    with first_blocks(subject, view.horizon) as part:
        stats, stream = _pass(part, view)
        parts = p0_parts(part, view) if view.parts else P0Parts()
        states = p0_states(part, view.first_tokens)
    return CheckpointMetrics(
        late=stats.late,
        uniform=stats.uniform[1],
        sinks=sinks_of(stats).heads,
        target_late=_known(stats.late_curve[..., 1:]),
        log_ratio=_by_point(stream.log_ratio).numpy(),
        loss=loss,
        said=np.frombuffer(subject.identity.get("note", "").encode(), np.uint8),
        **_along(states, stream, view.point, parts),
    )


def _along(
    states: torch.Tensor, stream: _Stream, point: int, parts: P0Parts
) -> dict[str, np.ndarray]:
    """Everything that is measured along u. states [F, P, d]."""
    others = stream.others.mean
    u = sink_direction(states[:, point], others[point])
    spread = (_by_point(stream.sample) @ u).std(0)
    magnitude = states[:, point].abs().mean(0)
    neurons, experts = parts.chosen(u, point)
    return {
        "direction": u.numpy(),
        "p0_along": (unit(states) @ u).numpy(),
        "others_along": torch.stack([others @ u, spread]).numpy(),
        "cosine": mean_cosine(states).float().numpy(),
        "write": ((states[:, 1:] - states[:, :-1]) @ u).numpy(),
        "channels": magnitude.argsort(descending=True, stable=True)[:CHANNELS].numpy(),
        "neurons": neurons,
        "experts": experts,
    }


def _known(curves: np.ndarray) -> np.ndarray:
    """Without the keys behind the first half, which have no late share."""
    return curves[..., np.isfinite(curves).any((0, 1))].astype(np.float32)


def _pass(part: Subject, view: View) -> tuple[AttentionStats, _Stream]:
    """One forward pass over the prompts: attention on every key, and the stream."""
    generator = torch.Generator().manual_seed(view.seed)
    length = int(view.prompts.lengths.min())
    stream = _Stream(1 + torch.randperm(length - 1, generator=generator)[:KEPT])
    stats = AttentionStats(1)
    for batch in view.prompts.batches(max(1, AT_ONCE // view.prompts.length)):
        stream.layout = layout_of(batch, part.device)
        taps = residual_hooks(part, stream.consume)
        reads, layout, _ = observe(part, batch, Want(), extra_hooks=taps)
        stats.add(reads, layout, torch.zeros_like(batch.input_ids))
    return stats, stream


class _Stream:
    """Log r of every prompt, the mean of the others and a sample of them [d], by read point."""

    def __init__(self, kept: torch.Tensor) -> None:
        self.layout: Layout | None = None
        self.kept = kept
        self.others = OthersMean()
        self.log_ratio: dict[int, list[torch.Tensor]] = {}
        self.sample: dict[int, list[torch.Tensor]] = {}

    def consume(self, point: int, hidden: torch.Tensor) -> None:
        """Take the residual stream [B, T, d] at one read point."""
        assert self.layout is not None
        layout, x = self.layout.on(hidden.device), hidden.float()
        ratio = norm_ratio(x.norm(dim=-1), layout.valid & ~layout.is_p0)[:, 0]
        self.log_ratio.setdefault(point, []).append(ratio.log().cpu())
        self.others.add(point, x, layout)
        sample = unit(x[:, self.kept.to(x.device)]).flatten(0, 1)
        self.sample.setdefault(point, []).append(sample.cpu())


def _by_point(rows: dict[int, list[torch.Tensor]]) -> torch.Tensor:
    """[n, P, ..] from the parts of each read point."""
    return torch.stack([torch.cat(rows[point]) for point in sorted(rows)], 1)


def _loss(subject: Subject, prompts: Prompts) -> np.ndarray:
    """Mean next-token loss of each prompt in nats, P0's own prediction left out: [prompt]."""
    with torch.no_grad(), evaluation(subject.model):
        found = [
            losses(run_model(subject, batch, logits=True), batch)
            for batch in logit_batches(subject, prompts)
        ]
    return torch.cat(found).float().numpy()
