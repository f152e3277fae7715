"""Kill a sweep at random moments, resume it, and hold the result against one that was left alone.

python bench/sweep_kill.py --kills 20 --json
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import tempfile
import time
from pathlib import Path

from sinkscope.settings import CheckpointSettings
from sinkscope.training_runs.checkpoint import TrainingRun
from sinkscope.training_runs.measured import measure_checkpoints
from sinkscope.training_runs.pilot import Pilot, TimelineSettings, run_pilot
from sinkscope.training_runs.sources import find_runs
from sinkscope.training_runs.store import Store

ONE_THREAD = CheckpointSettings(threads=1)


def snapshot(store: Store) -> dict[str, bytes]:
    """Every file of a store and its bytes."""
    return {p.name: p.read_bytes() for p in store.folder.iterdir() if not p.name.startswith(".")}


def kill_and_resume(
    run: TrainingRun, pilot: Pilot, folder: Path, moment: float
) -> dict[str, bytes]:
    """Start a sweep in a process of its own, kill it, check what it left, and resume it.

    moment  0..1, of the time that the sweep takes
    """
    store = Store(folder)
    began = time.perf_counter()
    measure_checkpoints(
        run, pilot, Store(folder.with_name(f"{folder.name}-timing")), settings=ONE_THREAD
    )
    needed = time.perf_counter() - began
    child = os.fork()
    if child == 0:
        try:
            measure_checkpoints(run, pilot, store, settings=ONE_THREAD)
        finally:
            os._exit(0)
    time.sleep(moment * needed)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    left = snapshot(store) if folder.exists() else {}
    measure_checkpoints(run, pilot, store, settings=ONE_THREAD)
    after = snapshot(store)
    lost = [name for name, content in left.items() if after.get(name) != content]
    if lost:
        raise AssertionError(f"{lost[0]} was lost or damaged")
    return after


def main() -> None:
    import torch

    from sinkscope.subject.load import load
    from sinkscope.subject.tiny import tiny_model

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    moments = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for step in range(12):
            tiny_model("llama", seed=step).save_pretrained(folder / "run" / f"checkpoint-{step}")
        run = find_runs([folder / "run"])[0]
        looking = TimelineSettings(kind="random", n=2, length=32, first_blocks=2, untrained=False)
        pilot = run_pilot(load(run.checkpoints[-1].place), looking)
        store = Store(folder / "whole")
        measure_checkpoints(run, pilot, store, settings=ONE_THREAD)
        expected = snapshot(store)
        same = [
            kill_and_resume(run, pilot, folder / f"killed-{i}", moments.random()) == expected
            for i in range(options.kills)
        ]
    found = {"kills": len(same), "same_as_left_alone": sum(same), "floor": "all of 20"}
    print(json.dumps(found, indent=2) if options.json else found)


if __name__ == "__main__":
    main()
