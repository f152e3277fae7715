"""How far to trust the answers: models whose truth is known, each answer held against it.

    python bench/trust.py --draws 1000 --jobs 2 --keep trust.jsonl           measure
    python bench/trust.py --draws 1000 --keep trust.jsonl --page             write it down

Six parts, in turn: the newer mechanisms (one draw each), networks without a sink (half as many),
series of few prompts and of training runs (a fifth each), uses of the sink and intervals (a tenth
each). With --keep every draw is written down as it ends, and a second run makes those that are
missing; --only takes some parts. --page draws nothing: it writes results/trust.json from what is
kept so far and docs/trust.md from that, which says how much of what is asked for there is. Exit
code 1 if a floor is missed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from transformers.utils import logging

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from trust_parts.page import page  # noqa: E402
from trust_parts.tally import missed_floors, summary, table  # noqa: E402

FIRST_SEED = 1_000_000
RESULTS, PAGE = HERE / "results" / "trust.json", HERE.parent / "docs" / "trust.md"
# part -> of how many draws one is of it
PARTS = {
    "families": 1, "networks": 2, "prompts": 5, "timelines": 5, "uses": 10, "intervals": 10,
}  # fmt: skip


def one_draw(task: tuple[str, int]) -> dict[str, Any]:
    """One draw of one part; what breaks is a failure, not the end."""
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    part, seed = task
    draw: dict[str, Any] = {"part": part, "seed": seed}
    start = time.perf_counter()
    try:
        draw |= importlib.import_module(f"trust_parts.{part}").one(seed)
    except Exception as error:  # noqa: BLE001
        draw["error"] = repr(error)[:300]
    return draw | {"seconds": round(time.perf_counter() - start, 2)}


def tasks(draws: int, first: int, only: list[str]) -> Iterator[tuple[str, int]]:
    """Part and seed of every draw, the parts mixed."""
    for index in range(draws):
        for part, every in PARTS.items():
            if index % every == 0 and (not only or part in only):
                yield part, first + index // every


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=FIRST_SEED, help="of the first draws")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=[], choices=list(PARTS))
    parser.add_argument("--keep", type=Path, help="JSON lines, one draw each")
    parser.add_argument("--page", action="store_true", help="write down what is kept so far")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    draws = _kept(options) if options.page else list(_drawn(options))
    asked = Counter(part for part, _ in tasks(options.draws, options.seed, []))
    there = Counter(draw["part"] for draw in draws)
    values = summary(draws) | {"draws": options.draws, "seed": options.seed}
    values["drawn"] = {part: [there[part], asked[part]] for part in PARTS}
    values["missed"] = missed = missed_floors(values)
    if options.page:
        RESULTS.write_text(json.dumps(values, indent=1) + "\n", "utf-8")
        PAGE.write_text(page(values), encoding="utf-8")
        return 0
    if options.json:
        print(json.dumps(values | {"all": draws}, indent=1))
    else:
        print(table(values))
        print("\n".join(f"missed: {each}" for each in missed) or "every floor is met")
    return 1 if missed else 0


def _kept(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Draws that are kept, of those that are asked for."""
    if not options.keep or not options.keep.exists():
        return []
    wanted = set(tasks(options.draws, options.seed, options.only))
    lines = map(json.loads, options.keep.read_text("utf-8").splitlines())
    return [draw for draw in lines if (draw["part"], draw["seed"]) in wanted]


def _drawn(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Draws that are kept, then those that are missing."""
    kept = _kept(options)
    yield from kept
    done = {(draw["part"], draw["seed"]) for draw in kept}
    wanted = tasks(options.draws, options.seed, options.only)
    todo = [task for task in wanted if task not in done]
    with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
        steps = pool.imap_unordered(one_draw, todo)
        for draw in track(steps, "draws", len(todo), console=Console(stderr=True)):
            if options.keep:
                with options.keep.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps(draw) + "\n")
            yield draw


if __name__ == "__main__":
    sys.exit(main())
