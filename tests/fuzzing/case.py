"""A case: something wrong with an input, what is run on it, and which exit codes are right."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.fuzzing.worker import HANG, Ended, run_case

DONE, INPUT, UNSUPPORTED, RESOURCES = 0, 2, 3, 4
ANSWERS = frozenset({DONE, INPUT, UNSUPPORTED, RESOURCES})


@dataclass(frozen=True)
class Case:
    """One mutated input.

    kind   what it is about
    what   the mutation, in words that say how to make it again
    make   mutates the inputs in a folder of its own, a copy of the base
    run    arguments of the command line, relative to that folder
    right  exit codes that are right for it
    """

    kind: str
    what: str
    make: Callable[[Path], object]
    run: tuple[str, ...]
    right: frozenset[int]


def verdict(case: Case, base: Path, place: Path) -> tuple[str, Ended]:
    """How a case ended, in a word: answered, or what is wrong with the answer."""
    guard = place.parent / "guard"
    guard.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copytree(base, place, symlinks=True)
        case.make(place)
        before = set(os.listdir(place.parent))
        ended = run_case(list(case.run), place)
        strays = set(os.listdir(place.parent)) - before or set(os.listdir(guard))
        hidden = list(place.rglob(".part-*")) if ended.code in ANSWERS else []
    finally:
        shutil.rmtree(place, ignore_errors=True)
    if strays:
        return "wrote outside", ended
    if hidden:
        return "left something", ended
    return _judged(case, ended), ended


def _judged(case: Case, ended: Ended) -> str:
    if ended.code == HANG:
        return "hang"
    if ended.code < 0:
        return "signal"
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
