"""Truncated against full loading of one checkpoint: 12 blocks, the first 3 of which are looked at.

    python bench/partial.py --json

Each way runs in a process of its own, so that its peak memory is its own, beyond what Python, torch
and transformers take. Seconds are processor seconds: other work on the machine does not count.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BLOCKS, FIRST = 12, 3


def build(folder: Path, width: int) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=4096,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=BLOCKS,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 64,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def one(way: str, folder: Path) -> None:
    """Load and measure one checkpoint; print seconds, peak memory and a hash of the numbers."""
    import torch
    from transformers import LlamaForCausalLM  # noqa: F401 - imports are not what is measured

    from sinkscope.observe.attention import observe  # noqa: F401
    from sinkscope.subject.load import load
    from sinkscope.subject.plan import quiet
    from sinkscope.subject.prompts import Prompts
    from sinkscope.training_runs.checkpoint_metrics import light
    from sinkscope.training_runs.partial import load_first_blocks
    from sinkscope.training_runs.store import encode
    from sinkscope.training_runs.view import View

    ids = torch.randint(4096, (16, 128), generator=torch.Generator().manual_seed(0))
    prompts = Prompts(ids, torch.full((16,), 128), "ids", "without")
    view = View(prompts, torch.arange(64), FIRST, 2, parts=False)
    whole = View(prompts, view.first_tokens, BLOCKS, 2, parts=False)
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    start = time.process_time()
    with quiet():
        subject = load(folder) if way == "full" else load_first_blocks(folder, FIRST)
    # a sweep that does not truncate runs the whole model
    light(subject, whole if way == "full" else view)
    seconds, peak = time.process_time() - start, memory("VmHWM")
    digest = hashlib.sha256(encode(light(subject, view))).hexdigest()
    print(json.dumps({"seconds": seconds, "megabytes": peak - before, "numbers": digest}))


def memory(name: str) -> float:
    """MB that the kernel counts for this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))


def run(way: str, folder: Path) -> dict:
    command = [sys.executable, __file__, "--way", way, "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--way", choices=["full", "first"], default=None)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.way:
        one(options.way, options.folder)
        return
    with tempfile.TemporaryDirectory() as name:
        build(Path(name), options.width)
        runs = {w: [run(w, Path(name)) for _ in range(options.rounds)] for w in ("full", "first")}
    middle = {
        way: {k: statistics.median(r[k] for r in found) for k in ("seconds", "megabytes")}
        for way, found in runs.items()
    }
    found = {
        "blocks": BLOCKS,
        "first_blocks": FIRST,
        "width": options.width,
        **middle,
        "time": middle["first"]["seconds"] / middle["full"]["seconds"],
        "memory": middle["first"]["megabytes"] / middle["full"]["megabytes"],
        "same_numbers": len({r["numbers"] for found in runs.values() for r in found}) == 1,
        "floor": "time at most 0.35, memory at most 0.4, the same numbers",
    }
    print(json.dumps(found, indent=2) if options.json else found)


if __name__ == "__main__":
    main()
