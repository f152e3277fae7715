"""The raw results of an experiment: one line a run and BOS policy, one line a run's curve.

OUT/experiment.json   what was asked: experiment, size, recipes, text
OUT/results.jsonl     figures of trained models, each line with its provenance
OUT/curves.jsonl      loss and sink over the steps of each run
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter
from typing_extensions import TypedDict

from sinkscope.errors import InputError
from sinkscope.files import write_whole
from sinkscope.lab.corpus import texts_sha256
from sinkscope.lab.studies.plan import StudyPlan
from sinkscope.yaml_files import refuse_path, validated

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


class Asked(TypedDict):
    """experiment.json."""

    experiment: str
    size: Literal["smoke", "small", "paper"]
    seeds: int
    excerpt: bool
    cells: dict[str, dict[str, Any]]
    evaluate: list[Literal["with", "without"]]
    text_sha256: str
    about: dict[str, Any]


class ResultLine(TypedDict):
    """A line of results.jsonl."""

    cell: str
    seed: int
    bos: Literal["with", "without"]
    figures: dict[str, float | bool | str | None]
    training: dict[str, Any]
    provenance: dict[str, Any]


class CurveLine(TypedDict):
    """A line of curves.jsonl; its figures are further lists, as long as `step`."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    cell: str
    seed: int
    step: list[int]


ASKED_READER = TypeAdapter(Asked)
LINE_READERS: dict[str, TypeAdapter] = {
    RESULTS: TypeAdapter(ResultLine),
    CURVES: TypeAdapter(CurveLine),
}


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
    asked = _read_json(out / ASKED)
    validated(ASKED_READER, asked, str(out / ASKED))
    for name in (asked["experiment"], *asked["cells"]):
        refuse_path(name, str(out / ASKED))
    lines, curves = read_lines(out / RESULTS), read_lines(out / CURVES)
    for line in (*lines, *curves):
        if line["cell"] not in asked["cells"]:
            raise InputError(f"{out} holds results of {line['cell']!r}, which was not asked for.")
    return Results(asked, lines, curves)


def read_lines(path: Path) -> list[Line]:
    """One JSON object a line; none where there is no file. InputError for what is no such line."""
    if not path.is_file():
        return []
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged: remove it and run again.") from error
    for number, line in enumerate(lines, 1):
        if path.name in LINE_READERS:
            validated(LINE_READERS[path.name], line, f"{path}, line {number}")
        points = {len(each) for each in line.values() if isinstance(each, list)}
        if len(points) > 1 or (path.name == CURVES and not line["step"]):
            raise InputError(f"{path}, line {number}: its lists differ in length, or are empty.")
    return lines


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
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged: remove its folder and run again.") from error
