"""The main job: scan, trace and verify on the same prompts, in one result."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from sinkscope.causal.verify import VerifySettings, verify
from sinkscope.circuit.trace import TraceSettings, trace_one, traced_result
from sinkscope.detect.scan import ScanSettings, scan
from sinkscope.errors import InputError, Unsupported
from sinkscope.result import Result
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts, PromptSettings

Progress = Callable[[str, int, int], None]


def run(
    subject: Subject,
    *,
    reader: str = "auto",
    untrained: bool = True,
    progress: Progress | None = None,
    **prompts: Any,
) -> Result:
    """Scan a model, trace the circuit of its sink and test it.

    reader, untrained  see `scan`
    prompts            text, kind, n, length, bos, seed, as in `build_prompts`; bos may be "both"

    A model whose circuit cannot be traced or tested is still scanned; its notes say why the rest is
    missing. Raises InputError and Unsupported as `scan` does.
    """
    settings = {"reader": reader, "untrained": untrained, **prompts}
    policies = PromptSettings(**prompts).build(subject)
    parts = [_one(subject, rows, settings, prompts, progress) for rows in policies]
    return functools.reduce(lambda one, other: one.merge(other), parts)


def _one(
    subject: Subject,
    rows: Prompts,
    settings: dict[str, Any],
    prompts: dict[str, Any],
    progress: Progress | None,
) -> Result:
    """Everything on the prompts of one BOS policy, as far as model and prompts allow."""
    progress = progress or (lambda label, done, total: None)
    result = scan(subject, ScanSettings(**settings), prompts=rows, progress=progress)
    tracing = TraceSettings(**settings)
    try:
        traced = trace_one(subject, rows, tracing, result, progress)
    except Unsupported as error:
        result.summary.scan[rows.bos].notes.append(
            f"The circuit was neither traced nor tested: {error}"
        )
        return result
    result = result.merge(traced_result(subject, tracing, [traced]))
    testing = VerifySettings(**prompts)
    try:
        verified = verify(
            subject, testing, prompts=rows, circuit=traced.found.circuit, progress=progress
        )
    except (Unsupported, InputError) as error:
        result.summary.trace[rows.bos].notes.append(f"The circuit was not tested: {error}")
        return result
    return result.merge(verified)
