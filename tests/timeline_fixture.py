"""Timelines of tiny runs whose checkpoints say steps and tokens, for the page."""

from __future__ import annotations

import json
from pathlib import Path

from sinkscope.result import Result
from sinkscope.subject.tiny import tiny_model
from sinkscope.training_runs.timeline import timeline

STEPS = (0, 10, 20, 40, 80, 160)
SMALL = {"kind": "random", "n": 2, "length": 32, "first_blocks": 2, "untrained": False}


def build_timeline(folder: Path, runs: int = 1) -> Result:
    """Measure `runs` runs of random models in `folder`, each with a log of losses."""
    sources = [folder / f"run-{number}" for number in range(runs)]
    for number, source in enumerate(sources):
        for step in STEPS:
            model = tiny_model("llama", seed=100 * number + step)
            model.save_pretrained(source / f"step{step}-tokens{step}K")
        rows = [{"step": step, "loss": 5 - step / 100} for step in STEPS]
        (source / "log.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return timeline(sources, cache=folder / "cache", threads=1, **SMALL)
