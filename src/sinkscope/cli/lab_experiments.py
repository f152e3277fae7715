"""`sinkscope lab run` and `lab study`: experiments in several variants, and their study pages."""

from __future__ import annotations

import json as jsonlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sinkscope.cli import common
from sinkscope.cli.options import Debug, Device, Json, Threads

if TYPE_CHECKING:
    from sinkscope.lab.studies.plan import StudyPlan
    from sinkscope.lab.studies.runs import StudyProgress

EXAMPLES = {
    "run": """
  sinkscope lab run packing --out D              a quarter of an hour on a CPU
  sinkscope lab run packing --size small --corpus PATH --device cuda --out D
  sinkscope lab run packing --size paper --corpus PATH --out D --dry-run

  The same command again goes on where it stopped.""",
    "study": """
  sinkscope lab study smoke-run --out docs/studies
  sinkscope lab study smoke-run small-run --out docs/studies""",
}


def run(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="One of sinkscope lab list, or a .yaml file.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for models, raw results and study page.")],
    size: Annotated[str, typer.Option(help="smoke, small or paper.")] = "smoke",
    corpus: Annotated[
        Path | None,
        typer.Option(
            help="Folder with train.jsonl.xz and validation.jsonl.xz. Default: the bundled "
            "excerpt, which is enough for smoke."
        ),
    ] = None,
    device: Device = "cpu",
    threads: Threads = 1,
    minutes: Annotated[
        float | None,
        typer.Option(min=0, help="Stop after so many minutes, with everything saved to go on."),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Runs of each cell in place of the size's.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of each run in place of the size's.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be trained, and write nothing.")
    ] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Run an experiment: train every cell with every seed, measure, write the study page."""
    import torch
    from transformers.utils import logging

    from sinkscope.lab import ranks
    from sinkscope.lab.studies.plan import make_plan
    from sinkscope.lab.studies.runs import run_plan

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    torch.set_num_threads(threads)
    plan = make_plan(name, size, seeds, steps)
    common.check(None if dry_run else out)
    if dry_run or (size == "paper" and ranks.LAUNCHED not in os.environ):
        _plan(plan, out, corpus, device, json, write=not dry_run)
        return
    common.check_device(device)
    with ranks.joined(device), common.progress_bar() as progress:
        course = run_plan(plan, out, corpus, device, minutes, progress)
        if ranks.first():
            _done(plan, out, course, json)


def _plan(
    plan: StudyPlan, out: Path, corpus: Path | None, device: str, json: bool, write: bool
) -> None:
    """Say what would be trained; with `write`, put a launch script for a cluster into `out`."""
    from dataclasses import asdict

    from sinkscope.files import write_whole
    from sinkscope.lab.studies import needs
    from sinkscope.lab.studies.results import begin
    from sinkscope.report.lines import print_lines, table_lines
    from sinkscope.report.studies.tables import needs_table

    processes = needs.processes_for(plan)
    rows = needs.needs(plan, processes)
    command = needs.command_line(plan, out, corpus, device, processes)
    if write:
        begin(out, plan, corpus)
        script = out / "launch.sh"
        write_whole(script, needs.launch_script(plan, out, corpus, processes).encode())
    if json:
        found = {"runs": len(plan.runs), "processes": processes, "command": command}
        typer.echo(jsonlib.dumps({**found, "cells": [asdict(row) for row in rows]}, indent=2))
    else:
        from rich.console import Console

        console = Console()
        print_lines(table_lines(needs_table(rows), console.width), console)
        typer.echo(
            f"{len(plan.cells)} cells × {plan.seeds} seed{'s' if plan.seeds > 1 else ''}, one run "
            f"after the other, on {processes} process{'es' if processes > 1 else ''}. Memory is "
            f"an estimate.\n\n{command}"
        )
    if write:
        typer.echo(f"\nNothing was trained. Start it with: sh {script}", err=json)


def _done(plan: StudyPlan, out: Path, course: StudyProgress, json: bool) -> None:
    """Write the study page and say how far the experiment has come."""
    from sinkscope.lab.studies.results import read_results
    from sinkscope.lab.studies.summary import summary
    from sinkscope.report.studies.study import write_study

    page = write_study([out], out)
    made = summary(read_results(out))
    if json:
        typer.echo(jsonlib.dumps(made, indent=2))
    else:
        _say(made)
    if course.left:
        typer.echo(
            f"{len(course.done)} of {len(plan.runs)} runs are done; the time is over. Give the "
            f"same command again to go on with {course.left[0]}.",
            err=json,
        )
    typer.echo(f"Study: {page}", err=json)


def study(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="The --out of lab run, one a size.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder for page and pictures. Default: the first DIR.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Write the study page of an experiment again, from its raw results alone."""
    from sinkscope.report.studies.study import write_study

    common.check(out or folders[0])
    with common.drawn_from(folders[0]):
        page = write_study(folders, out or folders[0])
    typer.echo(f"Study: {page}")


def _say(made: dict[str, Any]) -> None:
    from rich.console import Console

    from sinkscope.report.lines import print_lines, table_lines
    from sinkscope.report.parts import present
    from sinkscope.report.studies.tables import matched_table, short_signs_table, short_table

    console = Console()
    for table in present([short_table(made), short_signs_table(made), matched_table(made)]):
        print_lines(table_lines(table, console.width), console)


def listed() -> dict[str, dict[str, Any]]:
    """Name -> what it asks, cells and sizes, for `lab list`."""
    from sinkscope.lab.studies.plan import experiment_names, read_experiment

    found = {}
    for name in experiment_names():
        one = read_experiment(name)
        found[name] = {
            "question": one.question,
            "source": one.source,
            "sizes": {
                size: {"cells": list(held.cells or one.cells), "seeds": held.seeds}
                for size, held in one.sizes.items()
            },
        }
    return found
