"""`sinkscope run`: the main job, everything there is, and a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sinkscope.cli import common
from sinkscope.cli.options import Debug, Json, OnModel, Reader, Untrained, on_model

EPILOG = """Examples:\n
  sinkscope run                             the bundled model, into ./sinkscope-run\n
  sinkscope run path/to/model --out D       a local model\n
  sinkscope run Qwen/Qwen2.5-0.5B --bos both --dtype bfloat16 --device cuda"""


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
        typer.Option(help="sink or no-sink: exit with 1 if it turns out otherwise."),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Look at a model and write a report."""
    common.check(out, expect, common.SINK)
    subject = common.load_subject(asked)
    from sinkscope.detect.scan import ScanSettings, scan

    settings = ScanSettings(**asked.prompts, reader=reader, untrained=untrained)
    with common.progress_bar() as progress:
        result = scan(subject, settings, progress=progress)
    common.save_and_show(result, out, json)
    common.exit_on_expect(result, expect)


command.__name__ = "run"
