"""Every CUDA path against the CPU, or against plain fp32 arithmetic on the same inputs."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch

import sinkscope
from gpu_parts.common import Run
from sinkscope.known.constructed import build_in_memory, draw_spec
from sinkscope.observe.attention import observe
from sinkscope.observe.columns import (
    chunked_attention,
    chunked_key_sums,
    p0_scores,
    received_problem,
    reversed_key_sums,
)
from sinkscope.observe.flex import flex_attend, flex_problem, flex_received
from sinkscope.observe.fused import OPERATORS, general_operator, operator_problem
from sinkscope.observe.parity import half_precision_errors, lean_difference, token_prompts
from sinkscope.observe.reads import Want
from sinkscope.observe.scores import Scores
from sinkscope.subject.load import Subject
from sinkscope.subject.tiny import tiny_model

FAMILIES = ("llama", "gemma2", "gpt_oss", "gpt2", "qwen3", "mixtral")
DTYPES = ("float32", "bfloat16", "float16")
# Largest errors that pass. lse: nats. p0, received: shares of one row's attention. summary: of late
# shares, between devices. reads: of what a whole fp32 pass keeps, between readers and devices.
TOLERANCE = {
    "lse": {"float32": 2e-5, "bfloat16": 2e-3, "float16": 2e-3},
    "p0": {"float32": 1e-5, "bfloat16": 2e-3, "float16": 2e-3},
    "received": {"float32": 1e-4, "bfloat16": 2e-3, "float16": 2e-3},
    "reads": 1e-4,
    "half_reads": 5e-3,
    "summary": 1e-4,
}


def section(run: Run) -> None:
    run.found["tolerance"] = TOLERANCE
    for dtype in DTYPES[: 2 if run.tiny else 3]:
        run.part(f"checks {dtype}", checks, run, dtype)
        for size, groups in ((64, 1), (128, 4), (80, 2))[: 1 if run.tiny else 3]:
            for length in (77,) if run.tiny else (1024, 2003):
                name = f"operators {dtype} head {size} T {length} group {groups}"
                run.part(name, operators, run, dtype, size, groups, length)
    if not run.tiny:
        run.part("bundled", summaries, run, "bundled")
    run.part("constructed", summaries, run, "constructed")
    for family in FAMILIES:
        run.part(family, family_reads, run, family)
    for family in FAMILIES[: 1 if run.tiny else None]:
        run.part(f"{family} run", summaries, run, family)


def checks(run: Run, dtype: str) -> dict:
    """What the package's own checks say of each operator: None where it is right."""
    kind, torch_dtype = torch.device(run.device).type, getattr(torch, dtype)
    names = ["cpu"] if kind == "cpu" else [name for name in OPERATORS if name != "cpu"]
    found: dict[str, Any] = {n: operator_problem(n, kind, torch_dtype) for n in names}
    found["flex attention"] = flex_problem(kind, torch_dtype)
    return found | {"received kernel": received_problem(kind, torch_dtype)}


