"""Codes and edits of the causal tests in the field's words, for tables and pages."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from sinkscope.report.text import ranges, visible

NAMES = {
    "N1": "attention output of P0 resampled",
    "N2": "variance of P0's attention output reduced",
    "N3": "MLP output at P0 ablated",
    "N3s": "MLP outputs at P0 ablated together",
    "N4": "writing neurons ablated",
    "N5": "direction or norm of P0's stream replaced",
    "N6": "writes of P0 ablated once other causes are gone",
    "S1": "self-only attention at another position",
    "S2": "P0's variance given to another position",
    "S3": "P0's key, value or stream patched into another position",
    "S4": "circuit alone kept (faithfulness), all but it kept (completeness)",
    "I1": "other tokens at P0",
    "I2": "other position ids",
    "I3": "another token and another position id at P0",
    "M1": "next stage frozen (path patching)",
}


def name_of(id: str) -> str:
    """A code with its name: N1 attention output of P0 resampled."""
    return f"{visible(id)} {NAMES[id]}" if id in NAMES else visible(id)


def with_names(sentence: str) -> str:
    """A sentence that begins with a code, with the name of the code."""
    code, colon, rest = sentence.partition(":")
    return f"{name_of(code)}{colon}{rest}" if colon and code in NAMES else sentence


def edit_parts(edit: str) -> list[str]:
    """The parts of an edit; those that differ in their block alone are one, over its blocks."""
    blocks: dict[str, list[int]] = {}
    for each in edit.split("; "):
        found = re.findall(r"\bblock (\d+)", each)
        form = re.sub(r"\bblock \d+", "block \0", each) if len(found) == 1 else each
        blocks.setdefault(form, []).extend(map(int, found[:1] if form != each else []))
    return [
        form.replace("block \0", f"block{'s' if len(set(at)) > 1 else ''} {ranges(at)}")
        for form, at in blocks.items()
    ]


def edit_words(edit: str) -> str:
    """An edit as one line."""
    return visible("; ".join(edit_parts(edit)))


def short_edit(edit: str, limit: int = 160) -> str:
    """An edit as one short line: of several parts the first, and how many more there are."""
    first, *more = edit_parts(edit)
    return visible(first, limit) + (f" (and {len(more)} more)" if more else "")


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
