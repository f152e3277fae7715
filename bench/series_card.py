"""Measure every checkpoint of a trained folder and write its figures and model card.

`python bench/series_card.py DIR --control CONTROL --corpus PATH` writes `figures.json` and
`README.md` to DIR. All checkpoints, and the control at its end, are measured on the same windows
of held-out text. The card holds no number that is not in `figures.json` or `sink_heads.json`.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from card_parts.figures import load_recipe, vocabulary_share
from card_parts.series_text import series_card
from transformers import PreTrainedTokenizerFast
from transformers.utils import logging

from sinkscope.errors import InputError, SinkscopeError
from sinkscope.lab.data import VALIDATION_SEED, held_out
from sinkscope.lab.demand import delimiter_ids
from sinkscope.lab.metrics import measure
from sinkscope.lab.state import load_model, run_log
from sinkscope.stats import first_sustained

WINDOWS = 64


def checkpoints(folder: Path) -> dict[int, Path]:
    """The checkpoint folders by step, in order."""
    found = {int(p.name.rpartition("-")[2]): p for p in folder.glob("checkpoint-*")}
    if not found:
        raise InputError(
            f"{folder} holds no checkpoints: give a folder made by sinkscope lab train."
        )
    return dict(sorted(found.items()))


def measure_series(folder: Path, corpus: Path | None, control: Path | None = None) -> dict:
    """Figures by step, `vocabulary_share` at the last, and the control at its end.

    vocabulary_share: share of all vocabulary items which, put first, leave the supervised heads'
    late share above 0.8. crossing: first step of three in a row whose late share on these heads is
    above the 99th percentile of random targets; null where there is none.
    """
    recipe = load_recipe(folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    draw = held_out(recipe, corpus, tokenizer)
    generator = torch.Generator().manual_seed(VALIDATION_SEED)
    windows = draw(WINDOWS, max(recipe.lengths), generator)
    watched = recipe.watched_heads()
    characters = recipe.demand.delimiters if recipe.demand else ""
    delimiters = delimiter_ids(tokenizer, characters) if characters else None
    folders = checkpoints(folder)
    rows: list[dict[str, Any]] = []
    for step, path in folders.items():
        model = load_model(path)
        row = {"step": step, **measure(model, windows, watched, delimiters)}
        if recipe.supervised_heads() and step == max(folders):
            row["vocabulary_share"] = vocabulary_share(model, windows, watched, delimiters)
        rows.append(row)
    figures: dict[str, Any] = {
        "name": folder.name,
        "corpus": corpus is not None,
        "supervision": recipe.supervision,
        "supervised_heads": recipe.supervised_heads(),
        "training": run_log(folder, recipe.tokens_per_step),
        "crossing": crossing(rows),
        "checkpoints": rows,
    }
    if control is not None:
        model = load_model(control)
        figures["control"] = {
            "name": control.name,
            **measure(model, windows, watched, delimiters),
        }
    return figures


def crossing(rows: list[dict]) -> int | None:
    """First step from which three checkpoints in a row lie above the null's 99th percentile."""
    above = [
        "late_share_p99" in row and row["late_share"]["supervised"]["value"] > row["late_share_p99"]
        for row in rows
    ]
    found = first_sustained(np.array(above))
    return None if found is None else rows[found]["step"]


def rounded(data: Any) -> Any:
    """The same data with six significant digits, which is more than the windows carry."""
    if isinstance(data, float):
        return float(f"{data:.6g}")
    if isinstance(data, dict):
        return {key: rounded(value) for key, value in data.items()}
    return [rounded(value) for value in data] if isinstance(data, list | tuple) else data


def main(argv: list[str] | None = None) -> int:
    """0 when figures and card are written, 2 with one sentence when the input will not do."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder made by sinkscope lab train")
    parser.add_argument(
        "--control", type=Path, help="folder of the same training, nothing supervised"
    )
    parser.add_argument("--corpus", type=Path, help="text it was trained on; default the excerpt")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    logging.disable_progress_bar()
    try:
        figures = measure_series(options.folder, options.corpus, options.control)
        recipe = load_recipe(options.folder)
    except SinkscopeError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    (options.folder / "figures.json").write_text(json.dumps(rounded(figures)) + "\n", "utf-8")
    (options.folder / "README.md").write_text(series_card(recipe, figures), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
