"""Figures for a model card: loss, late share of position zero, state of position zero by block."""

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from sinkscope.observe.registry import evaluation, hooks
from sinkscope.stats import bootstrap

BATCH = 16


def distinct_windows(stream: Tensor, count: int, length: int, seed: int = 0) -> Tensor:
    """Windows `(count, length + 1)` from random places, no two with the same first token."""
    generator = torch.Generator().manual_seed(seed)
    found: dict[int, Tensor] = {}
    for start in torch.randint(len(stream) - length, (100 * count,), generator=generator).tolist():
        found.setdefault(int(stream[start]), stream[start : start + length + 1])
        if len(found) == count:
            return torch.stack(list(found.values())).long()
    raise ValueError(f"The text has only {len(found)} different tokens; {count} are needed.")


@torch.no_grad()
def measure(model: LlamaForCausalLM, windows: Tensor, asked: list[tuple[int, int]]) -> dict:
    """All figures of one model on the same windows, as plain data.

    loss: cross-entropy in nats per token. late_share: mean attention of the queries t >= T/2 to
    position zero, by block and head and as means over groups of heads. The other figures have one
    entry a read point of the residual stream: the embedding, then the state after each block.
    """
    with evaluation(model):
        parts = [_batch(model, batch) for batch in windows.split(BATCH)]
        alone = torch.cat([reads(model, t)[:, :, 0] for t in _vocabulary(model).split(512)], 1)
    loss, share, zero, middle, ratio = (
        torch.cat(p, dim) for p, dim in zip(zip(*parts), (0, 0, 1, 1, 1))
    )
    return {
        "windows": len(windows),
        "length": windows.shape[1] - 1,
        "parameters": model.num_parameters(),
        "uniform_late_share": uniform_late_share(windows.shape[1] - 1),
        "loss": _measured(loss),
        "late_share": {
            "heads": share.mean(0).tolist(),
            **{name: _measured(share[:, b, h].mean(1)) for name, (b, h) in _groups(share, asked)},
        },
        "cosine_windows": mean_cosine(zero),
        "cosine_vocabulary": mean_cosine(alone),
        "cosine_middle": mean_cosine(middle),
        "norm_ratio": ratio.mean(1).tolist(),
    }


def _batch(model: LlamaForCausalLM, batch: Tensor) -> tuple[Tensor, ...]:
    inputs, half = batch[:, :-1], (batch.shape[1] - 1) // 2
    states = reads(model, inputs)
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        out = model(inputs, output_attentions=True, use_cache=False)
    finally:
        model.set_attn_implementation(before)
    loss = nn.functional.cross_entropy(out.logits.transpose(1, 2), batch[:, 1:], reduction="none")
    share = torch.stack([a[:, :, half:, 0].mean(-1) for a in out.attentions], dim=1)
    norms = states.norm(dim=-1)
    ratio = norms[:, :, 0] / norms[:, :, 1:].median(-1).values
    return loss.mean(1), share, states[:, :, 0], states[:, :, half], ratio


def reads(model: LlamaForCausalLM, ids: Tensor) -> Tensor:
    """The residual stream `[read point, sequence, position, width]`: embedding, then each block."""
    kept: list[Tensor] = []

    def keep(module: nn.Module, args: tuple, output) -> None:
        kept.append(output[0] if isinstance(output, tuple) else output)

    points = [model.get_input_embeddings(), *model.model.layers]
    with hooks([point.register_forward_hook(keep) for point in points]):
        model.model(ids, use_cache=False)
    return torch.stack(kept)


def mean_cosine(states: Tensor) -> list[float]:
    """Mean cosine over all pairs of different sequences; states `[read point, sequence, width]`."""
    unit = nn.functional.normalize(states.double(), dim=-1)
    n = states.shape[1]
    # |sum of unit vectors|^2 holds every ordered pair and n times the cosine 1 with itself.
    return ((unit.sum(1).square().sum(-1) - n) / (n * (n - 1))).tolist()


def uniform_late_share(length: int) -> float:
    """Late share of uniform attention: the mean of 1 / (t + 1) over t >= T/2."""
    late = range(length // 2, length)
    return sum(1 / (t + 1) for t in late) / len(late)


def _vocabulary(model: LlamaForCausalLM) -> Tensor:
    # Position zero sees only itself, so a sequence of one token is its whole state.
    return torch.arange(model.config.vocab_size)[:, None]


def _groups(share: Tensor, asked: list[tuple[int, int]]) -> list[tuple[str, tuple]]:
    pairs = [(b, h) for b in range(share.shape[1]) for h in range(share.shape[2])]
    first = min((b for b, _ in asked), default=0)
    groups = {
        "asked": [p for p in pairs if p in asked],
        "unasked_same_blocks": [p for p in pairs if p not in asked and p[0] >= first],
        "earlier_blocks": [p for p in pairs if p[0] < first],
        "all": pairs,
    }
    return [(name, tuple(zip(*group))) for name, group in groups.items() if group]


def _measured(values: Tensor) -> dict:
    measured = bootstrap(np.asarray(values))
    return {"value": measured.value, "low": measured.low, "high": measured.high}
