"""The raw results of an experiment: one line a run and BOS policy, one line a run's curve.

OUT/experiment.json   what was asked: experiment, size, recipes, text
OUT/results.jsonl     figures of trained models, each line with its provenance
OUT/curves.jsonl      loss and sink over the steps of each run
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sinkscope.errors import InputError
from sinkscope.files import write_whole
from sinkscope.lab.corpus import texts_sha256
from sinkscope.lab.studies.plan import StudyPlan

ASKED, RESULTS, CURVES = "experiment.json", "results.jsonl", "curves.jsonl"
CHANGED = {  # what to call a difference
    "experiment": "name and settings",
    "size": "size and settings",
    "cells": "settings",
    "evaluate": "BOS policies",
    "every": "steps between points",
    "text_sha256": "texts",
}
Line = dict[str, Any]


@dataclass
class Results:
    """What a folder holds: what was asked, lines of results, lines of curves."""

    asked: dict[str, Any]
    lines: list[Line]
    curves: list[Line]


def begin(out: Path, plan: StudyPlan, corpus: Path | None) -> None:
    """Make `out` the folder of this plan on this text, or see that it is.

    Errors: OutOfResources where the disk is full. InputError where it cannot be written, or holds
    something else, another experiment, other settings or another text; and where the text is too
    short for the size.
    """
    if (
        corpus is None
        and plan.size != "smoke"
        and any(r.data == "text" for r in plan.cells.values())
    ):
        raise InputError(
            f"The bundled excerpt is too short for size {plan.size}: give a --corpus folder."
        )
    asked = json.loads(json.dumps({**plan.identity, "text_sha256": texts_sha256(corpus)}))
    about = {"about": plan.about, "seeds": plan.seeds, "excerpt": corpus is None}
    content = (json.dumps({**asked, **about}, indent=1) + "\n").encode()
    if (out / ASKED).is_file():
        held = _read_json(out / ASKED)
        changed = [key for key in asked if held.get(key) != asked[key]]
        if changed:
            raise InputError(
                f"{out} holds {held.get('experiment')} at size {held.get('size')}, and its "
                f"{CHANGED.get(changed[0], changed[0])} differ: give the same, or another --out."
            )
        write_whole(out / ASKED, content)
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is not empty and holds no experiment: choose another --out.")
    write_whole(out / ASKED, content)


def read_results(out: Path) -> Results:
    """The raw results in a folder. Errors: InputError for a folder that holds none."""
    if not (out / ASKED).is_file():
        raise InputError(f"{out} holds no experiment: give the --out of sinkscope lab run.")
    return Results(_read_json(out / ASKED), read_lines(out / RESULTS), read_lines(out / CURVES))


def read_lines(path: Path) -> list[Line]:
    """One JSON object a line; none where there is no file."""
    if not path.is_file():
        return []
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except ValueError as error:
        raise InputError(f"{path} is damaged: remove it and run again.") from error


def put_lines(path: Path, new: Sequence[Line]) -> None:
    """Add lines, in place of those of the same run and BOS policy; the file is always whole."""
    taken = {key_of(line) for line in new}
    kept = [line for line in read_lines(path) if key_of(line) not in taken]
    write_whole(path, "".join(json.dumps(line) + "\n" for line in [*kept, *new]).encode())


def key_of(line: Line) -> tuple[str, int, str]:
    """What a line is about: cell, seed, BOS policy."""
    return line["cell"], line["seed"], line["bos"]


def figures_by_seed(lines: Iterable[Line], cell: str, bos: str, figure: str) -> dict[int, float]:
    """seed -> one figure of a cell, of the seeds that have it."""
    found = {
        line["seed"]: line["figures"].get(figure)
        for line in lines
        if line["cell"] == cell and line["bos"] == bos
    }
    return {seed: float(value) for seed, value in sorted(found.items()) if value is not None}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is damaged: remove its folder and run again.") from error
