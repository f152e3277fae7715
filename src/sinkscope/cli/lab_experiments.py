"""`sinkscope lab run` and `lab study`: experiments in several variants, and their study pages."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated, Any

import typer

from sinkscope.cli import common

RUN_EPILOG = (
    "Examples:\n\n"
    "  sinkscope lab run packing --size smoke --out D          a few CPU minutes\n\n"
    "  sinkscope lab run packing --size small --corpus PATH --device cuda --minutes 10 --out D\n\n"
    "  sinkscope lab run packing --size paper --corpus PATH --out D --dry-run\n\n"
    "The same command again goes on where it stopped, and writes the study page again."
)
STUDY_EPILOG = (
    "Examples:\n\n"
    "  sinkscope lab study smoke-run --out docs/studies\n\n"
    "  sinkscope lab study smoke-run small-run --out docs/studies      two sizes on one page"
)


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
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
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
    json: common.Json = False,
    debug: common.Debug = False,
) -> None:
    """Run an experiment: train every cell with every seed, measure, write the study page."""
    import torch
    from transformers.utils import logging

    from sinkscope.lab.experiments.plan import make_plan
    from sinkscope.lab.experiments.results import read_results
    from sinkscope.lab.experiments.runs import run_plan
    from sinkscope.lab.experiments.summary import summary
    from sinkscope.report.experiment_study import write_study

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    torch.set_num_threads(threads)
    plan = make_plan(name, size, seeds, steps)
    common.check_device(device)
    with common.progress_bar() as progress:
        course = run_plan(plan, out, corpus, device, minutes, progress)
    page = write_study([out], out)
    if json:
        typer.echo(jsonlib.dumps(summary(read_results(out)), indent=2))
    else:
        _say(read_results(out))
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
    debug: common.Debug = False,
) -> None:
    """Write the study page of an experiment again, from its raw results alone."""
    from sinkscope.report.experiment_study import write_study

    typer.echo(f"Study: {write_study(folders, out or folders[0])}")


def _say(results: Any) -> None:
    from rich.console import Console

    from sinkscope.lab.experiments.summary import summary
    from sinkscope.report.experiment_tables import matched_table, short_table
    from sinkscope.report.parts import present
    from sinkscope.report.table import rich_table

    made = summary(results)
    console = Console()
    for table in present([short_table(made), matched_table(made)]):
        console.print(rich_table(table))


def listed() -> dict[str, dict[str, Any]]:
    """Name -> what it asks, cells and sizes, for `lab list`."""
    from sinkscope.lab.experiments.plan import experiment_names, read_experiment

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
