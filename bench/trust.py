"""How far to trust the answers: models whose truth is known, each answer held against it.

    python bench/trust.py --draws 1000 --jobs 2 --keep trust.jsonl --json    measure
    python bench/trust.py --draws 1000 --keep trust.jsonl --write            and keep the summary
    python bench/trust.py --page                                             docs/trust.md from it

Six parts, in turn: the newer mechanisms (one draw each), networks without a sink (half as many),
series of few prompts and of training runs (a fifth each), uses of the sink and intervals (a tenth
each). With --keep every draw is written down as it ends, and a second run makes those that are
missing; --only takes some parts. Exit code 1 if a floor is missed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import sys
import time
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
    parser.add_argument(
        "--write", action="store_true", help="keep the summary in results/trust.json"
    )
    parser.add_argument("--page", action="store_true", help="only write docs/trust.md from it")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.page:
        PAGE.write_text(page(json.loads(RESULTS.read_text("utf-8"))), encoding="utf-8")
        return 0
    draws = list(_drawn(options))
    values = summary(draws) | {"draws": options.draws}
    missed = missed_floors(values)
    if options.write:
        RESULTS.write_text(json.dumps(values | {"missed": missed}, indent=1) + "\n", "utf-8")
    if options.json:
        print(json.dumps(values | {"missed": missed, "all": draws}, indent=1))
    else:
        print(table(values))
        print("\n".join(f"missed: {each}" for each in missed) or "every floor is met")
    return 1 if missed else 0


def _drawn(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Draws that are kept, then those that are missing."""
    wanted = list(tasks(options.draws, options.seed, options.only))
    kept = []
    if options.keep and options.keep.exists():
        kept = [json.loads(line) for line in options.keep.read_text("utf-8").splitlines()]
    done = {(draw["part"], draw["seed"]): draw for draw in kept}
    yield from (done[task] for task in wanted if task in done)
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
