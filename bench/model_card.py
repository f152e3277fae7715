"""Measure a trained folder and write its model card.

`python bench/model_card.py DIR --corpus PATH --control CONTROL` measures DIR, the control and the
untrained model on the same windows of the validation text, and writes `figures.json` and
`README.md` to DIR. The card holds no number that is not in `figures.json` or `sink_heads.json`.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from card_parts.figures import distinct_windows, load_recipe
from card_parts.model_text import card_text
from transformers import PreTrainedTokenizerFast

from sinkscope.errors import SinkscopeError
from sinkscope.lab.corpus import read_texts
from sinkscope.lab.metrics import measure
from sinkscope.lab.model import build_model
from sinkscope.lab.state import load_model, run_log
from sinkscope.lab.tokens import encode

UNTRAINED_SEEDS = (0, 1, 2)


def measure_folder(
    folder: Path, corpus: Path, control: Path | None, count: int, length: int
) -> dict:
    """Figures of the trained model, its control and the untrained model, on the same windows."""
    recipe = load_recipe(folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    windows = distinct_windows(encode(read_texts(corpus, "validation"), tokenizer), count, length)
    heads = recipe.watched_heads()
    figures: dict[str, Any] = {"trained": measure(load_model(folder), windows, heads)}
    figures["training"] = run_log(folder, recipe.tokens_per_step)
    if control is not None:
        figures["control"] = measure(load_model(control), windows, heads)
        figures["control_training"] = run_log(control, recipe.tokens_per_step)
    untrained = (build_model(replace(recipe, seed=seed)) for seed in UNTRAINED_SEEDS)
    figures["untrained"] = [measure(model, windows, heads) for model in untrained]
    return figures


def main(argv: list[str] | None = None) -> int:
    """0 when the card is written, 2 with one sentence when the input will not do."""
    parser = argparse.ArgumentParser(description="Measure a trained folder, write its card.")
    parser.add_argument("folder", type=Path, help="folder made by sinkscope lab train")
    parser.add_argument(
        "--corpus", type=Path, required=True, help="folder with the .jsonl.xz files"
    )
    parser.add_argument("--control", type=Path, help="folder of the same training, no demand")
    parser.add_argument("--windows", type=int, default=512, help="windows of validation text")
    parser.add_argument("--length", type=int, default=256, help="tokens a window")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    try:
        figures = measure_folder(
            options.folder, options.corpus, options.control, options.windows, options.length
        )
    except SinkscopeError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    (options.folder / "figures.json").write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    text = card_text(load_recipe(options.folder), figures)
    (options.folder / "README.md").write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
