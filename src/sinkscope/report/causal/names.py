"""The codes of the causal tests in the field's words, for tables and pages."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from sinkscope.report.text import visible

NAMES = {
    "N1": "attention output of P0 resampled",
    "N2": "variance of P0’s attention output reduced",
    "N3": "MLP output at P0 ablated",
    "N3s": "MLP outputs at P0 ablated together",
    "N4": "writing neurons ablated",
    "N5": "direction or norm of P0’s stream replaced",
    "N6": "writes of P0 ablated once other causes are gone",
    "S1": "self-only attention at another position",
    "S2": "P0’s variance given to another position",
    "S3": "P0’s key, value or stream patched into another position",
    "S4": "circuit alone kept (faithfulness), all but it kept (completeness)",
    "I1": "other tokens at P0",
    "I2": "other position ids",
    "I3": "another token and another position id at P0",
    "M1": "next stage frozen (path patching)",
}


def name_of(id: str) -> str:
    """A code with its name: N1 attention output of P0 resampled."""
    return f"{visible(id)} {NAMES[id]}" if id in NAMES else visible(id)


def under_names(
    tests: Iterable[Any], cells: Callable[[Any], list[str]], columns: int
) -> list[list[str]]:
    """Rows of tests or folds, code first; each code is named once, in a row above its own."""
    rows: list[list[str]] = []
    named: set[str] = set()
    for test in tests:
        if test.id not in named and test.id in NAMES:
            rows.append([visible(test.id), NAMES[test.id].upper()[:1] + NAMES[test.id][1:]])
            rows[-1] += [""] * (columns - 2)
        named.add(test.id)
        rows.append([visible(test.id), *cells(test)])
    return rows
