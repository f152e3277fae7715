"""Many cases of every kind, counted by how they ended.

python -m tests.fuzzing.sweep --count 5000 --seed 3
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzzing import further, models, others
from tests.fuzzing.base import make_base
from tests.fuzzing.case import Case, clear, try_case
from tests.fuzzing.worker import in_processes

KINDS = (*models.KINDS, *others.KINDS, *further.KINDS)
BATCH = 50  # cases that share a process


class Sweep:
    """The sound inputs in a folder, and what came of the mutated ones.

    counts  (kind, how it ended, exit code) -> cases
    bad     a line for each case that was not answered rightly
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base = make_base(folder / "base")
        self.counts: Counter[tuple[str, str, int]] = Counter()
        self.bad: list[str] = []

    def run(self, kind: Any, count: int, first: int = 0) -> None:
        """Draw and try so many cases of a kind. first: seed of the draw."""
        cases = drawn(kind(self.base), count, first)
        place, apart = (self.folder / name / "case" for name in ("cases", "alone"))
        trials = [functools.partial(try_case, case, self.base, place) for case in cases]
        for case, found in zip(cases, in_processes(trials, BATCH), strict=True):
            how, ended = found
            if how != "answered":  # the other process goes on meanwhile
                trial = functools.partial(try_case, case, self.base, apart)
                alone, ended = next(in_processes([trial], 1))
                how = how if alone == how else f"{how} among others, {alone} alone"
                last = (ended.err.strip().splitlines() or [""])[-1][:300]
                self.bad.append(f"{how} ({ended.code}): {case.kind}: {case.what[:200]}: {last}")
            self.counts[case.kind, how, ended.code] += 1
        clear(place)
        clear(apart)


def drawn(kind: Any, count: int, first: int) -> list[Case]:
    """So many cases of a kind, the same for the same seed."""
    cases: list[Case] = []

    @seed(first)
    @settings(
        max_examples=max(1, count),
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(kind)
    def one(case: Case) -> None:
        cases.append(case)

    one()
    return cases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--kind", help="only these, such as config_case,lab_case")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sinkscope-fuzz-") as name:
        sweep = Sweep(Path(name))
        began, shown = time.perf_counter(), 0
        kinds = [kind for kind in KINDS if options.kind is None or kind.__name__ in options.kind]
        for kind in kinds:
            sweep.run(kind, options.count // len(kinds), options.seed)
            total, took = sum(sweep.counts.values()), time.perf_counter() - began
            said = f"{total} cases, {len(sweep.bad)} bad, {total / took:.1f} a second"
            print(kind.__name__, said, file=sys.stderr)
            print(*sweep.bad[shown:], sep="\n", flush=True)
            shown = len(sweep.bad)
    rows = [[*key, count] for key, count in sorted(sweep.counts.items())]
    rate = round(total / took, 2)
    found = {"seed": options.seed, "cases": total, "bad": len(sweep.bad), "a_second": rate}
    print(json.dumps({**found, "by": rows}))
    sys.exit(bool(sweep.bad))


if __name__ == "__main__":
    main()
