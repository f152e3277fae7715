"""`sinkscope timeline`: when did the circuit form, and has it settled."""

from __future__ import annotations

from typing import Annotated

import typer

from sinkscope.cli import common
from sinkscope.cli.options import Debug, Json, Out, options
from sinkscope.settings import SweepSettings, TimelineSettings

EPILOG = """Examples:\n
  sinkscope timeline bundled                        the bundled series\n
  sinkscope timeline runs/llama-20m --workers 2     a folder of checkpoint-500, ..\n
  sinkscope timeline EleutherAI/pythia-160m --revisions step0,step512,step1000,step143000\n
  sinkscope timeline runs/a runs/b --first-blocks all --out two-runs     with losses\n
  sinkscope timeline runs/a --pattern 'run-(?P<step>[0-9]+)' --workers ray"""


@options
def command(
    sources: Annotated[
        list[str],
        typer.Argument(help="Run folders, Hub ids, or bundled; or folders that are checkpoints."),
    ],
    sweeping: SweepSettings,
    settings: TimelineSettings,
    out: Out = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """When the circuit formed, where it concentrated, and whether it has settled."""
    common.check(out)
    common.stay_offline(sweeping.offline)
    from sinkscope.training_runs.timeline import timeline

    with common.progress_bar() as progress:
        result = timeline(sources, settings, sweeping, progress=progress)
    common.save_and_show(result, out, json)
