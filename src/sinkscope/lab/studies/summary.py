"""The results of an experiment over its seeds: a row a cell and BOS policy, as plain data."""

from collections import Counter
from dataclasses import asdict
from typing import Any

import numpy as np

from sinkscope.lab.studies.matched import SINK, matched
from sinkscope.lab.studies.results import Results, figures_by_seed
from sinkscope.stats import first_sustained, t_interval

SHARES = ("sink_rate_0.3", "sink_rate_0.8", "late_share", "best_head")
STREAM = ("norm_ratio", "massive", "read_norm", "read_outlier", "dominance")
FIGURES = (*SHARES, "loss", *STREAM)
HALF = 0.5  # sink rate above which a run has its sink


def summary(results: Results) -> dict[str, Any]:
    """experiment, size, about, cells, rows, signs, matched.

    cells: settings that tell a cell from the others, parameters and tokens of its runs; sink_from,
    for each seed the first of three points of the curve in a row with a sink rate above HALF, as a
    step, or None. rows: for each cell and BOS policy its seeds, its figures as mean and 95 % t
    interval over seeds, in how many `sinkscope scan` found a sink, what it calls the strongest head
    and in how many, and what was published. A cell that was not run has no seeds and no figures.
    signs: each published direction and what was found. matched: the sink-matched control, where the
    experiment names a control.
    """
    asked = results.asked
    return {
        "experiment": asked["experiment"],
        "size": asked["size"],
        "seeds": asked["seeds"],
        "excerpt": asked["excerpt"],
        "about": asked["about"],
        "cells": [_cell(results, cell) for cell in asked["cells"]],
        "rows": [_row(results, cell, bos) for cell in asked["cells"] for bos in asked["evaluate"]],
        "signs": [
            signed(results, sign)
            for sign in asked["about"].get("signs", ())
            if {sign["cell"], sign["than"]} <= asked["cells"].keys()  # those of this size
        ],
        "matched": _matched(results),
        "provenance": _provenance(results),
    }


def _cell(results: Results, cell: str) -> dict[str, Any]:
    recipes = results.asked["cells"]
    own = recipes[cell]
    differing = [key for key in own if any(other[key] != own[key] for other in recipes.values())]
    lines = [line for line in results.lines if line["cell"] == cell]
    trained = lines[0]["training"] if lines else {}
    return {
        "cell": cell,
        "settings": {key: own[key] for key in differing},
        "steps": own["steps"],
        "tokens": own["steps"] * own["tokens_per_step"],
        "parameters": trained.get("parameters"),
        "sink_from": [sink_from(curve) for curve in results.curves if curve["cell"] == cell],
    }


def sink_from(curve: dict[str, Any]) -> int | None:
    """Step from which a run has its sink, as it was trained: ε 0.3, sustained; None: never."""
    found = first_sustained(np.array(curve[SINK]) > HALF)
    return None if found is None else int(curve["step"][found])


def _row(results: Results, cell: str, bos: str) -> dict[str, Any]:
    by_seed = {name: figures_by_seed(results.lines, cell, bos, name) for name in FIGURES}
    figures = {}
    for name, values in by_seed.items():
        ends = (0.0, 1.0) if name in SHARES else (0.0,)
        figures[name] = t_interval(list(values.values()), *ends).model_dump()
    sinks = figures_by_seed(results.lines, cell, bos, "sink")
    lines = [line for line in results.lines if (line["cell"], line["bos"]) == (cell, bos)]
    classes = [line["figures"].get("best_head_class") for line in lines]
    published = [
        row for row in results.asked["about"]["published"]
        if row["cell"] == cell and row["bos"] in (bos, "")
    ]  # fmt: skip
    return {
        "cell": cell,
        "bos": bos,
        "seeds": list(by_seed["loss"]),
        "figures": figures,
        "found_sink": int(sum(sinks.values())),
        "best_head_class": Counter(name for name in classes if name),
        "published": published,
    }


def signed(results: Results, sign: dict[str, Any]) -> dict[str, Any]:
    """The difference between two cells, seed by seed, and whether it has the published sign.

    found: "as published" or "against" where the interval over seeds is clear of zero, "open" where
    it is not or there is none, "not run".
    """
    bos, figure = sign["bos"], sign["figure"]
    own = figures_by_seed(results.lines, sign["cell"], bos, figure)
    other = figures_by_seed(results.lines, sign["than"], sign["than_bos"] or bos, figure)
    ends = (-1.0, 1.0) if figure in SHARES else ()
    change = t_interval([own[seed] - other[seed] for seed in own if seed in other], *ends)
    found = "open" if change.value is not None else "not run"
    if change.low is not None and change.high is not None and change.low * change.high > 0:
        found = "as published" if (change.low > 0) == (sign["expected"] == "higher") else "against"
    return {**sign, "change": change.model_dump(), "found": found}


def _matched(results: Results) -> dict[str, Any] | None:
    """Methods at the control's sink rate and loss; None without a control, or before it was run."""
    control = results.asked["about"]["control"]
    base = [curve for curve in results.curves if curve["cell"] == control]
    if not base:
        return None
    rows = []
    for one in matched(results.curves, control):
        both = {"loss": one.loss.model_dump(), "sink_rate": one.sink_rate.model_dump()}
        rows.append({**asdict(one), **both})
    return {
        "control": control,
        "sink_rate": t_interval([curve[SINK][-1] for curve in base], 0.0, 1.0).model_dump(),
        "loss": t_interval([curve["loss"][-1] for curve in base]).model_dump(),
        "rows": rows,
    }


def _provenance(results: Results) -> dict[str, Any]:
    """What all lines share, each as the list of the different values there are."""
    keys = ("sinkscope", "torch", "transformers", "device", "windows")
    found: dict[str, Any] = {
        key: sorted({line["provenance"][key] for line in results.lines}, key=str) for key in keys
    }
    found["text_sha256"] = results.asked["text_sha256"]
    return found
