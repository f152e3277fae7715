"""P0 read by the lean reader at a long context, over a plain pass: 4 blocks of width 512."""

from __future__ import annotations

import time
from argparse import Namespace
from typing import Any

from scale_parts.common import floor, peak_gb

WIDTH, BLOCKS, HEADS, VOCABULARY = 512, 4, 8, 1024


def measure(options: Namespace) -> dict[str, Any]:
    """CPU seconds of both in turns, and the peak of memory."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from sinkscope.observe.attention import observe, run_model
    from sinkscope.observe.parity import token_prompts
    from sinkscope.observe.reads import Want
    from sinkscope.subject.load import Subject

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=4 * WIDTH,
        num_hidden_layers=BLOCKS, num_attention_heads=HEADS, num_key_value_heads=HEADS,
        max_position_embeddings=options.length,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval().to(getattr(torch, options.dtype))
    subject = Subject.from_model(model)
    prompts = token_prompts(torch.randint(VOCABULARY, (1, options.length)))
    warm = token_prompts(prompts.input_ids[:, :64])

    def plain(batch: Any) -> None:
        with torch.no_grad():
            run_model(subject, batch, logits=False)

    def lean(batch: Any) -> None:
        observe(subject, batch, Want(received=False), "lean")

    seconds: dict[str, list[float]] = {"plain": [], "p0": []}
    for name, call in (("plain", plain), ("p0", lean)):
        call(warm)
        began = time.process_time()
        call(prompts)
        seconds[name].append(time.process_time() - began)
    ratio = min(seconds["p0"]) / min(seconds["plain"])
    return {
        "length": options.length,
        "dtype": options.dtype,
        "cpu_seconds": {name: round(min(values), 1) for name, values in seconds.items()},
        "floors": [
            floor("peak resident memory, GB", peak_gb(), 16.0),
            floor("P0 column over a plain pass, CPU time", ratio, 1.15),
        ],
    }
