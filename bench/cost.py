"""What scan, trace and verify cost, as ratios to plain forward passes over the same tokens.

    python bench/cost.py --json                    the bundled model, 64 sequences of 256 tokens
    python bench/cost.py path/to/model --n 64 --length 256
    python bench/cost.py --vocabulary              32,000 items through 4 blocks of width 512

A plain pass is the model's own forward with its logits, in the same batches. Plain passes are timed
before, between and after the commands, and their median is the unit, so that a machine that slows
down midway does not flatter anyone. Exit code 1 where all together cost more than FLOOR passes.

The whole vocabulary at position zero is a pass over as many one-token sequences; that is its unit,
and its floor is SECONDS on two cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

import sinkscope
from sinkscope.causal.verify import VerifySettings, verify
from sinkscope.circuit.observed import observed_on
from sinkscope.circuit.trace import TraceSettings, trace_one
from sinkscope.circuit.vocabulary import scan_vocabulary
from sinkscope.detect.scan import ScanSettings, scan
from sinkscope.observe.attention import run_model
from sinkscope.observe.p0_stream import BATCH

FLOOR = 20.0
SECONDS = 60.0
ITEMS, BLOCKS, WIDTH = 32_000, 4, 512


def timed(what: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    found = what()
    return time.perf_counter() - start, found


def cost(model: str | None, n: int, length: int) -> dict[str, Any]:
    logging.disable_progress_bar()
    subject = sinkscope.load(model)
    prompts = sinkscope.build_prompts(subject, n=n, length=length)
    same = {"n": n, "length": length}

    def plain() -> None:
        with torch.no_grad():
            for batch in prompts.batches():
                run_model(subject, batch, logits=True)

    plain()
    passes = [timed(plain)[0] for _ in range(3)]
    seconds: dict[str, float] = {}
    seconds["observed"], observed = timed(lambda: observed_on(subject, prompts))
    seconds["scan"], scanned = timed(
        lambda: scan(subject, ScanSettings(**same), prompts=prompts, other_mean=observed.input_mean)
    )
    passes.append(timed(plain)[0])
    seconds["trace"], traced = timed(
        lambda: trace_one(subject, prompts, TraceSettings(**same), scanned, observed=observed)
    )
    passes.append(timed(plain)[0])
    seconds["verify"], verified = timed(
        lambda: verify(
            subject, VerifySettings(**same), prompts=prompts, circuit=traced.found.circuit
        )
    )
    passes += [timed(plain)[0] for _ in range(2)]
    unit = statistics.median(passes)
    ratios = {name: value / unit for name, value in seconds.items()}
    summary = verified.summary.verify[prompts.bos]
    return {
        "model": subject.identity["id"],
        "sequences": len(prompts),
        "length": prompts.length,
        "threads": torch.get_num_threads(),
        "plain_pass_seconds": unit,
        "passes": ratios | {"all": sum(ratios.values())},
        "verify_counts_itself": summary.cost,
        "tests": len(summary.tests),
        "verdict": summary.verdict,
    }


def vocabulary_cost() -> dict[str, Any]:
    """The scan of a whole vocabulary by an untrained Llama, beside plain passes of one token."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=ITEMS,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=BLOCKS,
        num_attention_heads=8,
    )
    subject = sinkscope.Subject.from_model(LlamaForCausalLM(config))
    u = torch.nn.functional.normalize(torch.randn(WIDTH), dim=0)
    ids = torch.arange(ITEMS).unsqueeze(1).split(BATCH)

    def plain() -> None:
        with torch.no_grad():
            for part in ids:
                subject.model.model(part, use_cache=False)

    plain()
    before = timed(plain)[0]
    items = torch.arange(ITEMS)
    seconds, _ = timed(lambda: scan_vocabulary(subject, items, ITEMS, u, BLOCKS, 0.5, 0.0))
    unit = statistics.median([before, timed(plain)[0]])
    shape = {"items": ITEMS, "blocks": BLOCKS, "width": WIDTH}
    return shape | {"seconds": seconds, "plain_pass_seconds": unit, "passes": seconds / unit}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--n", type=int, default=64)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--vocabulary", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.vocabulary:
        scanned = vocabulary_cost()
        print(json.dumps(scanned, indent=1))
        return 1 if scanned["seconds"] > SECONDS else 0
    found = cost(options.model, options.n, options.length)
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        print(f"{found['model']}: {found['sequences']} × {found['length']} tokens")
        for name, ratio in found["passes"].items():
            print(f"  {name:8} {ratio:6.1f} plain passes")
    return 1 if found["passes"]["all"] > FLOOR else 0


if __name__ == "__main__":
    sys.exit(main())
