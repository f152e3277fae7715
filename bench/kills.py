"""Kill every writing command at random moments: what was there is whole, and a rerun is the same.

    python -m bench.kills --kills 100

After each kill the folder holds the earlier result or the new one, all files of it; after the next
run it holds the same bytes as one that was left alone, and nothing else. Of trained models the
weights are compared, since their logs hold times.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzzing.base import QUICK, make_base

RANDOM = ("--prompts", "random", *QUICK)
os.environ["SOURCE_DATE_EPOCH"] = "0"  # no dates and durations: bytes are compared
COMMANDS: dict[str, tuple[str, ...]] = {
    "scan": ("scan", "llama", *RANDOM),
    "run": ("run", "llama", "--no-vocabulary", "--draws", "2", "--position", "2", *RANDOM),
    "mix": ("mix", "llama", "--prompts", "random", "--n", "8", "--length", "16", "--offline",
            "--no-circuit", "--no-jacobian", "--no-sweeps", "--pairs", "8"),
    "advise": ("advise", "llama", "--prompts", "random", "--n", "2", "--length", "16", "--offline"),
    "timeline": ("timeline", "series", "--cache", "cache", *RANDOM),
    "lab build": ("lab", "build", "--mechanism", "p0-two-block"),
    "lab study": ("lab", "study", "study"),
    "lab train": ("lab", "train", "recipe.yaml"),
    "lab run": ("lab", "run", "experiment.yaml"),
}  # fmt: skip
RESUMED = {"lab train": "--resume"}
EMPTY_FIRST = ("lab build", "lab train", "lab run")  # refuse a folder with an earlier result
SOUND: set[tuple] = set()  # states that were left, from which a run was seen to end as it should
NUMBERS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def started(arguments: tuple[str, ...], place: Path) -> int:
    """A forked process that runs the command line in `place`."""
    child = os.fork()
    if child == 0:
        os.chdir(place)
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        from sinkscope.cli import main

        try:
            main(list(arguments))
        except SystemExit as ended:
            os._exit(int(ended.code or 0))
        finally:
            os._exit(99)
    return child


def content(folder: Path) -> dict[str, str]:
    """Name -> hash of the files of a result; of a training only its weights."""
    found = {}
    trained = any(folder.rglob("log.jsonl"))
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        if path.is_file() and (not trained or path.suffix == ".safetensors"):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            found[str(path.relative_to(folder))] = digest
    return found


def run_once(name: str, place: Path) -> dict[str, str]:
    """The command left alone, a second time with --resume where it wants that."""
    arguments = (*COMMANDS[name], "--out", "D")
    log = place / "D" / "state.pt"
    more = (RESUMED[name],) if name in RESUMED and log.exists() else ()
    _, status = os.waitpid(started((*arguments, *more), place), 0)
    code = os.waitstatus_to_exitcode(status)
    finished = name in EMPTY_FIRST and code == 2  # it was done when the kill came
    if code and not finished:
        raise AssertionError(f"{name} ends with {code} after a kill")
    return content(place / "D")


def kill_one(name: str, base: Path, moment: float, number: int, earlier: Path | None) -> str:
    """One kill at a moment (0..1 of the time it takes); "" or what is wrong."""
    place = base.parent / "place"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(base, place)
    whole = base.parent / f"whole-{name.replace(' ', '-')}"
    began = time.perf_counter()
    if not whole.exists():
        run_once(name, place)
        shutil.copytree(place / "D", whole)
        (base.parent / f"{whole.name}.seconds").write_text(str(time.perf_counter() - began))
        shutil.rmtree(place)
        shutil.copytree(base, place)
    needed = float((base.parent / f"{whole.name}.seconds").read_text())
    if earlier is not None:
        shutil.copytree(earlier, place / "D")
    before = content(place / "D")
    child = started((*COMMANDS[name], "--out", "D"), place)
    time.sleep(moment * needed)
    os.kill(child, number)
    os.waitpid(child, 0)
    expected = content(whole)
    left = {k: v for k, v in content(place / "D").items() if not k.startswith((".part-", ".ready"))}
    if earlier is not None and left not in (before, before | expected):
        return "a mixture was left"
    state = (name, *everything(place))
    if state in SOUND:  # a run from the same files gives the same again
        return ""
    after = run_once(name, place)
    if after.items() >= expected.items() and not hidden(place / "D"):
        SOUND.add(state)
        return ""
    return "it differs"


def everything(place: Path) -> list[tuple[str, str]]:
    """All files of a place with their hashes, sorted; names that are drawn at random are one."""
    files = (path for path in place.rglob("*") if path.is_file())
    return sorted(
        (
            re.sub(r"\.part-[^/]*", ".part", str(path.relative_to(place))),
            hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for path in files
    )


def hidden(folder: Path) -> list[str]:
    """What a run should have taken away."""
    return [path.name for path in folder.rglob(".*")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="of each command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--command", choices=COMMANDS)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    found: dict[str, dict[str, int]] = {}
    with tempfile.TemporaryDirectory() as name:
        base = make_base(Path(name) / "base")
        for command in [options.command] if options.command else COMMANDS:
            ends: dict[str, int] = {}
            earlier = None if command in EMPTY_FIRST else base / "result"
            began = time.perf_counter()
            for _ in range(options.kills):
                number = chance.choice(NUMBERS)
                said = kill_one(command, base, chance.random(), number, earlier) or "whole"
                ends[said] = ends.get(said, 0) + 1
            found[command] = ends
            took = (time.perf_counter() - began) / options.kills
            print(f"{command}: {ends}, {took:.2f} s each", file=sys.stderr, flush=True)
    print(json.dumps({"kills": options.kills, "seed": options.seed, "found": found}, indent=1))
    sys.exit(any(set(ends) != {"whole"} for ends in found.values()))


if __name__ == "__main__":
    main()
