"""Series with a known answer: does the timeline find it, and how sure may one be of it?

    python bench/timeline_answers.py --draws 200 --json

Twice: on curves that are drawn (`planted.curves`), and on real models in which a circuit
appears and moves (`planted.series`), which are measured as any checkpoint is, from the pilot
on. A fifth of the latter holds an event after a longer calm than the settling signal waits for.
Nothing that looks back could foresee it; these are counted apart, and in all.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from planted.curves import Series, draw_series
from planted.series import draw_script

from sinkscope.training_runs.course import Course, Curves, course
from sinkscope.training_runs.settling import HOLD, QUIET

sys.path.insert(0, str(Path(__file__).resolve().parent))

from trust_parts.timelines import followed, holds


def check(seed: int) -> dict:
    """One draw of curves: what was planted beside what was found."""
    series = draw_series(seed)
    found = course(curves_of(series))
    truth = (series.emerged_at, series.stages, series.settled_at)
    return {"seed": seed, "late": False, **compared(found, series.steps, *truth)}


def check_models(seed: int) -> dict:
    """One draw of models."""
    script = draw_script(seed)
    found, emerged = followed(seed, script)
    truth = (emerged, script.stages, script.settled_at)
    row = {"seed": seed, "late": script.kind == "late", "kind": script.kind}
    return row | compared(found, script.steps, *truth)


def compared(
    found: Course,
    steps: np.ndarray,
    emerged: float | None,
    stages: int | None,
    settled: float | None,
) -> dict[str, Any]:
    """What was planted beside what was found."""
    emergence, at = found.emergence, found.settled.announced
    given = None if at is None else float(steps[at])
    false = given is not None and (settled is None or given < settled)
    calm = np.array(found.settled.calm)
    return {
        "emerged": emerged,
        "found": emergence is not None,
        "holds": holds(emergence, emerged),
        "stages": stages,
        "stages_found": len(found.stages),
        "settled": settled,
        "announced": given,
        "false": false,
        "taken_back": false and settled is not None and not calm[steps >= settled][:HOLD].all(),
        "could_settle": settled is not None and (QUIET + 1) * max(settled, 1.0) < steps[-1],
    }


def curves_of(series: Series) -> Curves:
    return Curves(
        steps=series.steps.tolist(),
        sink=series.late,
        null=series.null,
        log_norm=series.log_ratio,
        c2=series.c2,
        directions=series.directions,
    )


def table(rows: list[dict]) -> dict:
    """The floors and what was reached."""
    emerging = [r for r in rows if r["emerged"] is not None]
    staged = [r for r in rows if r["stages"] is not None]
    foreseeable = [r for r in rows if not r["late"]]
    able = [r for r in foreseeable if r["could_settle"]]
    found = {
        "draws": len(rows),
        "emergence_interval_holds_truth": _share(emerging, "holds") | {"floor": "at least 0.95"},
        "emergence_missed": 1.0 - _share(emerging, "found")["value"],
        "emergence_where_there_is_none": _share([r for r in rows if r["emerged"] is None], "found"),
        "stages_right": _share(
            [{"right": r["stages"] == r["stages_found"]} for r in staged], "right"
        )
        | {"floor": "0.90"},
        "false_settling": _share(foreseeable, "false") | {"floor": "at most 0.05"},
        "settling_seen_where_it_could_be": _share(
            [{"seen": r["announced"] is not None} for r in able], "seen"
        ),
    }
    late = [r for r in rows if r["late"]]
    if late:
        found["event_after_a_long_calm"] = {
            "announced_before_it": _share(late, "false"),
            "taken_back_within_three_checkpoints": _share(
                [r for r in late if r["false"]], "taken_back"
            ),
            "false_settling_in_all_draws": _share(rows, "false"),
        }
    return found


def _share(rows: list[dict], key: str) -> dict[str, float]:
    return {"value": sum(bool(r[key]) for r in rows) / max(len(rows), 1), "of": len(rows)}


def lines(found: dict, indent: str = "") -> Iterator[str]:
    for name, value in found.items():
        if isinstance(value, dict) and "value" not in value:
            yield f"{indent}{name}"
            yield from lines(value, indent + "  ")
        else:
            yield f"{indent}{name:42} {value}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    seeds = range(options.seed, options.seed + options.draws)
    found = {
        "curves": table([check(seed) for seed in seeds]),
        "models": table([check_models(seed) for seed in seeds]),
    }
    print(json.dumps(found, indent=2) if options.json else "\n".join(lines(found)))


if __name__ == "__main__":
    main()
