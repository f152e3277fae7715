"""The study of convergence: every trained series of a folder, and the page that says what it shows.

    python bench/convergence.py SERIES --natural NATURAL --out docs/studies/convergence.md

SERIES and NATURAL are folders of run folders, each with checkpoint-STEP and a log; NATURAL holds
seeds of the recipe `natural-backcopy`, trained on the bundled excerpt, which are measured as they
were trained: behind a BOS, on windows of 64 tokens of their language. Measured checkpoints are kept
in a cache, so the page can be written again within seconds.
"""

from __future__ import annotations

import argparse
import json
import textwrap
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from sinkscope.lab.backcopy import Backcopy
from sinkscope.lab.corpus import texts_of
from sinkscope.lab.recipe import read_recipe
from sinkscope.result import Result
from sinkscope.training_runs.timeline import timeline

DONE = 0.9  # share of a curve's whole change after which it counts as done
HALF = 0.5
RISE = 0.1  # of C_2: less is called no concentration
CURVES = {"loss": "Loss", "sink": "Late share", "log_norm": "log r", "concentration_2": "C_2"}
WINDOW = 64
PAGE = """# Does the circuit's concentration tell that training has converged?

Written by `python bench/convergence.py {command}`, over {count} series of small models that
`sinkscope lab train` makes (about a million parameters, more with experts), {checkpoints}
checkpoints in all. Their sinks were *supervised* by an auxiliary loss ("induced"), except in the
controls; what carries the sink was left to gradient descent.
`C_2` is the share of what is written along the sink direction that the first two blocks write.

## What was found

{findings}

## Runs

Emergence of the sink and the checkpoints between which it crosses (first sustained crossing of the
99th percentile of the null), stages by change points (their number by BIC), the settling signal
(given online), and `C_2` at its least after the emergence and at the end.

{runs}

## What comes first

Step at which each curve has gone through half, and through nine tenths, of its whole change; `C_2`
from its least after the emergence on. A circuit that leads the loss would be done before it.

{order}

## Does a signal tell the loss still to come?

Each run is left out in turn; a linear fit on the others predicts its remaining loss (loss now
minus loss at the last checkpoint). `R²` is against the run's own mean, so 0 is no better than
nothing. The second column is what a signal adds to log step, loss so far, its slope and the
gradient norm.

{judgement}

{natural}## What this cannot show

- These models have a million parameters and saw {tokens} steps. Whether a model of 30 billion
  behaves alike cannot be read off them.
- Every run follows the same schedule: the learning rate falls with the step, so what follows the
  step follows the rate as well. Only the second column above is free of that, and only linearly.
- The sinks of the first tables were supervised. One that training finds by itself may come at
  another time and by another way; the controls here show none, or too little to time.
- {count} runs are few: a median over runs has no interval worth printing.
- Loss is that of this text; nothing is said about downstream tasks.

## The same on public suites

Exact commands. The last revision is loaded whole once, to find where to look; of the others just
the first blocks are fetched, by range requests (all blocks in the second command). What was
measured is kept:

```
sinkscope timeline EleutherAI/pythia-160m --n 32 --out pythia-160m
sinkscope timeline EleutherAI/pythia-14m-seed1 EleutherAI/pythia-14m-seed2 \\
    EleutherAI/pythia-14m-seed3 EleutherAI/pythia-14m-seed4 --first-blocks all --out polypythias-14m
sinkscope timeline allenai/OLMo-2-0425-1B-early-training --workers 4 --out olmo-2-1b-early
sinkscope timeline allenai/OLMo-2-0425-1B --workers ray --disk-budget 100 --out olmo-2-1b
sinkscope timeline allenai/OLMoE-1B-7B-0924 --workers ray --disk-budget 200 --out olmoe
```

`--first-blocks all` measures the loss too, which the table of signals needs; with several runs on
one command line they are judged against each other. Not every revision of these suites is known to
hold safetensors; one that does not is reported and skipped.
"""
NATURAL = """## Where nothing was supervised

`sinkscope lab train natural-backcopy` with {count} seeds, {checkpoints} checkpoints in all: one
block and one head, a BOS, a synthetic language, {steps} steps at a large learning rate. The sink
there is found by training alone. With one block `C_k` is 100 % throughout and says nothing.

{findings}

{runs}

{order}

{judgement}

"""


def reached(steps: np.ndarray, values: np.ndarray, share: float) -> float | None:
    """First step from which a curve stays beyond a share of its whole change; None: it has none."""
    change = values[-1] - values[0]
    if not np.isfinite(values).all() or abs(change) < 1e-6:
        return None
    beyond = (values - values[0]) / change >= share
    below = np.flatnonzero(~beyond)
    return float(steps[below[-1] + 1]) if below.size and below[-1] + 1 < len(steps) else None


