"""What `SinkMonitor` adds to a training loop: 60 million parameters, bf16 autocast, every=10."""

from __future__ import annotations

import statistics

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from gpu_parts.common import Run, timed
from sinkscope.training_runs.monitor import SinkMonitor

EVERY = 10


class Loop:
    """A training loop over random tokens."""

    def __init__(self, run: Run, rows: int, length: int) -> None:
        torch.manual_seed(run.seed)
        sizes = {"hidden_size": 640, "intermediate_size": 1728, "num_hidden_layers": 10}
        sizes |= {"num_attention_heads": 10, "num_key_value_heads": 10, "vocab_size": 16384}
        if run.tiny:
            sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4}
            sizes |= {"num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 64}
        config = LlamaConfig(tie_word_embeddings=True, **sizes)
        self.model = LlamaForCausalLM(config).to(run.device).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=3e-4, fused=True)
        self.shape, self.device = (rows, length), run.device
        self.generator = torch.Generator().manual_seed(1)

    def step(self) -> float:
        size = self.model.config.vocab_size
        ids = torch.randint(size, self.shape, generator=self.generator).to(self.device)
        with torch.autocast(self.device, torch.bfloat16):
            loss = self.model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()


def section(run: Run) -> None:
    run.part("every 10", overhead, run)


def overhead(run: Run) -> dict:
    """Stretches of ten steps with one observation, and without, in turn; the losses of both."""
    rows, length, stretches = (2, 32, 1) if run.tiny else (32, 512, 8)
    watched, plain = Loop(run, rows, length), Loop(run, rows, length)
    monitor = SinkMonitor(watched.model, every=EVERY, first_blocks=3)
    losses: dict[str, list[float]] = {"watched": [], "plain": []}
    seconds: dict[str, list[float]] = {"watched": [], "plain": []}
    observed, step = [], 0

    def stretch(loop: Loop, name: str) -> None:
        nonlocal step
        for _ in range(EVERY):
            losses[name].append(loop.step())
        if name == "watched":
            step += EVERY
            start = timed(lambda: found.update(monitor.observe(step)), run.device)
            observed.append(start)

    found: dict[str, float] = {}
    for i in range(stretches + 1):
        for name, loop in (("plain", plain), ("watched", watched)):
            took = timed(lambda name=name, loop=loop: stretch(loop, name), run.device)
            if i:  # the first warms up
                seconds[name].append(took)
    ratios = [a / b for a, b in zip(seconds["watched"], seconds["plain"])]
    step_ms = statistics.median(seconds["plain"]) / EVERY * 1e3
    return {
        "parameters": sum(p.numel() for p in plain.model.parameters()),
        "tokens_per_step": rows * length,
        "step_ms": step_ms,
        "observation_ms": statistics.median(observed[-stretches:]) * 1e3,
        "ratio_every_10": statistics.median(ratios),
        "share_at_every_100": statistics.median(observed[-stretches:]) * 1e3 / (100 * step_ms),
        "losses_bit_identical": losses["watched"] == losses["plain"],
        "largest_loss_difference": max(
            abs(a - b) for a, b in zip(losses["watched"], losses["plain"])
        ),
        "observed": found,
    }
