"""Kill `sinkscope sweep` over constructed models, go on, and hold all bytes against one left alone.

python bench/model_sweep_kill.py --models 12 --kills 10 --json
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from sinkscope.known.constructed import MECHANISMS
from sinkscope.result import REPORT, SUMMARY

ALIKE = (REPORT, SUMMARY, "index.csv")
SETTINGS = {"n": 8, "length": 32, "rows": 8, "draws": 2, "untrained": False, "vocabulary": False}
POLL = 0.2  # seconds between two looks at how many runs are done


def command(file: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "sinkscope", "sweep", str(file), "--out", str(out), "--json"]


def kept(out: Path) -> dict[str, int]:
    """Run -> when its row was written, in nanoseconds: written again means measured again."""
    return {file.parent.name: file.stat().st_mtime_ns for file in out.glob("runs/*/row.json")}


def killed(file: Path, out: Path, done: int, later: float) -> None:
    """Start the sweep and kill it `later` seconds after `done` runs are kept."""
    child = subprocess.Popen(
        command(file, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while child.poll() is None and len(kept(out)) < done:
        time.sleep(POLL)
    time.sleep(later)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=12)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    moments = random.Random(options.seed)
    found = {"models": options.models, "kills": options.kills, "measured_twice": 0}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        names = list(MECHANISMS)[: options.models]
        models = [{"constructed": each, "seed": 7} for each in names]
        file, whole, cut = folder / "known.yaml", folder / "whole", folder / "cut"
        file.write_text(yaml.safe_dump({"models": models, "settings": SETTINGS}))
        began = time.monotonic()
        subprocess.run(command(file, whole), check=True, stdout=subprocess.DEVNULL)
        one = (time.monotonic() - began) / options.models
        for kill in range(options.kills):
            before = kept(cut)
            done = min(kill * options.models // options.kills + 1, options.models - 1)
            killed(file, cut, done, moments.random() * one)
            after = kept(cut)
            found["measured_twice"] += sum(after.get(run) != at for run, at in before.items())
        before = kept(cut)
        left_part = [str(p) for p in cut.rglob(".part-*")]
        subprocess.run(command(file, cut), check=True, stdout=subprocess.DEVNULL)
        after = kept(cut)
        found["measured_twice"] += sum(after.get(run) != at for run, at in before.items())
        found["kept_before_the_last"] = len(before)
        found["unfinished_files_met"] = len(left_part)
        found["unfinished_files_left"] = len([*cut.rglob(".part-*")])
        found["same_bytes"] = {
            each: (whole / each).read_bytes() == (cut / each).read_bytes() for each in ALIKE
        }
        if not all(found["same_bytes"].values()):
            shutil.copytree(folder, Path("sweep-kill-differs"), dirs_exist_ok=True)
    found["floor"] = "the same page byte for byte, nothing measured twice"
    print(json.dumps(found, indent=2) if options.json else found)
    sys.exit(0 if all(found["same_bytes"].values()) and not found["measured_twice"] else 1)


if __name__ == "__main__":
    main()
