"""Fresh draws of constructed models: does each load, and do what its truth says?

    python bench/constructed.py --draws 500 --json > constructed.json

Mechanisms come in turn; family, sizes, noise and weights are drawn by seed. Every model is saved,
loaded through `sinkscope.load`, measured and edited. Exit code 1 if any truth does not hold.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections import defaultdict
from functools import partial
from pathlib import Path

import torch
from rich.progress import track
from transformers.utils import logging

import sinkscope
from sinkscope.known.check import figures, run_checks
from sinkscope.known.constructed import MECHANISMS, build_model, draw_spec, load_truth


def one_draw(first_seed: int, index: int) -> dict:
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    names = list(MECHANISMS)
    spec = draw_spec(names[index % len(names)], first_seed + index)
    draw = {name: getattr(spec, name) for name in ("mechanism", "family", "seed", "noise")}
    try:
        with tempfile.TemporaryDirectory() as place:
            folder = build_model(spec, Path(place) / "model")
            check = run_checks(sinkscope.load(folder), load_truth(folder), spec.seed)
    except Exception as error:  # noqa: BLE001 - a draw that cannot be built or loaded is a failure
        return draw | {"failures": [repr(error)]}
    return draw | {"failures": check.failures} | figures(check)


def worst(draws: list[dict]) -> dict[str, float]:
    found = {}
    for name, pick in (("reader_mass", min), ("sink_rate", min), ("other_share", max)):
        values = [draw[name] for draw in draws if draw.get(name) is not None]
        if values:
            found[name] = pick(values)
    return found


def table(draws: list[dict]) -> str:
    groups = defaultdict(list)
    for draw in draws:
        groups[draw["mechanism"], draw["family"]].append(draw)
    lines = [f"{'mechanism':24}{'family':10}{'holds':>9}  worst"]
    for (mechanism, family), group in sorted(groups.items()):
        good = sum(not draw["failures"] for draw in group)
        figures = "  ".join(f"{k} {v:.3f}" for k, v in worst(group).items())
        lines.append(f"{mechanism:24}{family:10}{good:>4}/{len(group):<4}  {figures}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0, help="seed of the first draw")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    began = time.time()
    with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
        work = pool.imap(partial(one_draw, options.seed), range(options.draws))
        shown = track(work, total=options.draws, disable=not sys.stderr.isatty())
        draws = list(shown)
    bad = [draw for draw in draws if draw["failures"]]
    summary = {
        "draws": len(draws),
        "hold": len(draws) - len(bad),
        "first_seed": options.seed,
        "seconds": round(time.time() - began, 1),
        **worst(draws),
        "failures": bad,
    }
    if options.json:
        print(json.dumps(summary, indent=1))
    else:
        print(table(draws))
        print(f"{summary['hold']} of {summary['draws']} draws do what their truth says.")
        for draw in bad:
            print(draw)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
