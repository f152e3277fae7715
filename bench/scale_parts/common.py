"""What the parts share: the machine, peak memory, floors."""

from __future__ import annotations

import importlib
import os
import platform
import re
from pathlib import Path
from typing import Any


def part(name: str) -> Any:
    """The module of a part."""
    return importlib.import_module(f"scale_parts.{name}")


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    import torch
    import transformers

    import sinkscope

    return {
        "sinkscope": sinkscope.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
    }


def peak_gb() -> float:
    """The most resident memory that this process has had, in GB."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(r"VmHWM:\s+(\d+)", text)
    assert found
    return int(found[1]) * 1024 / 1e9


def floor(what: str, value: float, most: float) -> dict[str, Any]:
    """A measured value beside the most that it may be."""
    return {"what": what, "value": value, "most": most, "held": bool(value <= most)}


def table(found: dict[str, dict[str, Any]]) -> str:
    """Each floor on a line, then what else was measured."""
    lines = []
    for name, content in found.items():
        lines.append(name)
        for each in content.get("floors", []):
            held = "held" if each["held"] else "MISSED"
            lines.append(f"  {each['what']}: {each['value']:.4g}, at most {each['most']:g}: {held}")
        rest = {k: v for k, v in content.items() if k != "floors"}
        lines += [f"  {key}: {value}" for key, value in rest.items()]
    return "\n".join(lines)
