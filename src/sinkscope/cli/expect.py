"""`--expect`: what a result is held against, with exit code 1 where it turns out otherwise."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import typer

from sinkscope.errors import InputError

if TYPE_CHECKING:
    from sinkscope.result import Result
    from sinkscope.schema.sweep import SweepRow

SINK = ("sink", "no-sink")  # what a scan can be held against
VERDICTS = (  # what verify can be held against; the classes are those of causal/verdict.py
    *("p0-circuit", "bos-token", "position-embedding", "learned-sink", "query-bias"),
    *("rotary-distance", "other", "none", "undetermined"),
)
WHOLE = ("none", "undetermined")  # the others may be joined: p0-circuit+bos-token
FIGURES = ("late-share", "heads")  # what a scan gives as a number: columns of `sinkscope index`


def refuse_unknown(expect: str | None, known: tuple[str, ...]) -> None:
    """Refuse what cannot be expected, before any work is done.

    known  words, and FIGURES where they are measured, which are compared: late-share<0.3
    """
    if expect is None:
        return
    if _is_comparison(expect) and set(FIGURES) <= set(known):
        _comparison(expect)
        return
    parts = set(expect.split("+"))
    if not parts <= set(known) - set(FIGURES) or (len(parts) > 1 and parts & {*SINK, *WHOLE}):
        can_be = [f"{name}<NUMBER" if name in FIGURES else name for name in known]
        raise InputError(f"--expect {expect!r} is not one of {', '.join(can_be)}.")


def exit_on_expect(result: Result, expect: str | None) -> None:
    """Exit with 1 where a BOS policy does not show what was expected."""
    if expect is None:
        return
    if _is_comparison(expect):
        wrong, shown = _figures(result, expect)
    else:
        shown = _words(result, by_scan=expect in SINK)
        due = {*expect.split("+")}
        wrong = {bos: what for bos, what in shown.items() if {*what.split("+")} != due}
    if wrong or not shown:
        found = ", ".join(f"{what} ({bos} BOS)" for bos, what in wrong.items()) or "no verdict"
        print(f"sinkscope: expected {expect}, found {found}.", file=sys.stderr)
        raise typer.Exit(1)


def _is_comparison(expect: str) -> bool:
    return any(sign in expect for sign in "<>=")


def _comparison(expect: str) -> Callable[[SweepRow], bool]:
    """Whether a row meets it. Raises InputError for one that cannot be one."""
    from sinkscope.model_runs.index import condition
    from sinkscope.report.sweep.columns import COLUMNS

    return condition(expect, {one.name: one for one in COLUMNS if one.name in FIGURES}, "--expect")


def _figures(result: Result, expect: str) -> tuple[dict[str, str], dict[str, str]]:
    """BOS policy -> the figure: where the comparison does not hold, and everywhere."""
    from sinkscope.model_runs.rows import rows_of
    from sinkscope.report.sweep.columns import COLUMNS

    holds, rows = _comparison(expect), rows_of(result, "")
    column = next(one for one in COLUMNS if expect.strip().startswith(one.name))
    shown = {row.bos: column.text(row) for row in rows}
    return {row.bos: shown[row.bos] for row in rows if not holds(row)}, shown


def _words(result: Result, by_scan: bool) -> dict[str, str]:
    """BOS policy -> sink or no-sink by the scan, or the verdict."""
    summary = result.summary
    if by_scan:
        said = {True: SINK[0], False: SINK[1], None: "undecided"}
        return {bos: said[one.p0_sink] for bos, one in summary.scan.items()}
    # a policy that was scanned but could not be verified has no verdict
    unverified = dict.fromkeys(summary.scan, "no verdict")
    return unverified | {bos: one.verdict for bos, one in summary.verify.items()}
