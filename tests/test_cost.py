"""Loss and KL of prompts: plain formulas, whole or in parts, and batches of so many logits."""

from __future__ import annotations

import pytest
import torch

from sinkscope.intervene import cost
from sinkscope.subject.prompts import build_prompts


@pytest.mark.parametrize("cached", [1, 3 * 50, cost.CACHED])
def test_loss_and_divergence_in_parts_are_those_of_the_whole(llama, monkeypatch, cached):
    monkeypatch.setattr(cost, "CACHED", cached)
    prompts = build_prompts(llama, kind="random", n=2, length=10)
    generator = torch.Generator().manual_seed(0)
    intact, changed = (torch.randn(2, 10, 50, generator=generator) for _ in range(2))
    ids = prompts.input_ids % 50
    prompts.input_ids[:] = ids
    p, q = intact.log_softmax(-1)[:, 1:-1], changed.log_softmax(-1)[:, 1:-1]
    loss = -q.gather(2, ids[:, 2:, None]).squeeze(2).mean(1)
    torch.testing.assert_close(cost.losses(changed, prompts).float(), loss)
    kl = (p.exp() * (p - q)).sum(-1).mean(1)
    torch.testing.assert_close(cost.divergences(intact, changed, prompts).float(), kl)


def test_a_batch_holds_no_more_logits_than_it_may(llama, monkeypatch):
    prompts = build_prompts(llama, kind="random", n=5, length=10)
    items = llama.model.config.vocab_size
    for most, sizes in ((10 * items, [1] * 5), (25 * items, [2, 2, 1]), (1, [1] * 5)):
        monkeypatch.setattr(cost, "LOGITS", most)
        assert [len(rows) for rows in cost.logit_batches(llama, prompts)] == sizes
