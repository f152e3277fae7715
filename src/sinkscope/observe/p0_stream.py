"""Position zero is a function of one token.

Under a causal mask P0 attends only to itself, so its whole residual stream is a forward pass of
length one, and every other position reads it only through one key and one value for each layer: a
one-entry cache. So every vocabulary item can be put at P0 in one batched pass, and any edit of P0's
stream is a length-one pass with the rest of the sequence run on its cache.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch

from sinkscope.errors import Unsupported
from sinkscope.observe.registry import evaluation, hooks
from sinkscope.observe.residual import residual_hooks
from sinkscope.subject.load import Subject

BATCH = 1024


def p0_stream(
    subject: Subject, tokens: torch.Tensor, consume: Callable[[int, torch.Tensor], None]
) -> None:
    """Run each token as a sequence of its own; consume(point, hidden [b, d]) at each read point."""

    def first(point: int, hidden: torch.Tensor) -> None:
        consume(point, hidden[:, 0])

    model = subject.model
    with torch.no_grad(), evaluation(model):
        for start in range(0, len(tokens), BATCH):
            ids = tokens[start : start + BATCH].to(subject.device).unsqueeze(1)
            with hooks(residual_hooks(subject, first)()):
                getattr(model, "base_model", model)(input_ids=ids, use_cache=False)


def p0_states(subject: Subject, tokens: torch.Tensor) -> torch.Tensor:
    """P0's residual stream for each token: [n, points, d], fp32."""
    points: dict[int, list[torch.Tensor]] = {}
    p0_stream(subject, tokens, lambda i, hidden: points.setdefault(i, []).append(hidden.float()))
    return torch.stack([torch.cat(points[i]) for i in sorted(points)], 1)


def p0_cache(subject: Subject, first: torch.Tensor):
    """The cache of one-entry keys and values that P0 leaves behind. first: [B] token ids."""
    with torch.no_grad(), evaluation(subject.model):
        output = subject.model(input_ids=first.to(subject.device).unsqueeze(1), use_cache=True)
    cache = getattr(output, "past_key_values", None)
    if cache is None:
        raise Unsupported(f"{subject.anatomy.model_type} keeps no key-value cache.")
    return cache


def run_after_p0(subject: Subject, rest: torch.Tensor, cache) -> torch.Tensor:
    """Logits [B, T−1, V] of positions 1.. run on the cache of position zero. rest: [B, T−1] ids."""
    rest = rest.to(subject.device)
    inputs = {"input_ids": rest, "past_key_values": cache, "use_cache": True}
    accepted = inspect.signature(subject.model.forward).parameters
    if "attention_mask" in accepted:
        ones = torch.ones(rest.shape[0], rest.shape[1] + 1, dtype=torch.long, device=rest.device)
        inputs["attention_mask"] = ones
    if "position_ids" in accepted:
        positions = torch.arange(1, rest.shape[1] + 1, device=rest.device)
        inputs["position_ids"] = positions.expand(rest.shape[0], -1)
    with torch.no_grad(), evaluation(subject.model):
        return subject.model(**inputs).logits


def p0_identity(subject: Subject, ids: torch.Tensor) -> tuple[float, float]:
    """How far idea and model differ: (residual stream of P0, logits after it), largest absolute.

    ids [B, T]. The first compares P0's stream inside the full sequence with the one-token pass; the
    second the full pass's logits with those of positions 1.. run on the one-entry cache. Both are
    rounding errors where the identity holds.
    """
    states = p0_states(subject, ids[:, 0])
    stream = 0.0

    def compare(point: int, hidden: torch.Tensor) -> None:
        nonlocal stream
        stream = max(stream, (hidden[:, 0].float() - states[:, point]).abs().max().item())

    with torch.no_grad(), evaluation(subject.model), hooks(residual_hooks(subject, compare)()):
        full = subject.model(input_ids=ids.to(subject.device), use_cache=False).logits
    after = run_after_p0(subject, ids[:, 1:], p0_cache(subject, ids[:, 0]))
    return stream, (after - full[:, 1:]).abs().max().item()
