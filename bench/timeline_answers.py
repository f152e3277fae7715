"""Series with a known answer: does the timeline find it, and how sure may one be of it?

python bench/timeline_answers.py --draws 200 --json
"""

from __future__ import annotations

import argparse
import json

from sinkscope.timeline.course import Curves, course
from sinkscope.timeline.simulate import Series, draw_series


def check(seed: int) -> dict:
    """One draw: what was planted beside what was found."""
    series = draw_series(seed)
    found = course(curves_of(series))
    emergence, truth = found.emergence, series.emerged_at
    at = found.settled.announced
    given = None if at is None else float(series.steps[at])
    return {
        "seed": seed,
        "emerges": truth is not None,
        "found": emergence is not None,
        "holds": truth is not None
        and emergence is not None
        and (emergence.low is None or emergence.low <= truth)
        and truth <= emergence.high,
        "stages": series.stages,
        "stages_found": len(found.stages),
        "settled_at": series.settled_at,
        "announced": given,
        "false_settling": given is not None
        and (series.settled_at is None or given < series.settled_at),
        "could_settle": series.settled_at is not None
        and 4.0 * max(series.settled_at, 1.0) < series.steps[-1],
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
    emerging = [r for r in rows if r["emerges"]]
    staged = [r for r in rows if r["stages"] is not None]
    able = [r for r in rows if r["could_settle"]]

    def share(of: list[dict], key) -> float:
        return sum(bool(key(r)) for r in of) / max(len(of), 1)

    return {
        "draws": len(rows),
        "emergence_interval_holds_truth": {
            "value": share(emerging, lambda r: r["holds"]),
            "of": len(emerging),
            "floor": "0.93 to 0.97",
        },
        "emergence_missed": share(emerging, lambda r: not r["found"]),
        "emergence_where_there_is_none": share(
            [r for r in rows if not r["emerges"]], lambda r: r["found"]
        ),
        "stages_right": {
            "value": share(staged, lambda r: r["stages"] == r["stages_found"]),
            "of": len(staged),
            "floor": "0.90",
        },
        "false_settling": {
            "value": share(rows, lambda r: r["false_settling"]),
            "of": len(rows),
            "floor": "at most 0.05",
        },
        "settling_seen_where_it_could_be": {
            "value": share(able, lambda r: r["announced"] is not None),
            "of": len(able),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = table([check(options.seed + i) for i in range(options.draws)])
    if options.json:
        print(json.dumps(found, indent=2))
        return
    for name, value in found.items():
        print(f"{name:34} {value}")


if __name__ == "__main__":
    main()
