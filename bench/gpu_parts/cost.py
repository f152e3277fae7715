"""What scan, trace, verify and run cost in plain forward passes, on a medium model with a sink."""

from __future__ import annotations

import cProfile
import pstats
import statistics
from typing import Any

import torch

import sinkscope
from gpu_parts.common import Run, identity, timed
from sinkscope.known.constructed import build_in_memory, draw_spec
from sinkscope.observe.attention import run_model
from sinkscope.subject.anatomy import find_anatomy
from sinkscope.subject.load import Subject

MEDIUM = {"width": 2048, "heads": 16, "key_heads": 16, "head_size": 128, "depth": 24}
SMALL = {"width": 128, "heads": 4, "key_heads": 4, "head_size": 32, "depth": 4}
ROWS, LENGTH = 8, 512


def section(run: Run) -> None:
    from gpu_parts.prepare import medium

    model, tokenizer = medium(run)
    model = model.to(run.device)
    subject = Subject(model, tokenizer, find_anatomy(model), identity(model))
    run.part("verify", cost, run, subject, "verify")
    run.part("where verify spends it", spent, run, subject, needs=15)
    for name in ("scan", "trace", "run"):
        run.part(name, cost, run, subject, name)


def build(seed: int, tiny: bool) -> tuple[Any, Any]:
    """24 blocks of width 2048, 16 heads, in bf16, with a sink that was written into its weights."""
    sizes: dict[str, Any] = SMALL if tiny else MEDIUM
    spec = draw_spec("p0-two-block", seed, family="llama", vocab=1024, noise=0.05, **sizes)
    model, tokenizer, _ = build_in_memory(spec)
    return model.to(torch.bfloat16), tokenizer


def cost(run: Run, subject: Subject, name: str) -> dict:
    """Seconds of one command and of plain passes before and after it, over the same prompts."""
    rows, length = (2, 24) if run.tiny else (ROWS, LENGTH)
    prompts = sinkscope.build_prompts(subject, n=rows, length=length, bos="without")
    settings: dict[str, Any] = {"n": rows, "length": length, "bos": "without"}

    def plain() -> None:
        with torch.no_grad():
            for batch in prompts.batches():
                run_model(subject, batch, logits=True)

    plain()
    passes = [timed(plain, run.device) for _ in range(5)]
    if name in ("scan", "run"):
        settings["untrained"] = False  # what it costs depends on how fast the CPU draws weights
    results = []
    seconds = timed(
        lambda: results.append(getattr(sinkscope, name)(subject, **settings)), run.device
    )
    passes += [timed(plain, run.device) for _ in range(5)]
    unit = statistics.median(passes)
    found = {
        "seconds": seconds,
        "plain_ms": unit * 1e3,
        "passes": seconds / unit,
        "parameters": subject.identity["parameters"],
        "shape": [subject.anatomy.hidden_size, len(subject.anatomy.blocks), rows, length],
    }
    summary = results[0].summary
    for verified in (summary.verify or {}).values():
        found |= {"verdict": verified.verdict, "counts_itself": verified.cost}
    return found


def spent(run: Run, subject: Subject) -> dict:
    """The functions in which `verify` spends its time, as the profiler of Python sees it."""
    rows, length = (2, 24) if run.tiny else (ROWS, LENGTH)
    profiler = cProfile.Profile()
    profiler.runcall(sinkscope.verify, subject, n=rows, length=length, bos="without")
    stats = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
    lines = [
        [f"{file.rsplit('/', 2)[-2:]}:{line} {name}", calls, round(own, 3), round(total, 3)]
        for (file, line, name), (_, calls, own, total, _) in stats.items()
    ]
    lines.sort(key=lambda row: -row[2])
    ours = [row for row in lines if "sinkscope" in row[0] or "observe" in row[0]]
    return {"columns": ["function", "calls", "own s", "s"], "own": lines[:15], "ours": ours[:10]}
