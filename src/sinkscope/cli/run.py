"""`sinkscope run`: the main job, everything there is, and a report."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sinkscope.cli import common
from sinkscope.cli.options import Debug, Json, OnModel, Reader, Untrained, on_model
from sinkscope.errors import InputError, Unsupported

if TYPE_CHECKING:
    from collections.abc import Callable

    from sinkscope.result import Result
    from sinkscope.subject.load import Subject
    from sinkscope.subject.prompts import Prompts

EPILOG = """Examples:\n
  sinkscope run                             the bundled model, into ./sinkscope-run\n
  sinkscope run path/to/model --out D       a local model\n
  sinkscope run Qwen/Qwen2.5-0.5B --bos both --dtype bfloat16 --device cuda\n
  sinkscope run ./my-model --expect p0-circuit      exit code 1 for any other verdict"""


@on_model
def command(
    asked: OnModel,
    reader: Reader = "auto",
    untrained: Untrained = True,
    out: Annotated[
        Path, typer.Option(help="Folder for summary.json, arrays.nc and report.html.")
    ] = Path("sinkscope-run"),
    expect: Annotated[
        str | None,
        typer.Option(help="sink, no-sink or a verdict: exit with 1 if it turns out otherwise."),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Scan a model, trace its circuit, test it, and write a report."""
    common.check(out, expect, (*common.SINK, *common.VERDICTS))
    subject = common.load_subject(asked)
    from sinkscope.subject.prompts import build_policies

    with common.progress_bar() as progress:
        parts = [
            _look(subject, prompts, asked, reader, untrained, progress)
            for prompts in build_policies(subject, **asked.prompts)
        ]
    result = functools.reduce(lambda one, other: one.merge(other), parts)
    common.save_and_show(result, out, json)
    common.exit_on_expect(result, expect)


def _look(
    subject: Subject,
    prompts: Prompts,
    asked: OnModel,
    reader: str,
    untrained: bool,
    progress: Callable[[str, int, int], None],
) -> Result:
    """Scan, trace and verify on the same prompts, as far as this model and these prompts allow."""
    from sinkscope.causal.verify import VerifySettings, verify
    from sinkscope.circuit.trace import TraceSettings, trace_one, traced_result
    from sinkscope.detect.scan import ScanSettings, scan

    same = {"reader": reader, "untrained": untrained, **asked.prompts}
    result = scan(subject, ScanSettings(**same), prompts=prompts, progress=progress)
    notes = result.summary.scan[prompts.bos].notes
    settings = TraceSettings(**same)
    try:
        traced = trace_one(subject, prompts, settings, result, progress)
    except Unsupported as error:
        notes.append(f"The circuit was neither traced nor tested: {error}")
        return result
    result = result.merge(traced_result(subject, settings, [traced]))
    circuit = traced.found.circuit
    try:
        verified = verify(
            subject,
            VerifySettings(**asked.prompts),
            prompts=prompts,
            circuit=circuit,
            progress=progress,
        )
    except (Unsupported, InputError) as error:
        result.summary.trace[prompts.bos].notes.append(f"The circuit was not tested: {error}")
        return result
    return result.merge(verified)


command.__name__ = "run"
