"""Ask the tool as a user does, and keep of its summary what is held against a truth."""

from __future__ import annotations

import re
from typing import Any

import sinkscope
from sinkscope import Subject

N, LENGTH = 24, 64
MOST = 256  # prompts that are still taken
UNDETERMINED = "undetermined"
SAYING = {"missing", "verdict_detail", "what_would_change_it", "notes"}  # where numbers are advised
NUMBER = re.compile(r"take (?:at least )?(?:\d+ documents \(--text\), )?(\d+) prompts")


def ask(subject: Subject, n: int = N, **settings: Any) -> dict[str, Any]:
    """Scan, trace and verify; what was said, as plain values."""
    asked = {"length": LENGTH, "untrained": False} | settings
    summary = sinkscope.run(subject, n=n, **asked).summary
    scan, trace, verify = (
        next(iter(getattr(summary, name).values()), None) for name in ("scan", "trace", "verify")
    )
    words = verify.model_dump_json(include=SAYING) if verify else ""
    return {
        "verdict": verify.verdict if verify else "not tested",
        "take": advised(words),
        "sink": getattr(scan, "sink", None),
        "p0_sink": scan.p0_sink,
        "block": trace.emergence_block if trace else None,
        "neurons": _pairs(trace.writing_neurons) if trace else [],
        "heads": _pairs(trace.reading_heads) if trace else [],
        "recognition": trace.recognition_point if trace else None,
    }


def advised(words: str) -> int | None:
    """The most prompts that these words ask for; None where they ask for none."""
    return max(map(int, NUMBER.findall(words)), default=None)


def ask_as_advised(
    subject: Subject, n: int = N, seed: int = 0, **settings: Any
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """What was said first, and then on as many prompts as were asked for; None where none were."""
    first = ask(subject, n, seed=seed, **settings)
    if first["verdict"] != UNDETERMINED or first["take"] is None:
        return first, None
    return first, ask(subject, min(first["take"], MOST), seed=seed + 1, **settings)


def _pairs(places: list) -> list[list[int]]:
    return sorted([int(place[0]), int(place[1])] for place in places)


def read_point(name: str) -> int:
    """Place of a read point along depth: x0, 0.attention, x1, .."""
    if name.startswith("x"):
        return 2 * int(name[1:])
    return 2 * int(name.split(".")[0]) + 1
