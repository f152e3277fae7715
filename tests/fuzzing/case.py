"""A case: something wrong with an input, what is run on it, and which exit codes are right."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.fuzzing.worker import Ended, run_here

DONE, INPUT, UNSUPPORTED, RESOURCES = 0, 2, 3, 4
ANSWERS = frozenset({DONE, INPUT, UNSUPPORTED, RESOURCES})
GUARD = "guard"  # beside the folder of a case: what is found in it was put there by foreign code


@dataclass(frozen=True)
class Case:
    """One mutated input.

    kind   what it is about
    what   the mutation, in words that say how to make it again
    make   mutates the inputs in a folder of its own, a copy of the base
    run    arguments of the command line, relative to that folder
    right  exit codes that are right for it
    needs  entries of the base that it needs beside those that its arguments name
    """

    kind: str
    what: str
    make: Callable[[Path], object]
    run: tuple[str, ...]
    right: frozenset[int]
    needs: tuple[str, ...] = ()


def try_case(case: Case, base: Path, place: Path) -> tuple[str, Ended]:
    """Run a case in this process: how it ended, in a word. Only what it names is copied."""
    clear(place)
    guard = place.parent / GUARD
    guard.mkdir(parents=True, exist_ok=True)
    place.mkdir(exist_ok=True)
    for name in set(os.listdir(base)) & {*case.run, *case.needs}:
        whole = base / name
        if whole.is_dir():
            shutil.copytree(whole, place / name, symlinks=True)
        else:
            shutil.copyfile(whole, place / name)
    case.make(place)
    before = set(os.listdir(place.parent))
    ended = run_here(list(case.run), place)
    strays = set(os.listdir(place.parent)) - before or set(os.listdir(guard))
    hidden = list(place.rglob(".part-*")) if ended.code in ANSWERS else []
    if strays:
        return "wrote outside", ended
    return "left something" if hidden else judged(case, ended), ended


def clear(place: Path) -> None:
    """Take away what a case left."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.rmtree(place.parent / GUARD, ignore_errors=True)


def judged(case: Case, ended: Ended) -> str:
    """How a case ended, in a word, by its exit code and by what it said."""
    if "Traceback" in ended.err:
        return "traceback"
    if ended.code == 70:
        return "unexpected"
    if ended.code not in case.right:
        return "wrong class"
    said = [line for line in ended.err.splitlines() if line.startswith("sinkscope: ")]
    if ended.code and not (said and re.search(r"\w", said[-1][11:])):
        return "no sentence"
    if "\x1b[2J" in ended.err + ended.out:
        return "steered the terminal"
    return "answered"
