"""What the sink is for: used, harmful, changes predictions but not this loss, only there."""

from __future__ import annotations

from typing import Any

import torch
from planted.uses import USES, build_use
from torch.nn.functional import cross_entropy

import sinkscope
from sinkscope import Subject, build_prompts
from trust_parts.asking import MOST, UNDETERMINED, advised

N, LENGTH = 64, 128  # prompts and tokens: a loss takes more text to settle than attention does

WORDS = {
    "used": ("used",),
    "harmful": ("harmful",),
    "changes predictions": ("changes",),
    "only there": ("only there", "present, not needed"),
}


def one(seed: int) -> dict[str, Any]:
    """One model, what removing its sink does in plain transformers, and what was said."""
    use = USES[seed % len(USES)]
    model, tokenizer, truth = build_use(use, seed)
    subject = Subject.from_model(model, tokenizer)
    ids = build_prompts(subject, n=N, length=LENGTH, bos="without", seed=seed + 1).input_ids
    loss, divergence = _without(model, ids, truth)
    found, again = _asked(subject, seed, N), None
    if found.verdict == UNDETERMINED and (take := advised(" ".join(found.notes))):
        again = min(take, MOST)
        found = _asked(subject, seed + 1, again)
    return {
        "kind": use,
        "loss": loss,
        "kl": divergence,
        "known": _true(use, loss, divergence),
        "said": {"verdict": found.verdict},
        "asked again": again,
        "right": {"use": found.verdict.startswith(WORDS[use])},
    }


def _asked(subject: Subject, seed: int, n: int) -> Any:
    result = sinkscope.mix(
        subject, n=n, pairs=n, length=LENGTH, bos="without", seed=seed, jacobian=False, sweeps=False
    )
    return next(iter(result.summary.mix.values()))


def _true(use: str, loss: float, divergence: float) -> bool:
    """Whether the model does what it was built for, as measured."""
    bounds = {
        "used": loss > 0.1,
        "harmful": loss < -0.1,
        # half of the bound of "used": what lies at the bound may be called either
        "changes predictions": abs(loss) < 0.005 and divergence > 0.05,
        "only there": abs(loss) < 0.01 and divergence < 0.01,
    }
    return bounds[use]


@torch.no_grad()
def _without(model: Any, ids: torch.Tensor, truth: Any) -> tuple[float, float]:
    """Change of the loss, and KL, with P0's value zeroed in the reading heads."""
    size = truth.spec["head_size"]

    def hook(head: int):
        def zeroed(module, arguments, output):
            output = output.clone()
            output[:, 0, head * size : (head + 1) * size] = 0
            return output

        return zeroed

    intact = model(ids).logits[:, 1:-1].log_softmax(-1)
    values = [(model.model.layers[b].self_attn.v_proj, head) for b, head in truth.reading_heads]
    handles = [value.register_forward_hook(hook(head)) for value, head in values]
    without = model(ids).logits[:, 1:-1].log_softmax(-1)
    for handle in handles:
        handle.remove()
    targets = ids[:, 2:].flatten()
    losses = [float(cross_entropy(logits.flatten(0, 1), targets)) for logits in (intact, without)]
    return losses[1] - losses[0], float((intact.exp() * (intact - without)).sum(-1).mean())
