"""Figures of a trained model: loss, late share, nulls, state of position zero by block."""

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from sinkscope.observe.attention import observe
from sinkscope.observe.late import first_late
from sinkscope.observe.loss import log_probabilities, token_loss
from sinkscope.observe.p0_stream import p0_states
from sinkscope.observe.parity import token_prompts
from sinkscope.observe.reads import AttentionRead, Want
from sinkscope.observe.residual import keep_streams
from sinkscope.observe.stream import mean_cosine, norm_ratio
from sinkscope.stats import bootstrap
from sinkscope.subject.anatomy import find_anatomy
from sinkscope.subject.load import Subject

BATCH, QUICK, EPS, TARGETS = 16, 32, 0.3, 500
MAPS = Want(received=False, maps=True)  # small models: the maps of a batch are held


@torch.no_grad()
def measure(
    model: PreTrainedModel,
    windows: Tensor,
    watched: list[tuple[int, int]],
    delimiters: Tensor | None = None,
) -> dict:
    """All figures of one model on the same windows, as plain data.

    windows: token ids [n, T + 1]. watched: the (block, head) pairs of the demand. delimiters: ids
    [k] that stand in for position zero where they are the target.
    loss: cross-entropy in nats per token. late_share: mean attention of the queries t >= T/2 to
    position zero (or all delimiters), by block and head and as means over groups of heads.
    uniform_late_share: the same of uniform attention. late_share_p99: 99th percentile over 500
    random targets of the watched heads' late share. sink_rate: share of windows and watched heads
    in which position zero receives more than 0.3 of all queries. The other figures have one entry
    a read point of the residual stream: the embedding, then the state after each block.
    """
    subject = Subject(model, None, find_anatomy(model))
    loss, late, first, zero, middle, ratio = _passes(subject, windows)
    alone = p0_states(subject, torch.arange(model.config.vocab_size))
    wanted = wanted_keys(windows[:, :-1], delimiters)
    share = (late * wanted[:, None, None]).sum(-1)
    figures = {
        "windows": len(windows),
        "length": windows.shape[1] - 1,
        "parameters": model.num_parameters(),
        "uniform_late_share": _uniform(wanted),
        "loss": _measured(loss),
        "late_share": {
            "heads": share.mean(0).tolist(),
            **{name: _measured(share[:, b, h].mean(1)) for name, (b, h) in _groups(share, watched)},
        },
        "cosine_windows": mean_cosine(zero.transpose(0, 1)).tolist(),
        "cosine_vocabulary": mean_cosine(alone).tolist(),
        "cosine_middle": mean_cosine(middle.transpose(0, 1)).tolist(),
        "norm_ratio": ratio.mean(1).tolist(),
    }
    if watched:
        b, h = zip(*watched)
        figures["late_share_p99"] = _random_targets(late[:, b, h].mean(1), wanted.sum(1))
        figures["sink_rate"] = _measured((first[:, b, h] > EPS).double().mean(1))
    return figures


@torch.no_grad()
def quick_figures(model: PreTrainedModel, windows: Tensor, watched: list) -> dict:
    """A few numbers to follow a run by: loss, late share of position zero, largest norm ratio.

    windows: token ids [n, T + 1]. loss: nats per token.
    """
    loss, late, _, _, _, ratio = _passes(Subject(model, None, find_anatomy(model)), windows)
    share = late[..., 0].mean(0)
    figures = {
        "loss": loss.mean().item(),
        "late_share_best_head": share.max().item(),
        "norm_ratio": ratio.mean(1).max().item(),
    }
    if watched:
        figures["late_share_watched"] = share[tuple(zip(*watched))].mean().item()
    return figures


def _passes(subject: Subject, windows: Tensor) -> tuple[Tensor, ...]:
    """Loss [n], late [n, L, H, key], first [n, L, H], P0's and a middle state [point, n, d], r."""
    parts = [_batch(subject, batch) for batch in windows.split(BATCH)]
    loss, late, first, zero, middle, ratio = zip(*parts)
    along_rows = (torch.cat(each) for each in (loss, late, first))
    return (*along_rows, *(torch.cat(each, 1) for each in (zero, middle, ratio)))


def _batch(subject: Subject, batch: Tensor) -> tuple[Tensor, ...]:
    inputs, half = batch[:, :-1], (batch.shape[1] - 1) // 2
    points, taps = keep_streams(subject)
    reads, _, logits = observe(subject, token_prompts(inputs), MAPS, extra_hooks=taps, logits=True)
    states = torch.stack([points[point] for point in sorted(points)])
    loss = token_loss(log_probabilities(logits), batch[:, 1:]).mean(1).cpu()
    first = torch.stack([read.p0.mean(2) for read in reads], 1).cpu()
    ratio = norm_ratio(states.norm(dim=-1))[:, :, 0]
    return loss, late_by_key(reads), first, states[:, :, 0], states[:, :, half], ratio


def late_by_key(reads: list[AttentionRead]) -> Tensor:
    """[sequence, block, head, key]: what each key receives of the late queries, in the mean."""
    maps = torch.stack([read.map for read in reads if read.map is not None], 1)
    return maps[..., first_late(maps.shape[-1]) :, :].mean(-2).cpu()


def wanted_keys(ids: Tensor, delimiters: Tensor | None) -> Tensor:
    """Which keys are the target, [sequence, key]: position zero, or every delimiter."""
    if delimiters is not None:
        return torch.isin(ids, delimiters)
    return (torch.arange(ids.shape[1]) == 0).expand_as(ids)


def _uniform(wanted: Tensor) -> float:
    """Late share of uniform attention: mean over t >= T/2 of the share of visible keys wanted."""
    length = wanted.shape[1]
    share = wanted.double().cumsum(1) / torch.arange(1, length + 1)
    return share[:, first_late(length) :].mean().item()


def _random_targets(late: Tensor, sizes: Tensor) -> float:
    """99th percentile of what as many random keys of a window, position zero excepted, receive.

    late [sequence, key]. Single keys come from the first half, which all late queries see.
    """
    generator = torch.Generator().manual_seed(0)
    drawn = []
    for row in torch.randint(len(late), (TARGETS,), generator=generator).tolist():
        size = int(sizes[row])
        last = late.shape[1] // 2 if size == 1 else late.shape[1]
        keys = 1 + torch.randperm(last - 1, generator=generator)[:size]
        drawn.append(late[row, keys].sum().item())
    return float(np.percentile(drawn, 99))


def _groups(share: Tensor, watched: list[tuple[int, int]]) -> list[tuple[str, tuple]]:
    pairs = [(b, h) for b in range(share.shape[1]) for h in range(share.shape[2])]
    first = min((b for b, _ in watched), default=0)
    groups = {
        "supervised": [p for p in pairs if p in watched],
        "unsupervised_same_blocks": [p for p in pairs if p not in watched and p[0] >= first],
        "earlier_blocks": [p for p in pairs if p[0] < first],
        "all": pairs,
    }
    return [(name, tuple(zip(*group))) for name, group in groups.items() if group]


def _measured(values: Tensor) -> dict:
    measured = bootstrap(np.asarray(values))
    return {"value": measured.value, "low": measured.low, "high": measured.high}