def operators(run: Run, dtype: str, size: int, groups: int, length: int) -> dict:
    """Log-sum-exp, P0 column and column sums of each operator against the chunked reference."""
    generator = torch.Generator().manual_seed(run.seed)
    heads = 4

    def draw(count: int, gain: float) -> torch.Tensor:
        x = gain * torch.randn(2, count, length, size, generator=generator)
        return x.to(run.device, getattr(torch, dtype))

    q, k, v = draw(heads, 2.0), draw(heads // groups, 1.0), draw(heads // groups, 1.0)
    s = Scores(q, k, None, True, size**-0.5)
    valid = torch.ones(2, length, dtype=torch.bool, device=run.device)
    valid[1, -5:] = False
    p0 = torch.zeros(2, length, dtype=torch.long, device=run.device)
    _, right = chunked_attention(s, v)
    sums = chunked_key_sums(s, right, valid)
    first = (p0_scores(s, p0) - right).exp()
    kind = torch.device(run.device).type
    names = ["cpu"] if kind == "cpu" else [name for name in OPERATORS if name != "cpu"]
    found: dict[str, Any] = {}
    for name in names:
        if problem := operator_problem(name, kind, q.dtype):
            found[name] = {"unavailable": problem}
            continue
        try:
            _, lse = OPERATORS[name](q, k, v, None, True, s.scale)
        except RuntimeError as error:
            found[name] = {"unavailable": str(error).splitlines()[0]}
            continue
        column = (p0_scores(s, p0) - lse).exp()
        errors = {"lse": _largest(lse, right), "p0": _largest(column, first)}
        if name == general_operator(kind):
            errors["received"] = _relative(reversed_key_sums(s, lse, valid), sums)
        found[name] = _judged(errors, dtype)
    if received_problem(kind, q.dtype) is None:
        from sinkscope.observe.kernel import received

        kernel = received(q, k, right, valid, s.scale)
        found["received kernel"] = _judged({"received": _relative(kernel, sums)}, dtype)
    if run.tiny or flex_problem(kind, q.dtype) is None:
        found["flex attention"] = _judged(_flex(s, v, valid), dtype)
    if kind == "cuda" and dtype == "float32":  # the reference itself, against the CPU
        there = Scores(q.cpu(), k.cpu(), None, True, s.scale)
        found["reference"] = _judged(
            {"lse": _largest(right, chunked_attention(there, v.cpu())[1])}, dtype
        )
    return found


def _flex(s: Scores, v: torch.Tensor, valid: torch.Tensor) -> dict[str, float]:
    """Errors of flex attention in a window of a third of the length, with capped scores."""
    length = s.q.shape[2]
    full = torch.ones(length, length, dtype=torch.bool, device=s.q.device).tril()
    s = Scores(s.q, s.k, (full & full.triu(-length // 3))[None, None], False, s.scale, 5.0)
    _, right = chunked_attention(s, v)
    _, lse = flex_attend(s, v)
    sums = flex_received(s, right, valid)
    return {
        "lse": _largest(lse, right),
        "received": _relative(sums, chunked_key_sums(s, right, valid)),
    }


def _largest(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a.cpu().float() - b.cpu().float()).abs().max().item()


def _relative(sums: torch.Tensor, right: torch.Tensor) -> float:
    """Largest error of what keys receive, over what they receive or one query's attention."""
    return ((sums - right).abs() / right.clamp_min(1.0)).max().item()


def _judged(errors: dict[str, float], dtype: str) -> dict:
    return errors | {"ok": all(e < TOLERANCE[name][dtype] for name, e in errors.items())}


def family_reads(run: Run, family: str) -> dict:
    """Readers on the device: lean against exact, against the CPU, and in bf16."""
    here, there = _subjects(run, family)
    ids = torch.randint(3, 100, (3, 40), generator=torch.Generator().manual_seed(run.seed))
    prompts = token_prompts(ids)
    parity = lean_difference(there, prompts)
    on_cpu, _, _ = observe(here, prompts, Want(), "auto")
    on_device, _, _ = observe(there, prompts, Want(), "auto")
    apart = [
        max(_largest(a.p0, b.p0), _largest(a.received / 40, b.received / 40))
        for a, b in zip(on_cpu, on_device, strict=True)
    ]
    half = Subject.from_model(copy.deepcopy(there.model).to(torch.bfloat16), name=family)
    lean, exact = half_precision_errors(half, prompts)
    bounds = TOLERANCE["reads"], TOLERANCE["half_reads"]
    return {
        "lean_from_exact": parity.difference,
        "readers": parity.readers,
        "device_from_cpu": max(apart),
        "bf16_lean_from_fp32_arithmetic": lean,
        "bf16_exact_from_fp32_arithmetic": exact,
        "ok": parity.difference < bounds[0] and max(apart) < bounds[0] and lean < bounds[1],
    }


def _subjects(run: Run, name: str) -> tuple[Subject, Subject]:
    """The same model on the CPU and on the device, fp32."""
    tokenizer = None
    if name == "bundled":
        loaded = sinkscope.load()
        model, tokenizer = loaded.model, loaded.tokenizer
    elif name == "constructed":
        spec = draw_spec("p0-two-block", run.seed, family="llama", noise=0.05)
        model, tokenizer, _ = build_in_memory(spec)
    else:
        model = tiny_model(name, run.seed)
    both = model, copy.deepcopy(model).to(run.device)
    return tuple(Subject.from_model(m, tokenizer, name) for m in both)  # type: ignore[return-value]


def summaries(run: Run, name: str) -> dict:
    """Scan, trace and verify on both devices: how far every number of the summaries is apart."""
    sizes = {"n": 2, "length": 24} if run.tiny else {"n": 12, "length": 64}
    random = "text" if name in ("bundled", "constructed") else "random"
    results = []
    for subject in _subjects(run, name):
        result = sinkscope.run(subject, kind=random, untrained=False, **sizes)
        results.append(result.summary.model_dump())
    return _apart(*results)


def _apart(cpu: dict, device: dict) -> dict:
    left = ("model", "environment", "command")
    a, b = (dict(_leaves({n: x for n, x in s.items() if n not in left})) for s in (cpu, device))
    numbers, others = [], sorted(set(a) ^ set(b))
    for key in sorted(set(a) & set(b)):
        x, y = a[key], b[key]
        if isinstance(x, float) and isinstance(y, float):
            numbers.append((abs(x - y) / max(1.0, abs(x)), key, x, y))
        elif x != y:
            others.append(f"{key}: {x} on the CPU, {y}")
    numbers.sort(key=lambda row: -row[0] if row[0] == row[0] else 0.0)
    shares = [row for row in numbers if ".late_share.value" in row[1]]
    verdicts = [[v["verdict"] for v in (s.get("verify") or {}).values()] for s in (cpu, device)]
    suffix = [[v["cost"] for v in (s.get("verify") or {}).values()] for s in (cpu, device)]
    worst = max((row[0] for row in shares), default=0.0)
    return {
        "verdicts": verdicts,
        "cost": suffix,
        "late_share_apart": worst,
        "numbers": len(numbers),
        "numbers_over_1e-3": sum(row[0] > 1e-3 for row in numbers),
        "furthest": [f"{key}: {x:.6g} on the CPU, {y:.6g}" for _, key, x, y in numbers[:6]],
        "other_differences": others[:10],
        "ok": verdicts[0] == verdicts[1] and worst < TOLERANCE["summary"],
    }


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(path, leaf) of nested data; whole numbers stay apart from measured ones."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}")
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _leaves(item, f"{path}[{i}]")
    else:
        yield path, value
