"""What the causal tests showed: edits beside controls, doses, blocks, and every number."""

from __future__ import annotations

from functools import partial

from sinkscope.report.causal import tables as causal_tables
from sinkscope.report.causal.charts import (
    blocks_chart,
    dose_chart,
    growth_chart,
    kept_chart,
    margin_changes,
    mediated,
    paired_chart,
    sink_changes,
)
from sinkscope.report.causal.conclusions import deciding, edits_said, shown_by
from sinkscope.report.causal.names import name_of
from sinkscope.report.charts import Chart
from sinkscope.report.parts import Plot, Section, concluded, plots
from sinkscope.report.parts import tables as tables_of
from sinkscope.result import Result, TestRow, VerifySummary

SINK, MARGIN = (
    "Change of the sink (late share, of P0's edits through its key)",
    "Change of the sink margin (nats)",
)
MORE_TABLES = (causal_tables.aftermath_table, causal_tables.thresholds_table)
DOSES = {
    "N2": "Part of the way to the others' variance",
    "N4": "Neurons ablated, strongest first",
    "N3s": "MLP outputs ablated",
    "S1": "Blocks in which it attends only to itself, from block 0",
    "S2": "Part of the way to P0's variance",
}


def sections(result: Result) -> list[Section]:
    """Necessity, sufficiency and all tests; none where nothing was tested."""
    verified = result.summary.verify
    if not any(one.tests for one in verified.values()):
        return []
    planned = [
        Section(
            "necessity",
            "Is it needed",
            "A part of the circuit is ablated at position zero. −100\u00a0% means that the "
            "sink is gone, through position zero's key with all else held; what an edit changes "
            "through the other positions stands in the table of all tests. Each edit stands beside "
            "its control, which should do nothing; lines are 95\u00a0% intervals over prompts.",
            [*plots(verified, *NECESSITY, *_doses("necessity"))],
            concluded(partial(shown_by, kind="necessity"), verified),
        ),
        Section(
            "sufficiency",
            "Is it enough",
            "A part of the circuit is patched into another position, which should become a sink: "
            "shown is what its sink margin (the log-odds of attending to it) gains with position "
            "zero left out of the keys. Or everything but the circuit is mean-ablated (S4), which "
            "should leave at least half of the sink.",
            [*plots(verified, *SUFFICIENCY, *_doses("sufficiency"))],
            concluded(partial(shown_by, kind="sufficiency"), verified),
        ),
        Section(
            "identity",
            "Is it the place, or what stands there",
            "A P0 circuit needs neither a certain token nor a certain position id at position "
            "zero, only the mask. And its stages follow from each other: where the next stage is "
            "frozen as it was (path patching), the effect of an edit before it is undone.",
            [*plots(verified, *IDENTITY)],
            concluded(partial(shown_by, kind="identity"), verified),
        ),
        Section(
            "tests",
            "Every test",
            "Screened rows were run through position zero's key alone, and do not decide; the "
            "others were run in full. Rows in brackets show a dose or a variant and do not decide. "
            "CE and KL are nats a token on the same text. Mass moved to: the position that gained "
            "most.",
            [
                *tables_of(verified, lambda one: [causal_tables.effects_table(one)], stacked=True),
                *tables_of(
                    verified,
                    lambda one: [make(one) for make in MORE_TABLES],
                    stacked=True,
                    folded=True,
                ),
            ],
            concluded(edits_said, verified),
        ),
    ]
    return planned


def _necessity_tests(one: VerifySummary) -> Chart | None:
    return paired_chart(deciding(one, "necessity"), sink_changes, SINK, percent=True)


def _sufficiency_tests(one: VerifySummary) -> Chart | None:
    return paired_chart(deciding(one, "sufficiency"), margin_changes, MARGIN, percent=False)


def _identity_tests(one: VerifySummary) -> Chart | None:
    tests = [test for test in one.tests if test.kind == "identity"]
    return paired_chart(tests, sink_changes, SINK, percent=True)


def _mediation_tests(one: VerifySummary) -> Chart | None:
    title = "Part of the effect that passes through the next stage"
    tests = [test for test in one.tests if test.kind == "mediation"]
    return paired_chart(tests, mediated, title, percent=True)


NECESSITY = (
    Plot(
        "necessity-tests",
        "Ablations",
        "The deciding row of every necessity test. A test holds where the edit removes at "
        "least half of the sink, significantly more than its control.",
        _necessity_tests,
        wide=True,
    ),
    Plot(
        "necessity-blocks",
        "Block by block",
        "Position zero's attention output (resampled from another position) or MLP output "
        "(mean of the others) ablated in one block at a time.",
        lambda one: blocks_chart(one.tests),
        wide=True,
    ),
)
SUFFICIENCY = (
    Plot(
        "sufficiency-tests",
        "Patches into another position",
        "The deciding row of every sufficiency test. A test holds where the position gains enough "
        "(see the bounds below), significantly more than under its control.",
        _sufficiency_tests,
        wide=True,
    ),
    Plot(
        "kept",
        "What the circuit alone keeps",
        "Only these units write at position zero as they did, everything else there is its "
        "mean (faithfulness); random sets of as many units; all but the circuit (completeness).",
        lambda one: kept_chart(one.tests),
        wide=True,
    ),
    Plot(
        "kept-growth",
        "How many units it takes",
        "The traced units first, then those that do most through position zero's key, at the sizes "
        "of the MIB benchmark and between them. Reported is the smallest set that is faithful and "
        "complete here (see the bounds below), made larger where it is not in full passes, in "
        "which what the other heads and neurons do differs too. CPR is the area under the curve of "
        "the circuit alone over the part of all units from 0.1\u00a0% on, CMD the area between it "
        "and 1. A curve at 1 has 0.999 and 0; small sets weigh by the part of all units that they "
        "span, next to nothing, so read those off the curve.",
        growth_chart,
        wide=True,
    ),
)
IDENTITY = (
    Plot(
        "identity",
        "Other tokens, other position ids",
        "Where other tokens or shifted position ids take the sink away, these carry it. One token "
        "repeated from the start takes a P0 circuit's sink away too: then nothing tells position "
        "zero from the others.",
        _identity_tests,
        wide=True,
    ),
    Plot(
        "mediation",
        "Does the effect pass through the next stage",
        "The first edit breaks a stage; the second freezes the next one as it was, and the sink "
        "comes back by this much. The control freezes another position.",
        _mediation_tests,
        wide=True,
    ),
)


def _doses(kind: str) -> list[Plot]:
    both, title = (sink_changes, SINK) if kind == "necessity" else (margin_changes, MARGIN)
    caption = "More of the edit should do more; its control should not."
    return [
        Plot(
            f"dose-{id.lower()}",
            name_of(id),
            caption,
            lambda one, id=id, dose=dose: dose_chart(
                _of(one, id, kind), both, dose, title, kind == "necessity"
            ),
        )
        for id, dose in DOSES.items()
    ]


def _of(verified: VerifySummary, id: str, kind: str) -> list[TestRow]:
    return [
        test
        for test in verified.tests
        if test.id == id and test.kind == kind and test.dose is not None
    ]


def main_chart(result: Result, bos: str) -> Chart | None:
    """Ablations, beside their controls."""
    return _necessity_tests(result.summary.verify[bos])
