"""One script that proves the GPU paths: parity with the CPU, throughput, cost, natural training.

    make gpu                                          everything, into bench/results/gpu-<card>.json
    make gpu ARGS="--tiny"                            the same in miniature, also without a GPU
    python bench/gpu.py --corpus FOLDER --seconds 480 --only parity,throughput

Sections run in order of worth, each measure by itself: what fails leaves its error in the results,
and the file is written after every measure, so that a run may be cut off anywhere. A section runs
in a child process, which is started again behind a measure that broke it (a fault on the device
spoils the whole process) and ended where it outruns its time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from gpu_parts.common import read, write

# section -> its share of the seconds, in order of worth; what one leaves over, the next may use
SECTIONS = {
    "parity": 0.25,
    "throughput": 0.2,
    "cost": 0.2,
    "monitor": 0.08,
    "longest": 0.12,
    "training": 1.0,
}
STARTS = 12  # of a child, for all sections together


def card() -> tuple[str, str]:
    """Name and driver of the first GPU, as nvidia-smi gives them; cpu where there is none."""
    ask = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        line = subprocess.run(ask, capture_output=True, text=True, check=True).stdout.splitlines()[
            0
        ]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "cpu", ""
    name, driver = line.rsplit(", ", 1)
    return name, driver


def slug(name: str) -> str:
    return "-".join(name.lower().replace("nvidia", "").split())


def supervise(file: Path, end: float, kept: str) -> None:
    """Start children until every section is done, or the time is over."""
    command = [sys.executable, __file__, *sys.argv[1:], "--child", str(file)]
    command += ["--end", str(end), "--kept", kept]
    for _ in range(STARTS):
        child = subprocess.Popen(command)
        while child.poll() is None and time.time() < end and not overdue(file):
            time.sleep(0.5)
        if child.poll() is None:
            child.kill()
            child.wait()
            close_running(file)
        if child.returncode == 0 or time.time() >= end:
            return


def overdue(file: Path) -> bool:
    running = _running(read(file))
    return running is not None and time.time() > running["end"] + 20


def close_running(file: Path) -> None:
    """The section that was cut off is not begun again."""
    results = read(file)
    running = _running(results)
    if running is not None:
        running |= {"done": True, "cut_off": True}
        write(file, results)


def _running(results: dict) -> dict | None:
    sections = results["sections"].values()
    return next((s for s in sections if "end" in s and not s["done"]), None)


def child(options: argparse.Namespace) -> None:
    """Run what is left of the sections."""
    from importlib import import_module

    import torch
    from gpu_parts.common import Run, versions
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    file = Path(options.child)
    results = read(file)
    results["versions"] = versions()
    for name in results["settings"]["only"]:
        section = results["sections"].setdefault(name, {"done": False, "found": {}})
        if section["done"]:
            continue
        left = options.end - time.time()
        if left < 5:
            section |= {"done": True, "skipped": "no time left"}
            write(file, results)
            continue
        if "end" not in section:
            section["end"] = time.time() + min(left, SECTIONS[name] * options.seconds)
        torch.manual_seed(options.seed)
        run = Run(file, results, name, options)
        print(f"{name}: {section['end'] - time.time():.0f} s", flush=True)
        import_module(f"gpu_parts.{name}").section(run)
        section["done"] = True
        write(file, results)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--seconds", type=float, default=480)
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, in this order")
    parser.add_argument("--corpus", type=Path, help="folder with train and validation.jsonl.xz")
    parser.add_argument("--device", help="cuda where there is one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tiny", action="store_true", help="every section in miniature")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--end", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--prepare", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--kept", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    name, driver = card()
    options.device = options.device or ("cpu" if name == "cpu" else "cuda")
    if options.prepare:
        from gpu_parts.prepare import make

        make(options.prepare, options.corpus, options.seed)
        return 0
    if options.child:
        child(options)
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    name = name if options.device == "cuda" else "cpu"
    file = options.out / f"gpu-{slug(name)}{'-tiny' if options.tiny else ''}.json"
    began = time.time()
    only = [part for part in options.only.split(",") if part]
    settings = {"seconds": options.seconds, "tiny": options.tiny, "seed": options.seed}
    settings |= {"only": only, "device": options.device, "cpus": os.cpu_count()}
    results = {"card": name, "driver": driver, "settings": settings, "sections": {}}
    write(file, results)
    with tempfile.TemporaryDirectory() as kept:
        helper = None
        if not options.tiny:
            command = [sys.executable, __file__, *sys.argv[1:], "--prepare", kept]
            helper = subprocess.Popen(command)
        supervise(file, began + options.seconds, kept)
        if helper is not None and helper.poll() is None:
            helper.kill()
            helper.wait()
    results = read(file) | {"seconds": round(time.time() - began, 1)}
    write(file, results)
    print(json.dumps(errors(results), indent=1))
    print(file)
    return 1 if errors(results) else 0


def errors(results: dict) -> dict[str, str]:
    """What failed or was left out, by section and measure."""
    found = {}
    for name in results["settings"]["only"]:
        section = results["sections"].get(name)
        if section is None:
            found[name] = "never begun"
            continue
        if "skipped" in section or "cut_off" in section:
            found[name] = section.get("skipped", "cut off")
        for key, part in section["found"].items():
            if "error" in part or "skipped" in part:
                found[f"{name}.{key}"] = part.get("error", part.get("skipped"))
    return found


if __name__ == "__main__":
    sys.exit(main())
