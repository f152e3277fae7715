"""`sinkscope report`: render a saved run again, or compare it with others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sinkscope.cli import common
from sinkscope.cli.options import Printing, options

EXAMPLES = """
  sinkscope report sinkscope-run-bundled     render report.html again
  sinkscope report run-a --against run-b     compare two on one page
  sinkscope report run-a --against run-b --against run-c
  sinkscope report run-a --figures figures   charts as PNG, SVG and PDF"""


@options
def command(
    run_dir: Annotated[Path, typer.Argument(help="A run folder.")],
    showing: Printing,
    against: Annotated[
        list[Path] | None,
        typer.Option(help="Another run folder to compare with. Can be given several times."),
    ] = None,
    figures: Annotated[
        Path | None, typer.Option(help="Folder for the charts as PNG, SVG and PDF.")
    ] = None,
) -> None:
    """Render a saved run again; compare runs with --against."""
    from sinkscope.files import write_whole
    from sinkscope.report.page import render_page
    from sinkscope.result import REPORT, load_result

    result = load_result(run_dir)
    others = [load_result(folder) for folder in against or []]
    common.check(figures)
    page = None
    if common.takes_page(run_dir, showing):
        page = run_dir / ("comparison.html" if others else REPORT)
    with common.drawn_from(run_dir):
        if page is not None:
            write_whole(page, render_page(result, *others).encode("utf-8", "replace"))
        if figures is not None:
            from sinkscope.report.export import export_figures

            export_figures(result, figures)
        common.show(result, showing, page, *others)
