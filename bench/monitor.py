"""What watching costs: SinkMonitor at every=100 on a Llama of 20 million parameters.

python bench/monitor.py --json
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from sinkscope.training_runs.monitor import SinkMonitor

EVERY = 100


def reference() -> LlamaForCausalLM:
    """20 million parameters: 8 blocks of width 384, a vocabulary of 16,384, tied embeddings."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=16384,
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=8,
        num_attention_heads=6,
        num_key_value_heads=6,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).train()


class Run:
    """A training run of a few steps."""

    def __init__(self, rows: int, length: int) -> None:
        self.model = reference()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=3e-4, fused=True)
        self.generator = torch.Generator().manual_seed(1)
        self.shape = (rows, length)

    def step(self) -> float:
        """One step; its loss."""
        ids = torch.randint(16384, self.shape, generator=self.generator)
        loss = self.model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()


def timed(call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    watched, plain = Run(options.rows, options.length), Run(options.rows, options.length)
    monitor = SinkMonitor(watched.model, every=EVERY, first_blocks=3)
    losses: dict[str, list[float]] = {"watched": [], "plain": []}
    steps, observations = [], []
    watched_first = monitor.observe(0)
    for i in range(1, options.rounds + 1):
        steps.append(timed(lambda: losses["watched"].append(watched.step())))
        observations.append(timed(lambda i=i: monitor.observe(i * EVERY)))
        losses["plain"].append(plain.step())
    step, seen = statistics.median(steps), statistics.median(observations)
    found = {
        "parameters": sum(p.numel() for p in watched.model.parameters()),
        "tokens_per_step": options.rows * options.length,
        "threads": torch.get_num_threads(),
        "step_seconds": step,
        "observation_seconds": seen,
        "share_of_step_time_at_every_100": seen / (EVERY * step),
        "floor": "at most 0.01",
        "losses_bit_identical": losses["watched"] == losses["plain"],
        "numbers": len(watched_first),
    }
    print(json.dumps(found, indent=2) if options.json else found)


if __name__ == "__main__":
    main()
