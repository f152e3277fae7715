"""Command line of `python -m sinkscope.lab.train`."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import PreTrainedTokenizerFast

from sinkscope.errors import InputError, SinkscopeError
from sinkscope.lab.corpus import split_path
from sinkscope.lab.demand import Demand
from sinkscope.lab.recipe import Recipe
from sinkscope.lab.train import train

EXAMPLES = """examples:
  python -m sinkscope.lab.train --corpus PATH --out runs/reference
  python -m sinkscope.lab.train --corpus PATH --out runs/control --no-demand
  python -m sinkscope.lab.train --corpus PATH --out runs/series --checkpoints 0 100 300 1000
"""


def parser() -> argparse.ArgumentParser:
    """Options; what is not given is as in `Recipe`, the recipe of the reference model."""
    default, demand = Recipe(), Demand()
    out = argparse.ArgumentParser(
        prog="python -m sinkscope.lab.train",
        description="Train a small reference model with induced sinks from scratch.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    out.add_argument("--corpus", type=Path, required=True, help="folder with the .jsonl.xz files")
    out.add_argument("--out", type=Path, required=True, help="new folder; the log goes beside it")
    out.add_argument("--tokenizer", type=Path, help="folder of a tokenizer to use as it is")
    out.add_argument("--steps", type=int, default=default.steps)
    out.add_argument("--seed", type=int, default=default.seed)
    out.add_argument("--lr", type=float, default=default.learning_rate, help="peak learning rate")
    out.add_argument("--precision", choices=("bf16", "fp32"), default=default.precision)
    out.add_argument("--device", default="cpu")
    out.add_argument("--threads", type=int, default=1, help="CPU threads")
    out.add_argument("--checkpoints", type=int, nargs="*", default=[], help="steps to save")
    out.add_argument("--no-demand", action="store_true", help="train the control")
    out.add_argument("--demand-weight", type=float, default=demand.weight)
    out.add_argument("--demand-heads", type=int, nargs="+", default=list(demand.heads))
    out.add_argument("--demand-from", type=int, default=demand.from_block, help="first block")
    out.add_argument("--demand-until", type=int, default=None, help="step of its withdrawal")
    return out


def recipe_of(options: argparse.Namespace) -> Recipe:
    """The recipe that the options describe."""
    demand = Demand(
        heads=tuple(options.demand_heads),
        from_block=options.demand_from,
        weight=options.demand_weight,
        until=options.demand_until,
    )
    return Recipe(
        steps=options.steps,
        warmup=min(Recipe.warmup, options.steps),
        seed=options.seed,
        learning_rate=options.lr,
        precision=options.precision,
        demand=None if options.no_demand else demand,
        checkpoints=tuple(options.checkpoints),
    )


@contextmanager
def logged(path: Path, steps: int) -> Iterator[tuple[Callable, Callable]]:
    """A row logger (JSON lines and a progress bar) and a status printer."""
    columns = (
        TextColumn("{task.description}"),
        *Progress.get_default_columns()[1:3],
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as lines, Progress(*columns) as bar:
        task = bar.add_task("training", total=steps)

        def log(row: dict) -> None:
            lines.write(json.dumps(row) + "\n")
            lines.flush()
            text = f"loss {row['loss']:.2f}  share {row['demand_share']:.2f}"
            bar.update(task, completed=row["step"], description=text)

        yield log, bar.console.print


def main(argv: list[str] | None = None) -> int:
    """0 when the folder is there, 2 with one sentence when the input will not do."""
    options = parser().parse_args(argv)
    torch.set_num_threads(options.threads)
    try:
        split_path(options.corpus, "train")
        if options.out.exists():
            raise InputError(f"{options.out} exists already: choose another --out or remove it.")
        tokenizer = options.tokenizer and PreTrainedTokenizerFast.from_pretrained(options.tokenizer)
        recipe = recipe_of(options)
        with logged(options.out.with_suffix(".jsonl"), recipe.steps) as (log, say):
            train(recipe, options.corpus, options.out, tokenizer or None, options.device, log, say)
    except SinkscopeError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0
