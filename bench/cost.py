"""What scan, trace and verify cost, as ratios to plain forward passes over the same tokens.

    python bench/cost.py --json                    the bundled model, 64 sequences of 256 tokens
    python bench/cost.py path/to/model --n 64 --length 256

A plain pass is the model's own forward with its logits, in the same batches. Plain passes are timed
before, between and after the commands, and their median is the unit, so that a machine that slows
down midway does not flatter anyone. Exit code 1 where all together cost more than FLOOR passes.
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
from transformers.utils import logging

import sinkscope
from sinkscope.causal.verify import VerifySettings, verify
from sinkscope.circuit.trace import TraceSettings, trace_one
from sinkscope.detect.scan import ScanSettings, scan
from sinkscope.observe.attention import run_model

FLOOR = 60.0


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
    seconds["scan"], scanned = timed(lambda: scan(subject, ScanSettings(**same), prompts=prompts))
    passes.append(timed(plain)[0])
    seconds["trace"], traced = timed(
        lambda: trace_one(subject, prompts, TraceSettings(**same), scanned)
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--n", type=int, default=64)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
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
