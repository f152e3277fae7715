"""How far the context reaches: the length is doubled until memory or time ends it."""

from __future__ import annotations

import torch

from gpu_parts.common import Run, compare, timed, wide_llama
from gpu_parts.throughput import cases, rows

BLOCKS = 4
LENGTHS = (32768, 65536, 131072, 262144, 524288)


def section(run: Run) -> None:
    took = 1.0
    for length in (64, 128) if run.tiny else LENGTHS:
        run.part(f"T {length}", reach, run, length, needs=4 * took)
        found = run.found[f"T {length}"]
        if "error" in found or "skipped" in found:
            return
        took = found["took_seconds"]


def reach(run: Run, length: int) -> dict:
    """Time and peak memory of one pass of each case, 4 blocks of the 8B width."""
    subject = wide_llama(run, BLOCKS, length)
    calls = cases(subject, rows(run, subject, length))
    if length <= LENGTHS[0]:
        found = compare(calls, 1, run.device)
    else:  # warm already, but for the size
        found = {}
        for name, call in calls.items():
            if run.device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            seconds = timed(call, run.device)
            found[name] = {"ms": seconds * 1e3, "peak_mb": torch.cuda.max_memory_allocated() / 1e6}
        for row in found.values():
            row["ratio"] = row["ms"] / found["plain"]["ms"]
    return found | {"blocks": BLOCKS, "length": length}
