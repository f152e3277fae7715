"""`sinkscope index`: every run in a folder, filtered and sorted."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from sinkscope.cli import common
from sinkscope.cli.options import Printing, options

EXAMPLES = """
  sinkscope index runs                      every run below it
  sinkscope index runs --sort=-late-share   from the largest
  sinkscope index runs --where 'late-share>0.2' --where verdict=p0-circuit"""


@options
def command(
    folder: Annotated[Path, typer.Argument(help="A folder of run folders, or a sweep's.")],
    showing: Printing,
    where: Annotated[
        list[str] | None,
        typer.Option(help="What a row must meet, such as 'late-share>0.2'. Several: all of them."),
    ] = None,
    sort: Annotated[
        str | None, typer.Option(help="Column to sort by; - before it: from the largest.")
    ] = None,
) -> None:
    """List the runs in a folder: filtered, sorted, and as a page that does both."""
    import sinkscope
    from sinkscope.files import expanded, write_whole
    from sinkscope.model_runs.index import chosen, runs_in
    from sinkscope.report.sweep.page import render_index
    from sinkscope.report.text import visible

    found = runs_in(expanded(folder))
    rows = chosen(found.rows, where or (), sort)
    place, page = expanded(folder), None
    name = place.resolve().name
    if common.takes_page(place, showing):
        html = render_index(name, found.rows, found.pages, sinkscope.__version__)
        page = place / "index.html"
        write_whole(page, html.encode("utf-8", "replace"))
    for run, why in found.left_out.items():
        print(f"sinkscope: {visible(run)} is left out: {visible(why)}", file=sys.stderr)
    if showing.quiet:
        print(visible(page))
    elif showing.json:
        sys.stdout.write(json.dumps([row.model_dump(mode="json") for row in rows], indent=2) + "\n")
    else:
        from rich.console import Console

        from sinkscope.report.sweep.tables import plain_table
        from sinkscope.report.sweep.terminal import print_table

        print_table(plain_table(rows, f"Runs in {visible(name)}", showing.verbose), Console())
        there = f" Page: {visible(page)}" if page else ""
        print(f"{len(rows)} of {len(found.rows)} rows.{there}")
