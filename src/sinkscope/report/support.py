"""The support matrix as rows, for the terminal and for the docs."""

from __future__ import annotations

from typing import Any

from sinkscope.observe.matrix import verified

COLUMNS = (
    ("family", "model_type of the configuration"),
    ("reader", "what reads its attention"),
    ("exact", "logits of the exact reader equal the untouched model's, bit for bit"),
    ("lean", "lean equals exact, 1e-5 absolute in fp32"),
    ("bf16", "lean in bf16 equals fp32 arithmetic on the same queries and keys, 5e-3"),
    ("left pad", "lean equals exact under left padding"),
    ("packing", "lean equals exact on packed rows"),
    ("residual", "x_in + contributions = x_out in every block"),
    ("P0", "P0 is a function of one token: stream and one-entry cache, 1e-4"),
    ("why not", "the first reason, where something was not verified"),
)
REASONS = (  # the first that is given stands in the table
    *("built", "causal", "read", "exact", "lean", "residual", "p0_stream", "packing"),
    *("left_padding", "lean_bf16"),
)
_KEYS = ("exact", "lean", "lean_bf16", "left_padding", "packing", "residual", "p0")


def support_rows(matrix: dict[str, Any]) -> list[list[str]]:
    """One row of strings for each type, in the order of COLUMNS."""
    rows = []
    for name, row in sorted(matrix["types"].items()):
        marks = verified(row)
        shown = ("yes" if marks[key] else "no" for key in _KEYS)
        rows.append([name, _reader(row), *shown, _reason(row, marks)])
    return rows


def support_lines(matrix: dict[str, Any]) -> list[str]:
    """The matrix for a terminal: whole families by reader, then a line for each of the others."""
    whole: dict[str, list[str]] = {}
    lacking: list[str] = []
    for name, row in sorted(matrix["types"].items()):
        marks = verified(row)
        lacks = [label for (label, _), key in zip(COLUMNS[2:9], _KEYS) if not marks[key]]
        if not lacks:
            whole.setdefault(_reader(row), []).append(name)
        elif len(lacks) == len(_KEYS):
            lacking.append(f"  {name}: nothing; {_reason(row, marks) or 'no reason given'}")
        else:
            lacking.append(f"  {name}: not {', '.join(lacks)}; {_reason(row, marks)}".rstrip("; "))
    lines = [
        f"Checked {matrix['date']} with transformers {matrix['transformers']}, torch "
        f"{matrix['torch']}: {support_totals(matrix)}."
    ]
    for reader, names in whole.items():
        lines += [f"All of it verified, read by {reader} ({len(names)}):", f"  {', '.join(names)}"]
    return lines + ([f"Not all of it ({len(lacking)}):"] if lacking else []) + lacking


def support_totals(matrix: dict[str, Any]) -> str:
    """How many types each property was verified for."""
    marks = [verified(row) for row in matrix["types"].values()]
    counts = ", ".join(
        f"{label} {sum(mark[key] for mark in marks)}"
        for (label, _), key in zip(COLUMNS[2:9], _KEYS, strict=True)
    )
    return f"{len(marks)} types: {counts}"


def _reader(row: dict[str, Any]) -> str:
    if not row.get("read"):
        return "refused"
    kinds = {reader.split(" (")[0] for reader in row.get("readers", [])}
    return " + ".join(sorted(kinds)) or "exact"


def _reason(row: dict[str, Any], marks: dict[str, bool]) -> str:
    if row.get("built") and row.get("causal", 1.0) > 1e-4 and "causal" in row:
        return f"not causal: an earlier logit moves by {row['causal']:.1g}"
    reasons = row.get("reasons", {})
    for key in REASONS:
        if key in reasons:
            return reasons[key]
    errors = [
        f"{key} {row[key]:.1e}"
        for key in ("lean", "lean_bf16", "p0_stream", "p0_logits")
        if key in row and not marks.get(key.split("_")[0] if key[0] == "p" else key, True)
    ]
    return ", ".join(errors)
