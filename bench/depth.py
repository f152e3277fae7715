"""What `verify` and `run` cost against the depth of the model, in plain passes.

    python bench/depth.py --json

The same circuit (constructed, p0-two-block) in models of 6, 12, 30 and 60 blocks of small width.
`counted` are the passes that `verify` counts itself, over the prompts of the tests; `verify` and
`run` are CPU seconds over those of a plain forward pass with logits. Exit code 1 where the counted
passes grow by FLOOR or more from the shallowest to the deepest model.
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
from sinkscope.job import run
from sinkscope.known.constructed import build_in_memory, draw_spec
from sinkscope.observe.attention import run_model

FLOOR = 1.5
DEPTHS = (6, 12, 30, 60)
SHAPE = {"width": 96, "heads": 4, "key_heads": 4, "head_size": 16, "vocab": 258, "readers": 1}


def seconds(what: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of a call, and what it gave."""
    start = time.process_time()
    found = what()
    return time.process_time() - start, found


def cost(depth: int, n: int, length: int) -> dict[str, Any]:
    """Passes of `verify` and of the whole job on one model."""
    spec = draw_spec("p0-two-block", 0, family="llama", depth=depth, from_block=2, **SHAPE)
    model, tokenizer, _ = build_in_memory(spec)
    subject = sinkscope.Subject.from_model(model, tokenizer, f"p0-two-block of {depth} blocks")
    prompts = sinkscope.build_prompts(subject, n=n, length=length)

    def plain() -> None:
        with torch.no_grad():
            for batch in prompts.batches():
                run_model(subject, batch, logits=True)

    plain()
    unit = statistics.median(seconds(plain)[0] for _ in range(3))
    same = {"n": n, "length": length, "rows": n}
    whole, result = seconds(lambda: run(subject, **same))
    verifying, _ = seconds(lambda: sinkscope.verify(subject, **same))
    summary = result.summary.verify[prompts.bos]
    return {
        "blocks": depth,
        "plain_pass_seconds": unit,
        "counted": summary.cost["passes"],
        "verify": verifying / unit,
        "run": whole / unit,
        "tests": len(summary.tests),
        "confirmed": sum(test.confirmed for test in summary.tests),
        "verdict": summary.verdict,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=16)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    rows = [cost(depth, options.n, options.length) for depth in DEPTHS]
    growth = {name: rows[-1][name] / rows[0][name] for name in ("counted", "verify", "run")}
    if options.json:
        print(json.dumps({"depths": rows, "growth": growth}, indent=1))
    else:
        for row in rows:
            print(
                f"{row['blocks']:3} blocks: {row['counted']:5.1f} passes counted, "
                f"verify {row['verify']:5.1f}, run {row['run']:5.1f} plain passes of CPU time, "
                f"{row['confirmed']} of {row['tests']} tests in full, {row['verdict']}"
            )
        print(f"growth: {growth['counted']:.2f} counted, {growth['run']:.2f} of CPU time")
    return 1 if growth["counted"] >= FLOOR else 0


if __name__ == "__main__":
    sys.exit(main())
