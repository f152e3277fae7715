"""`sinkscope lab`: models whose sink is known, by construction or by training."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sinkscope.cli import common, lab_experiments
from sinkscope.cli.options import Debug, Device, Json, Seed, Threads, add_command
from sinkscope.errors import InputError

if TYPE_CHECKING:
    from sinkscope.lab.recipe import TrainingRecipe

app = typer.Typer(
    help="Models whose sink is known, by construction or by training.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
EXAMPLES = {
    "list": """
  sinkscope lab list
  sinkscope lab list --json""",
    "build": """
  sinkscope lab build --mechanism p0-two-block --seed 7 --out D
  sinkscope scan D --prompts random --json       the truth is in D/truth.json
  sinkscope lab build --mechanism p0-two-block --carry 1 --out E
  sinkscope mix E --prompts random""",
    "train": """
  sinkscope lab train induced-tiny --out D       under three minutes
  sinkscope lab train induced-from-2 --corpus PATH --out D
  sinkscope lab train my-own.yaml --steps 500 --seed 3 --out D
  sinkscope lab train induced-from-2 --corpus PATH --out D --resume""",
}


def list_known(json: Json = False, debug: Debug = False) -> None:
    """What can be built, trained and run: mechanisms, recipes and experiments."""
    from sinkscope.known.constructed import MECHANISMS
    from sinkscope.lab.recipe import recipe_names

    mechanisms = {name: _mechanism(name) for name in MECHANISMS}
    recipes = {name: _recipe(name) for name in recipe_names()}
    experiments = lab_experiments.listed()
    if json:
        kinds = {"mechanisms": mechanisms, "recipes": recipes, "experiments": experiments}
        typer.echo(jsonlib.dumps(kinds, indent=2))
        return
    for title, rows in (
        ("To build (sinkscope lab build --mechanism NAME): expected verdict, families", [
            (f"{name:24} {row['verdict']:20}", ", ".join(row["families"]))
            for name, row in mechanisms.items()
        ]),
        ("To train (sinkscope lab train NAME): parameters, CPU minutes, what is supervised", [
            (f"{name:24} {row['parameters'] / 1e6:6.1f} M {_minutes(row):>9} ", row["supervision"])
            for name, row in recipes.items()
        ]),
        ("To run (sinkscope lab run NAME): the question; sizes with cells × seeds", [
            (f"{name:24}", f"{row['question']} ({_sizes(row)})")
            for name, row in experiments.items()
        ]),
    ):  # fmt: skip
        _print_rows(title, rows)


def train(
    recipe: Annotated[
        str, typer.Argument(metavar="NAME", help="One of sinkscope lab list, or a .yaml file.")
    ],
    corpus: Annotated[
        Path | None,
        typer.Option(
            help="Folder with train.jsonl.xz and validation.jsonl.xz, a JSON object with a text a "
            "line. Default: the bundled excerpt, 200 kB."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the model. Default: ./NAME.")] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps in place of the recipe's.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed in place of the recipe's.")] = None,
    device: Device = "cpu",
    threads: Threads = 1,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run that was cut short.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Train one model from scratch: its checkpoints, its log, and its sink at the end."""
    import torch
    from transformers.utils import logging

    from sinkscope.lab.data import prepare
    from sinkscope.lab.state import check_out
    from sinkscope.lab.summary import summary
    from sinkscope.lab.train import train as train_model

    logging.disable_progress_bar()
    torch.set_num_threads(threads)
    chosen = _changed(recipe, steps, seed)
    common.check_device(device)
    out = Path(Path(recipe).stem) if out is None else out
    check_out(out, resume)
    common.check(out)
    with common.progress_bar() as progress:
        progress("reading the text", 0, 1)
        data = prepare(chosen, corpus)
        progress("reading the text", 1, 1)
        model = train_model(
            chosen, data, out, device, resume,
            lambda row: progress("training", row["step"], chosen.steps),
        )  # fmt: skip
    typer.echo(f"{summary(model, data, chosen)}\nSaved in {out}.")


