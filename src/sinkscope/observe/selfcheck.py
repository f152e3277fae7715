"""A self-check of the readers on this machine: kernels, parity, restoration, causality."""

from __future__ import annotations

import platform
import sys
from typing import Any

import torch
import transformers

import sinkscope
from sinkscope.errors import InputError
from sinkscope.observe.columns import received_problem
from sinkscope.observe.fused import FASTER, fused_works, operator_problem
from sinkscope.observe.parity import (
    exact_difference,
    lean_difference,
    plain_logits,
    token_prompts,
)
from sinkscope.subject.load import Subject
from sinkscope.subject.tiny import tiny_model

FAMILIES = ("llama", "gpt2", "gpt_oss", "gemma2")


def self_check(device: str) -> dict[str, Any]:
    """Versions and checks, each {name, ok, detail}. Raises InputError for an unknown device."""
    try:
        torch.device(device)
    except RuntimeError:
        raise InputError(f"{device!r} is not a device that torch knows.") from None
    checks = [_kernel(device, name) for name in ("float32", "bfloat16", "float16")]
    for family in FAMILIES:
        checks += _family(family, device)
    return {"versions": versions(), "checks": checks}


def versions() -> dict[str, str]:
    """Versions of what the numbers rest on."""
    return {
        "sinkscope": sinkscope.__version__,
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
        "cuda": str(torch.version.cuda if torch.cuda.is_available() else "not available"),
    }


def _kernel(device: str, dtype: str) -> dict[str, Any]:
    problem = fused_works(torch.device(device).type, getattr(torch, dtype))
    detail = problem or "output and log-sum-exp agree with plain arithmetic"
    if problem:
        detail += "; the chunked reader is used instead"
    if torch.device(device).type == "cuda" and dtype != "float32":
        faster = {name: operator_problem(name, "cuda", getattr(torch, dtype)) for name in FASTER}
        faster["received by all keys"] = received_problem("cuda", getattr(torch, dtype))
        detail += "".join(f"; without {name}: {why}" for name, why in faster.items() if why)
    # without the kernel the lean reader is slower, not wrong
    return {
        "name": f"fused attention, {dtype} on {device}",
        "ok": True,
        "detail": detail,
        "fused": problem is None,
    }


def _family(family: str, device: str) -> list[dict[str, Any]]:
    try:
        model = tiny_model(family).to(device)
    except (RuntimeError, AssertionError) as error:
        return [{"name": family, "ok": False, "detail": str(error).splitlines()[0]}]
    subject = Subject.from_model(model, name=family)
    generator = torch.Generator().manual_seed(0)
    prompts = token_prompts(torch.randint(3, 100, (2, 24), generator=generator))
    before = plain_logits(subject, prompts)
    exact = exact_difference(subject, prompts)
    parity = lean_difference(subject, prompts)
    after = plain_logits(subject, prompts)
    return [
        {
            "name": f"{family}: exact reader leaves the logits alone",
            "ok": exact == 0.0,
            "detail": f"largest difference {exact:.1e}",
        },
        {
            "name": f"{family}: lean equals exact",
            "ok": parity.difference < 1e-5,
            "detail": f"largest difference {parity.difference:.1e}",
        },
        {
            "name": f"{family}: the model is restored",
            "ok": torch.equal(before, after),
            "detail": "logits before and after are equal"
            if torch.equal(before, after)
            else "logits changed",
        },
    ]
