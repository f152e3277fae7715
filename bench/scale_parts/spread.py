"""Two processes of one model, by transformers' own plan, against one process."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from argparse import Namespace
from typing import Any

from scale_parts.common import floor

FEW = ["--n", "4", "--length", "32", "--prompts", "random", "--quiet"]
COMMANDS = {"scan": [], "trace": [], "verify": ["--rows", "4", "--draws", "2"]}


BUILD = ["sinkscope", "lab", "build", "--mechanism", "p0-two-block", "--seed", "7", "--out"]
ILL = ("cone_r2",)  # over a variance of 1e-6 where heads attend to P0 alone (docs/scale.md)


def measure(options: Namespace) -> dict[str, Any]:
    """Largest difference of any array, over the array's largest value."""
    from sinkscope.result import load_result

    with tempfile.TemporaryDirectory() as place:
        folder = f"{place}/model"
        python(*BUILD, folder)
        rows = []
        for name, more in COMMANDS.items():
            rest = ["sinkscope", name, folder, *FEW, *more, "--out"]
            python(*rest, f"{place}/one-{name}")
            several = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--"]
            python(*several, *rest, f"{place}/two-{name}", "--tensor-parallel")
            one, two = (load_result(f"{place}/{how}-{name}") for how in ("one", "two"))
            rows += differences(one, two)
    worst = max((row for row in rows if row[1] not in ILL), default=(0.0, ""))
    return {
        "arrays": len(rows),
        "largest_in": worst[1],
        "left_out": {name: value for value, name in rows if name in ILL},
        "floors": [floor("largest difference over the largest value", worst[0], 1e-5)],
    }


def python(*arguments: str) -> None:
    """A module of Python, run with these arguments."""
    subprocess.run([sys.executable, "-m", *arguments], check=True, stdout=sys.stderr)


def differences(one: Any, two: Any) -> list[tuple[float, str]]:
    """For every array of floats the largest difference, over its largest value or one."""
    import numpy as np

    rows = []
    for path in one.data.groups:
        for name, values in one.data[path].data_vars.items():
            first, second = values.values, two.data[path][name].values
            if first.dtype.kind == "f" and np.isfinite(first).any():
                scale = max(1.0, float(np.nanmax(np.abs(first))))
                rows.append((float(np.nanmax(np.abs(first - second))) / scale, str(name)))
    return rows