def _changed(recipe: str, steps: int | None, seed: int | None) -> TrainingRecipe:
    """A recipe, with steps and seed in place of its own where they are given."""
    from dataclasses import replace

    from sinkscope.checked import refuse_beyond
    from sinkscope.lab.recipe import read_recipe

    chosen = read_recipe(recipe)
    chosen = chosen if steps is None else chosen.shortened(steps)
    if seed is None:
        return chosen
    refuse_beyond("--seed", seed)
    return replace(chosen, seed=seed)


def build(
    mechanism: Annotated[str, typer.Option(help="One of sinkscope lab list.")],
    out: Annotated[Path, typer.Option(help="Folder for the model and its truth.json.")],
    seed: Seed = 0,
    family: Annotated[str | None, typer.Option(help="llama, mixtral, gpt2 or gpt_oss.")] = None,
    noise: Annotated[float | None, typer.Option(help="Noise level, 0 to 0.1.")] = None,
    carry: Annotated[
        float | None,
        typer.Option(
            help="Size of the value that sink heads carry from tokens other than P0, 0 to 1: "
            "these then mix once the sink is gone. Default: nothing."
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Build one model with the answer written into its weights."""
    from transformers.utils import logging

    from sinkscope.known.constructed import MECHANISMS, build_model, draw_spec

    logging.disable_progress_bar()
    if mechanism not in MECHANISMS:
        raise InputError(f"{mechanism!r} is not a mechanism; see sinkscope lab list.")
    common.check(out)  # and what a killed one left is swept out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists already: choose another --out or remove it.")
    given = {"family": family, "noise": noise, "carry": carry}
    spec = draw_spec(mechanism, seed, **{k: v for k, v in given.items() if v is not None})
    typer.echo(f"Built {build_model(spec, out)}; the truth is in {out / 'truth.json'}.")


add_command(app, "run", lab_experiments.run, lab_experiments.EXAMPLES["run"])
add_command(app, "study", lab_experiments.study, lab_experiments.EXAMPLES["study"])
add_command(app, "list", list_known, EXAMPLES["list"])
add_command(app, "build", build, EXAMPLES["build"])
add_command(app, "train", train, EXAMPLES["train"])


def _minutes(recipe: dict) -> str:
    return f"{recipe['cpu_minutes']:g} min" if recipe["cpu_minutes"] else "GPU"


def _sizes(experiment: dict) -> str:
    sizes = experiment["sizes"].items()
    return ", ".join(f"{size} {len(each['cells'])}×{each['seeds']}" for size, each in sizes)


def _print_rows(title: str, rows: list[tuple[str, str]]) -> None:
    """A title and rows whose second part is broken to the width of the terminal."""
    from rich.console import Console
    from rich.text import Text

    from sinkscope.report.lines import hanging, print_lines

    console = Console(highlight=False)
    lines = [line for first, rest in rows for line in hanging(f"  {first} ", rest, console.width)]
    print_lines(map(Text, [*hanging("", title, console.width), "", *lines, ""]), console)


def _mechanism(name: str) -> dict:
    from sinkscope.known.constructed import MECHANISMS, build_in_memory, draw_spec

    _, _, truth = build_in_memory(draw_spec(name, 0))
    return {"verdict": truth.verdict, "families": list(MECHANISMS[name])}


def _recipe(name: str) -> dict:
    import torch

    from sinkscope.lab.model import build_model
    from sinkscope.lab.recipe import read_recipe

    recipe = read_recipe(name)
    with torch.device("meta"):
        parameters = build_model(recipe).num_parameters()
    return {
        "supervision": recipe.supervision,
        "family": recipe.family,
        "parameters": parameters,
        "steps": recipe.steps,
        "cpu_minutes": recipe.cpu_minutes,
    }
