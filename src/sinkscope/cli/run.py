"""`sinkscope run`: the main job, scan, trace and verify, and a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sinkscope.cli import common
from sinkscope.cli.options import Debug, Json, options
from sinkscope.settings import LoadSettings, RunSettings

EPILOG = """Examples:\n
  sinkscope run                             the bundled model, into ./sinkscope-run\n
  sinkscope run path/to/model --out D       a local model\n
  sinkscope run Qwen/Qwen2.5-0.5B --bos both --dtype bfloat16 --device cuda\n
  sinkscope run ./my-model --expect p0-circuit      exit code 1 for any other verdict"""


@options
def command(
    loading: LoadSettings,
    settings: RunSettings,
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
    common.measure("run", loading, settings, out, json, expect)
