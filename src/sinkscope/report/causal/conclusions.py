"""What each part of the causal tests comes to, in a sentence that follows from its rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from sinkscope.report.causal.names import name_of
from sinkscope.report.text import counted
from sinkscope.result import TestRow, VerifySummary

# what a test shows that holds, and that does not; a test is told by its code, with its name
ASKED = {
    "necessity": ("Needed", "Not shown to be needed"),
    "sufficiency": ("Enough", "Not shown to be enough"),
    "identity": ("The sink hangs on", "It does not hang on"),
}


def deciding(verified: VerifySummary, kind: str) -> list[TestRow]:
    """Rows that decide; of several doses of a test the largest alone."""
    chosen: dict[tuple, TestRow] = {}
    for test in verified.tests:
        if test.claim and test.kind == kind:
            key = (test.id,) if test.dose is not None else (test.id, test.edit)
            if key not in chosen or (test.dose or 0) >= (chosen[key].dose or 0):
                chosen[key] = test
    return list(chosen.values())


def shown_by(verified: VerifySummary, kind: str) -> str:
    """Which tests of a kind hold in one of their deciding rows, which do not, which are open."""
    rows = [test for test in deciding(verified, kind) if test.confirmed]
    holds, fails = ASKED[kind]
    held = _codes(rows, lambda test: test.passed is True)
    open_ = _codes(rows, lambda test: test.outcome == "undetermined", held)
    others = _codes(rows, lambda test: test.passed is False, [*held, *open_])
    told = [(holds, held), (fails, others), ("Undetermined", open_)]
    said = [f"{what}: {', '.join(map(name_of, codes))}" for what, codes in told if codes]
    return f"{'. '.join(said)}." if said else "No row decides."


def _codes(
    rows: Iterable[TestRow], chosen: Callable[[TestRow], bool], without: Sequence[str] = ()
) -> list[str]:
    found = dict.fromkeys(test.id for test in rows if chosen(test))
    return [code for code in found if code not in without]


def edits_said(verified: VerifySummary) -> str:
    """How many edits were run in full, how many were only screened, and how many decide."""
    tests = verified.tests
    full = [test for test in tests if test.confirmed]
    decide = [test for test in full if test.claim and test.passed is not None]
    return (
        f"{counted(len(tests), 'edit')}: {len(full)} run in full, {len(tests) - len(full)} "
        f"screened through position zero's key alone; {len(decide)} of them decide."
    )
