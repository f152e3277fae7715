"""Bigger than one machine: what a CPU can show of it, each number beside its floor.

    python bench/scale.py --json                       every part, in a few minutes
    python bench/scale.py --only streamed --blocks 8   a 70B shape, so many blocks of it on disk
    python bench/scale.py --only long --length 131072  the long run
    python bench/scale.py --out bench/results          also write scale.json there

streamed  a folder in the shape of a 70B Llama, random weights, is read block by block while it
          runs: peak memory, and the time of a block over reading it and computing with it at hand
spread    two processes (gloo) against one: the largest difference of scan, trace and verify
long      P0 read at a long context, over a plain pass in the same pieces: CPU time and memory

Shared machines make wall-clock times wander; the ratios are of CPU seconds where nothing waits for
a disk, else of times taken in turns in one process.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from scale_parts import common

PARTS = ("streamed", "spread", "long")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between")
    parser.add_argument("--blocks", type=int, default=4, help="blocks of the 70B shape on disk")
    parser.add_argument("--length", type=int, default=16_384, help="tokens of the long context")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--folder", type=Path, default=None, help="where the blocks are written")
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        print(json.dumps(common.part(options.part).measure(options)))
        return
    found = {}
    for name in options.only.split(","):
        if name not in PARTS:
            parser.error(f"{name!r} is not one of {', '.join(PARTS)}")
        # a process for each part, so that its peak memory is its own
        done = subprocess.run([sys.executable, __file__, "--part", name, *passed_on(options)],
                              stdout=subprocess.PIPE, text=True)  # fmt: skip
        if done.returncode:
            found[name] = {"failed": f"exit code {done.returncode}"}
        else:
            found[name] = json.loads(done.stdout.strip().splitlines()[-1])
    result = {"machine": common.machine(), "parts": found}
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        file = options.out / "scale.json"
        held = json.loads(file.read_text())["parts"] if file.is_file() else {}
        file.write_text(json.dumps({**result, "parts": held | found}, indent=2) + "\n")
    print(json.dumps(result, indent=2) if options.json else common.table(found))
    missed = [f for part in found.values() for f in part.get("floors", []) if not f["held"]]
    raise SystemExit(bool(missed) or any("failed" in part for part in found.values()))


def passed_on(options: argparse.Namespace) -> list[str]:
    rest = ["--blocks", str(options.blocks), "--length", str(options.length)]
    rest += ["--dtype", options.dtype]
    return rest + (["--folder", str(options.folder)] if options.folder else [])


if __name__ == "__main__":
    main()
