"""Many cases of every kind, counted by how they ended.

python -m tests.fuzzing.sweep --count 5000 --seed 3
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzzing import models, others
from tests.fuzzing.base import make_base
from tests.fuzzing.case import Case, verdict

KINDS = (*models.KINDS, *others.KINDS)


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

        @seed(first)
        @settings(
            max_examples=max(1, count),
            phases=[Phase.generate],
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(kind(self.base))
        def one(case: Case) -> None:
            how, ended = verdict(case, self.base, self.folder / "cases" / "case")
            self.counts[case.kind, how, ended.code] += 1
            if how != "answered":
                last = (ended.err.strip().splitlines() or [""])[-1][:300]
                self.bad.append(f"{how} ({ended.code}): {case.kind}: {case.what[:200]}: {last}")

        one()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--kind", help="only these, such as config_case,lab_case")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sinkscope-fuzz-") as name:
        sweep = Sweep(Path(name))
        shown = 0
        kinds = [kind for kind in KINDS if options.kind is None or kind.__name__ in options.kind]
        for kind in kinds:
            sweep.run(kind, options.count // len(kinds), options.seed)
            print(kind.__name__, sum(sweep.counts.values()), len(sweep.bad), file=sys.stderr)
            print(*sweep.bad[shown:], sep="\n", flush=True)
            shown = len(sweep.bad)
    rows = [[*key, count] for key, count in sorted(sweep.counts.items())]
    total = sum(sweep.counts.values())
    print(json.dumps({"seed": options.seed, "cases": total, "bad": len(sweep.bad), "by": rows}))
    sys.exit(bool(sweep.bad))


if __name__ == "__main__":
    main()
