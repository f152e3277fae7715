"""What reading costs beside a plain forward pass at T = 32,768, on an 8B shape in bf16.

Floors: the P0 column at most 1.05 times a plain pass, all keys at most 1.5 times.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from gpu_parts.common import Run, compare, timed, wide_gemma2, wide_llama
from sinkscope.observe.attention import observe, run_model
from sinkscope.observe.columns import p0_scores, received_problem, reversed_key_sums
from sinkscope.observe.fused import OPERATORS, fused_operator
from sinkscope.observe.parity import token_prompts
from sinkscope.observe.reads import Want
from sinkscope.observe.scores import Scores
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts

FLOORS = {"p0": 1.05, "all": 1.5}
BLOCKS, FEW = 32, 8
FORCED = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}


def section(run: Run) -> None:
    length = 256 if run.tiny else 32768
    run.part("kernels", kernels, run, length)
    run.part("8 blocks", whole, run, 2 if run.tiny else FEW, length, 3)
    few, short = 2 if run.tiny else FEW, length if run.tiny else 8192  # caps make plain maps whole
    run.part("8 blocks with windows and caps", whole, run, few, short, 2, "", wide_gemma2)
    run.part("profile", profile, run, 2 if run.tiny else FEW, length)
    if run.device == "cuda":
        for name in FORCED:
            run.part(f"8 blocks, {name}", whole, run, 2 if run.tiny else FEW, length, 2, name)
    run.part("32 blocks", whole, run, 3 if run.tiny else BLOCKS, length, 3, needs=30)


def cases(subject: Subject, prompts: Prompts) -> dict[str, Callable[[], Any]]:
    """A plain pass, without the logits of all positions, and what is read in one more like it."""

    def plain() -> None:
        with torch.no_grad():
            run_model(subject, prompts, logits=False)

    return {
        "plain": plain,
        "p0": lambda: observe(subject, prompts, Want(received=False), "lean"),
        "all": lambda: observe(subject, prompts, Want(), "lean"),
    }


def rows(run: Run, subject: Subject, length: int) -> Prompts:
    size = subject.model.config.vocab_size
    generator = torch.Generator().manual_seed(run.seed)
    return token_prompts(torch.randint(size, (1, length), generator=generator))


def whole(
    run: Run, blocks: int, length: int, rounds: int, operator: str = "", make: Any = wide_llama
) -> dict:
    """Interleaved passes; `operator` forces torch's choice, for plain passes and for ours."""
    subject = make(run, blocks, length)
    forced = sdpa_kernel([FORCED[operator]]) if operator else nullcontext()
    with forced:
        found = compare(cases(subject, rows(run, subject, length)), rounds, run.device)
        reads, _, _ = observe(subject, rows(run, subject, length), Want(received=False), "lean")
    return found | {
        "blocks": blocks,
        "of": BLOCKS,
        "length": length,
        "parameters": subject.identity["parameters"],
        "floors": FLOORS,
        "met": {name: found[name]["ratio"] <= floor for name, floor in FLOORS.items()},
        "readers": sorted({read.reader for read in reads}),
    }


def kernels(run: Run, length: int) -> dict:
    """One block's attention: milliseconds of each operator, and of each way to sum columns."""
    heads, groups, size = (4, 2, 16) if run.tiny else (32, 8, 128)
    generator = torch.Generator(run.device).manual_seed(run.seed)

    def draw(count: int) -> torch.Tensor:
        shape = (1, length, count, size)  # as a model's projections lay heads out
        x = torch.randn(shape, generator=generator, device=run.device, dtype=torch.bfloat16)
        return x.transpose(1, 2)

    q, k, v = draw(heads), draw(groups), draw(groups)
    s = Scores(q, k, None, True, size**-0.5)
    p0 = torch.zeros(1, length, dtype=torch.long, device=run.device)
    valid = torch.ones(1, length, dtype=torch.bool, device=run.device)
    sdpa = torch.nn.functional.scaled_dot_product_attention
    chosen = fused_operator(q, k, v, None, True, s.scale)
    _, lse = OPERATORS[chosen](q, k, v, None, True, s.scale)
    calls: dict[str, Callable[[], Any]] = {
        "torch": lambda: sdpa(q, k, v, is_causal=True, enable_gqa=True),
        "p0 scores": lambda: p0_scores(s, p0),
        "reversed pass": lambda: reversed_key_sums(s, lse, valid),
    }
    kind = torch.device(run.device).type
    for name in ["cpu"] if kind == "cpu" else [n for n in OPERATORS if n != "cpu"]:
        calls[name] = lambda name=name: OPERATORS[name](q, k, v, None, True, s.scale)
    if received_problem(kind, q.dtype) is None:
        from sinkscope.observe.kernel import received

        calls["received kernel"] = lambda: received(q, k, lse, valid, s.scale)
    ms: dict[str, Any] = {}
    for name, call in calls.items():
        try:
            timed(call, run.device)
            ms[name] = sorted(timed(call, run.device) * 1e3 for _ in range(5))[2]
        except RuntimeError as error:
            ms[name] = str(error).splitlines()[0]
    products = 2 * length * length * size * heads  # of which causality needs half
    return {"ms": ms, "tera_operations_a_product": products / 2e12, "chosen": chosen}


def profile(run: Run, blocks: int, length: int) -> dict:
    """The kernels that take longest, one pass of each case."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    subject = wide_llama(run, blocks, length)
    cuda = run.device == "cuda"
    activity = ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU
    found = {}
    for name, call in cases(subject, rows(run, subject, length)).items():
        timed(call, run.device)
        with profiler(activities=[activity]) as seen:
            timed(call, run.device)
        events = seen.key_averages()
        took = {
            e.key: (e.self_device_time_total if cuda else e.self_cpu_time_total) for e in events
        }
        top = sorted(events, key=lambda e: -took[e.key])[:15]
        found[name] = [[e.key[:120], round(took[e.key] / 1e3, 3), e.count] for e in top]
    return found | {"columns": ["kernel", "ms", "calls"]}
