"""Kill `sinkscope sweep` over constructed models, go on, and hold all bytes against one left alone.

python bench/model_sweep_kill.py --models 12 --kills 10 --json
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import yaml

from sinkscope.known.constructed import MECHANISMS
from sinkscope.model_runs.sweep import sweep
from sinkscope.result import REPORT, SUMMARY

ALIKE = (REPORT, SUMMARY, "index.csv")
SETTINGS = {"n": 8, "length": 32, "rows": 8, "draws": 2, "untrained": False, "vocabulary": False}
SCAN = {"n": 4, "length": 32, "untrained": False}
POLL = 0.05  # seconds between two looks at how many runs are done


def kept(out: Path) -> dict[str, int]:
    """Run -> when its row was written, in nanoseconds: written again means measured again."""
    return {file.parent.name: file.stat().st_mtime_ns for file in out.glob("runs/*/row.json")}


def killed(file: Path, out: Path, done: int, later: float) -> bool:
    """Sweep in a process of its own and kill it `later` seconds after `done` runs are kept.

    Whether it was killed: it may have come to its end before.
    """
    child = os.fork()
    if child == 0:
        try:
            sweep(file, out, threads=1)
        finally:
            os._exit(0)
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if len(kept(out)) >= done:
            time.sleep(later)
            os.kill(child, signal.SIGKILL)
            return os.waitpid(child, 0)[1] == signal.SIGKILL
        time.sleep(POLL)
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=12)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--do", choices=("run", "scan"), default="run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    moments = random.Random(options.seed)
    found: dict = {"do": options.do, "models": options.models, "killed": 0, "measured_twice": 0}
    found["kept_after_each"] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        names = list(MECHANISMS)[: options.models]
        models = [{"constructed": each, "seed": 7} for each in names]
        settings = SETTINGS if options.do == "run" else SCAN
        file, whole, cut = folder / "known.yaml", folder / "whole", folder / "cut"
        content = {"models": models, "do": options.do, "settings": settings}
        file.write_text(yaml.safe_dump(content))
        began = time.monotonic()
        sweep(file, whole, threads=1)
        one = (time.monotonic() - began) / options.models
        for kill in range(options.kills):
            before = kept(cut)
            done = kill * options.models // options.kills
            found["killed"] += killed(file, cut, done, moments.random() * one)
            after = kept(cut)
            found["measured_twice"] += sum(after.get(run) != at for run, at in before.items())
            found["kept_after_each"].append(len(after))
        before = kept(cut)
        left_part = [*cut.rglob(".part-*")]
        sweep(file, cut, threads=1)
        after = kept(cut)
        found["measured_twice"] += sum(after.get(run) != at for run, at in before.items())
        found["unfinished_files_met"] = len(left_part)
        found["unfinished_files_left"] = len([*cut.rglob(".part-*")])
        found["same_bytes"] = {
            each: (whole / each).read_bytes() == (cut / each).read_bytes() for each in ALIKE
        }
    found["floor"] = "the same page byte for byte, nothing measured twice"
    print(json.dumps(found, indent=2) if options.json else found)
    sys.exit(0 if all(found["same_bytes"].values()) and not found["measured_twice"] else 1)


if __name__ == "__main__":
    main()
