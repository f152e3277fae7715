"""`sinkscope sweep`: many models under many settings, on one page."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sinkscope.cli import common
from sinkscope.cli.options import Showing, options

if TYPE_CHECKING:
    from sinkscope.model_runs.sweep import Sweep

EXAMPLES = """
  sinkscope sweep models.yaml               into ./sinkscope-sweep-models
  sinkscope sweep models.yaml --workers 4   in four local processes
  sinkscope sweep models.yaml --workers ray --out D --json

  models.yaml, one run for each model and choice of settings (docs/sweep.md):
    models: [bundled, Qwen/Qwen2.5-0.5B, {constructed: p0-two-block, seed: 7}]
    do: run
    settings: {n: 16, length: [64, 128], bos: both}"""


@options
def command(
    file: Annotated[Path, typer.Argument(help="A .yaml file of models and settings.")],
    showing: Showing,
    workers: Annotated[
        str, typer.Option(help="Processes, or ray, or ray://address (needs sinkscope[ray]).")
    ] = "1",
    offline: Annotated[bool, typer.Option("--offline", help="Never touch the network.")] = False,
) -> None:
    """Run many models under many settings, and set them side by side; goes on after a kill."""
    if showing.out is None:
        out = Path(f"sinkscope-sweep-{common.name_of(str(file.with_suffix('')))}")
        showing = dataclasses.replace(showing, out=out)
    assert showing.out is not None
    from sinkscope.model_runs.plan import read_plan
    from sinkscope.model_runs.sweep import sweep
    from sinkscope.result import REPORT

    read_plan(file)  # a file that will not do leaves no folder
    common.check(showing.out)
    common.stay_offline(offline)
    with common.watched(showing) as progress:
        found = sweep(
            file,
            showing.out,
            workers=workers,
            offline=offline,
            anew=showing.force,
            progress=progress,
        )
    _show(found, showing, showing.out / REPORT)
    if found.summary.failed:
        raise typer.Exit(1)


def _show(found: Sweep, showing: Showing, page: Path) -> None:
    """The path of the page, the summary, or sentences and tables."""
    from rich.console import Console

    from sinkscope.report.sweep.terminal import print_sweep
    from sinkscope.report.text import visible

    failed = found.summary.failed
    if showing.quiet:
        print(visible(page))
    elif showing.json:
        sys.stdout.write(found.summary.model_dump_json(indent=2) + "\n")
    else:
        print_sweep(found.summary, Console(), showing.verbose)
        print(f"{found.spent}\nReport: {visible(page)}")
    if failed and (showing.quiet or showing.json):
        first = f"{failed[0]['model']}: {failed[0]['reason']}"
        print(
            f"sinkscope: {len(failed)} of {found.summary.runs} runs failed, first {visible(first)}",
            file=sys.stderr,
        )