def curves(result: Result, run: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    data = result.data[f"timeline/{run}"].to_dataset()
    found = {
        "sink": data["sink_by_prompt"].values.mean(1),
        "log_norm": data["log_norm_by_prompt"].values.mean(1),
        "concentration_2": data["concentration"].values[:, 1],
    }
    if "loss" in data:
        found["loss"] = data["loss"].values
    return data["step"].values, found


def least_c2(result: Result, run: str, one: dict[str, Any]) -> float | None:
    """Least C_2 from the emergence of the sink on."""
    if one.emergence_step is None:
        return None
    steps, found = curves(result, run)
    return float(np.nanmin(found["concentration_2"][steps >= one.emergence_step]))


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def show(value: float | None, form: str = "{:.2f}") -> str:
    return "–" if value is None else form.format(value)


def runs_table(result: Result) -> str:
    rows = []
    for run, one in result.summary.timeline.runs.items():
        sink = one.emergence["sink"]
        interval = "–"
        if sink is not None:
            low = "before" if sink["low"] is None else f"{sink['low']:.0f}"
            interval = f"{sink['step']} ({low}–{sink['high']:.0f})"
        starts = ", ".join(str(stage["start"]) for stage in one.stages[1:])
        rows.append(
            [
                run,
                interval,
                f"{len(one.stages)}" + (f" (from {starts})" if starts else ""),
                show(one.settled_step, "{:.0f}"),
                show(least_c2(result, run, one)),
                show(one.concentration["2"].value),
                show(one.first_blocks_late_share.value),
                show(one.norm_ratio, "{:.1f}"),
            ]
        )
    header = [
        "Series",
        "Emerged",
        "Stages",
        "Settled",
        "C_2 least",
        "C_2 end",
        "Late share",
        "Norm",
    ]
    return table(header, rows)


def order_table(result: Result) -> str:
    rows = []
    for run in result.summary.timeline.runs:
        cells = []
        for name in CURVES:
            both = [_reached(result, run, name, share) for share in (HALF, DONE)]
            cells.append(" / ".join(show(value, "{:.0f}") for value in both))
        rows.append([run, *cells])
    return table(["Series", *(f"{label}, half / nine tenths" for label in CURVES.values())], rows)


def _reached(result: Result, run: str, name: str, share: float) -> float | None:
    """`reached` of one curve; C_2 counts from its least after the emergence, before it is noise."""
    steps, found = curves(result, run)
    if name not in found:
        return None
    values = found[name]
    if name == "concentration_2":
        emerged = result.summary.timeline.runs[run].emergence_step
        if emerged is None:
            return None
        start = int(np.flatnonzero(steps >= emerged)[0])
        start += int(np.nanargmin(values[start:]))
        steps, values = steps[start:], values[start:]
        if values[-1] - values[0] < RISE:
            return None
    return reached(steps, values, share)


def judgement_table(result: Result) -> str:
    judged = result.summary.timeline.judgement
    if not judged["signals"]:
        return f"Not judged: {judged['reason']}."
    rows = [
        [
            row["name"],
            show(row["alone"]),
            show(row["added"], "{:+.2f}"),
            show(row["rank"], "{:+.2f}"),
        ]
        for row in judged["signals"]
    ]
    return table(["Signal", "R² alone", "R² added", "Rank correlation"], rows)


def findings(result: Result) -> str:
    """The answers in words, from the numbers alone."""
    runs = result.summary.timeline.runs
    sinking = {name: one for name, one in runs.items() if one.emergence_step is not None}
    strong = {n: o for n, o in sinking.items() if (o.first_blocks_late_share.value or 0) > 0.1}
    said = _of_strong(result, runs, strong) if strong else []
    said.append(_added(result))
    return "\n".join(
        textwrap.fill(f"- {sentence}", 100, subsequent_indent="  ") for sentence in said if sentence
    )


def _of_strong(result: Result, runs: dict[str, Any], strong: dict[str, Any]) -> list[str]:
    """Of the series that end with a strong sink."""
    early = [100 * one.emergence_step / one.steps[-1] for one in strong.values()]
    counts = [len(one.stages) for one in strong.values()]
    kinds = ", ".join(f"{k} in {counts.count(k)}" for k in sorted(set(counts)))
    without = [len(one.stages) for name, one in runs.items() if name not in strong]
    beside = ", ".join(f"{k} in {without.count(k)}" for k in sorted(set(without)))
    controls = (
        f"; of the {len(without)} without a strong sink, {beside}. Where both agree, stages are "
        "those of training as such and no mark of the circuit."
    )
    settled = [name for name, one in strong.items() if one.settled_step is not None]
    return [
        f"**Early:** in the {len(strong)} series that end with a strong sink (late share above "
        f"0.1) it emerges after {np.median(early):.1f} % of training (median; "
        f"{min(early):.1f}–{max(early):.1f} %).",
        _concentration(result, strong),
        f"**Stages:** {kinds} of these series" + (controls if without else "."),
        f"**Settling:** the signal stands at the end in {len(settled)} of {len(strong)} "
        f"({', '.join(settled) or 'none'}).",
        _lead(result, strong),
    ]


def _concentration(result: Result, strong: dict[str, Any]) -> str:
    ends = {name: one.concentration["2"].value for name, one in strong.items()}
    if all(result.data[f"timeline/{name}"].sizes["layer"] <= 2 for name in strong):
        return ""
    rises = [n for n, o in strong.items() if ends[n] - (least_c2(result, n, o) or ends[n]) > RISE]
    most = [name for name, value in ends.items() if value > 0.8]
    return (
        f"**Concentration in the first two blocks:** `C_2` ends above 0.8 in {len(most)} of "
        f"{len(strong)} ({', '.join(most) or 'none'}) and rises by more than 0.1 after the "
        f"emergence in {len(rises)} ({', '.join(rises) or 'none'})."
    )


def _lead(result: Result, strong: dict[str, Any]) -> str:
    before = after = 0
    for run in strong:
        steps, found = curves(result, run)
        if "loss" not in found:
            continue
        sink, loss = (reached(steps, found[name], DONE) for name in ("sink", "loss"))
        if sink is not None and loss is not None:
            before += sink < loss
            after += sink > loss
    return (
        "**Order:** the late share is through nine tenths of its change before the loss in "
        f"{before} series and after it in {after}."
    )


def _added(result: Result) -> str:
    rows = {row["name"]: row for row in result.summary.timeline.judgement["signals"]}
    gains = {n: r["added"] for n, r in rows.items() if r["added"] is not None}
    if not gains:
        return ""
    best = max(gains, key=lambda name: gains[name])
    if gains[best] > 0.02:
        return (
            f"**Beyond the baselines** the best signal is `{best}`, which adds {gains[best]:.2f} "
            "to R² in the median run."
        )
    return (
        "**Beyond the baselines** no signal adds more than 0.02 to R² in the median run: whoever "
        "knows the step and the loss so far learns nothing further about the loss to come. That is "
        "a negative answer, for these series."
    )


def measured(folder: Path, options: argparse.Namespace, **settings: Any) -> Result:
    """The timeline of every run in a folder."""
    runs = sorted({path.parent for path in folder.glob("*/checkpoint-*")})
    only = set(options.only.split(",")) if options.only else {run.name for run in runs}
    return timeline(
        [run for run in runs if run.name in only],
        first_blocks="all",
        cache=options.cache,
        workers=options.workers,
        threads=1,
        **settings,
    )


def write_language(path: Path) -> str:
    """Text in the language of `natural-backcopy` and the bundled excerpt, a window a line."""
    language = Backcopy(texts_of(None, "train"), read_recipe("natural-backcopy").vocabulary - 2)
    rows = language.draw(256, WINDOW - 1, torch.Generator().manual_seed(0), None)
    lines = (json.dumps({"text": language.tokenizer.decode(row)}) for row in rows)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def parts(result: Result) -> dict[str, Any]:
    """What a page says of the runs."""
    runs = result.summary.timeline.runs
    return {
        "count": len(runs),
        "checkpoints": sum(len(one.steps) for one in runs.values()),
        "findings": findings(result),
        "runs": runs_table(result),
        "order": order_table(result),
        "judgement": judgement_table(result),
    }


def most_steps(result: Result) -> int:
    return max(one.steps[-1] for one in result.summary.timeline.runs.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("series", type=Path)
    parser.add_argument("--natural", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--cache", type=Path, default=None)
    parser.add_argument("--workers", default="1")
    parser.add_argument("--only", default="", help="names of runs, with commas between")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = measured(options.series, options)
    if options.json:
        print(json.dumps(result.summary.timeline.judgement, indent=2))
    natural = ""
    if options.natural is not None:
        with TemporaryDirectory() as folder:
            text = write_language(Path(folder) / "language.jsonl")
            found = measured(options.natural, options, text=text, bos="with", length=WINDOW)
        natural = NATURAL.format(steps=most_steps(found), **parts(found))
    page = PAGE.format(
        command="SERIES --natural NATURAL" if natural else "SERIES",
        tokens=most_steps(result),
        natural=natural,
        **parts(result),
    )
    if options.out is None:
        print(page)
    else:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
