"""Compare what two versions of the source measure: every number of their summaries, key by key.

python bench/compare_summaries.py make DIR         summaries of the version that is imported
python bench/compare_summaries.py check OLD NEW    compare two such folders; exit 1 if they differ

`make` uses the command line alone, so it runs on any version; the version is the one that python
imports (PYTHONPATH). It looks at the bundled model, five constructed ones and the bundled series.

`check` reads `renamed_keys.json` beside this file. Keys are dotted, an entry of a list by its
number, a dot inside a part written as a colon; `*` stands for one part. An entry speaks of its key
and of all that lies under it, and the longest that fits is taken:

    renamed    {old key: new key}; null says that the number is no longer given
    corrected  {old key: why its value changed}

Numbers agree to 1e-6 of their size or of one. Keys that only the new version has are counted.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_name("renamed_keys.json")
TOLERANCE = 1e-6
# Facts of the machine and of the call, not of the model.
IGNORED = ("environment", "model.id")
SIZE = ["--n", "8", "--length", "48"]
MIX = [*SIZE, "--pairs", "8", "--longest", "96"]
# mechanism -> family, what its prompts hold
BUILT = {
    "p0-two-block": ("llama", ["--bos", "without"]),
    "bos-token": ("llama", ["--bos", "both"]),
    "query-bias": ("gpt2", ["--bos", "without"]),
    "position-embedding": ("gpt2", ["--bos", "without"]),
    "learned-sink": ("gpt_oss", ["--bos", "without"]),
}


def make(folder: Path) -> None:
    """Write DIR/MODEL/COMMAND.json for every model and command."""
    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        models: dict[str, list[str]] = {"bundled": []}
        for mechanism, (family, prompts) in BUILT.items():
            built = scratch / mechanism
            _sinkscope(
                "lab", "build", "--mechanism", mechanism, "--family", family, "--seed", "3",
                "--noise", "0.05", "--out", str(built),
            )  # fmt: skip
            models[mechanism] = [str(built), "--prompts", "random", *prompts]
        for name, model in models.items():
            _keep(folder / name / "run.json", scratch, "run", *model, *SIZE)
            _keep(folder / name / "mix.json", scratch, "mix", *model, *MIX)
        cache = ["--cache", str(scratch / "cache")]
        _keep(folder / "bundled" / "timeline.json", scratch, "timeline", "bundled", *SIZE, *cache)


def _keep(file: Path, scratch: Path, *command: str) -> None:
    out = scratch / "out"
    _sinkscope(*command, "--out", str(out))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes((out / "summary.json").read_bytes())
    (out / "summary.json").unlink()
    print(file, flush=True)


def _sinkscope(*command: str) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "sinkscope", *command],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"sinkscope {' '.join(command)} failed:\n{done.stdout}{done.stderr}")


Key = tuple[str, ...]


def flat(value: Any, key: Key = ()) -> Iterator[tuple[Key, Any]]:
    """Every leaf with its key; an empty object or list is a leaf."""
    items: list[tuple[str, Any]] = []
    if isinstance(value, dict):
        items = [(name.replace(".", ":"), inner) for name, inner in value.items()]
    elif isinstance(value, list):
        items = [(str(number), inner) for number, inner in enumerate(value)]
    if not items:
        yield key, value
    for name, inner in items:
        yield from flat(inner, (*key, name))


def fits(pattern: str, key: Key) -> list[str] | None:
    """What the stars of a pattern stand for at the head of a key; None where it does not fit."""
    parts = pattern.split(".")
    if len(parts) > len(key) or any(p not in ("*", k) for p, k in zip(parts, key)):
        return None
    return [k for p, k in zip(parts, key) if p == "*"]


def entry_of(table: dict[str, Any], key: Key) -> str | None:
    """The longest entry that speaks of a key, the one with fewer stars first."""
    found = [pattern for pattern in table if fits(pattern, key) is not None]
    return max(found, key=lambda p: (p.count("."), -p.count("*")), default=None)


def renamed(table: dict[str, str | None], key: Key) -> Key | None:
    """Where a number of the old version is in the new one; None where it was removed."""
    pattern = entry_of(table, key)
    if pattern is None:
        return key
    new = table[pattern]
    if new is None:
        return None
    stars = iter(fits(pattern, key) or [])
    parts = [next(stars) if part == "*" else part for part in new.split(".")]
    return (*parts, *key[len(pattern.split(".")) :])


def equal(old: Any, new: Any) -> bool:
    """Numbers to the tolerance, everything else exactly; true is not 1."""
    if isinstance(old, bool) or isinstance(new, bool):
        return old is new
    if isinstance(old, (int, float)) and isinstance(new, (int, float)):
        return abs(old - new) <= TOLERANCE * max(1.0, abs(old))
    return type(old) is type(new) and old == new


def differences(old: Any, new: Any, table: dict[str, Any]) -> tuple[list[str], list[str], int]:
    """Lines of what differs without a reason, lines of what was corrected, number of new keys."""
    before, after = (
        {key: value for key, value in flat(summary) if not _ignored(key)} for summary in (old, new)
    )
    unexplained, corrected = [], []
    targets: set[Key] = set()
    for key, value in before.items():
        to = renamed(table["renamed"], key)
        if to is None:
            continue
        if to in targets:
            unexplained.append(f"{'.'.join(key)}: its new key is that of another number")
        targets.add(to)
        if to in after and equal(value, after[to]):
            continue
        found = json.dumps(after[to], ensure_ascii=False) if to in after else "missing"
        line = f"{'.'.join(key)}: {json.dumps(value, ensure_ascii=False)} -> {found}"
        reason = entry_of(table["corrected"], key)
        if reason is None:
            unexplained.append(line)
        else:
            corrected.append(f"{line} ({table['corrected'][reason]})")
    return unexplained, corrected, len(after.keys() - targets)


def _ignored(key: Key) -> bool:
    return any(fits(pattern, key) is not None for pattern in IGNORED)


def check(old: Path, new: Path) -> int:
    """Print every difference; the number of those without a reason."""
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    count = 0
    files = sorted(file.relative_to(old) for file in old.rglob("*.json"))
    if not files:
        sys.exit(f"{old} holds no summaries.")
    for name in files:
        if not (new / name).is_file():
            print(f"{name}: missing")
            count += 1
            continue
        before, after = (json.loads((at / name).read_text(encoding="utf-8")) for at in (old, new))
        unexplained, corrected, added = differences(before, after, table)
        for line in unexplained:
            print(f"{name}  {line}")
        for line in corrected:
            print(f"{name}  corrected  {line}")
        print(
            f"{name}: {len(unexplained)} differ, {len(corrected)} corrected, {added} keys are new"
        )
        count += len(unexplained)
    return count


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("make").add_argument("folder", type=Path)
    asked = commands.add_parser("check")
    asked.add_argument("old", type=Path)
    asked.add_argument("new", type=Path)
    options = parser.parse_args()
    if options.command == "make":
        make(options.folder)
    else:
        sys.exit(1 if check(options.old, options.new) else 0)


if __name__ == "__main__":
    main()
