"""What a verification leaves behind: the summary with its evidence table, and the arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sinkscope.causal import thresholds
from sinkscope.causal.evidence import NECESSITY, Test
from sinkscope.causal.families.faithfulness import Kept
from sinkscope.causal.families.kept_sets import SizeScore
from sinkscope.causal.families.mediation import mediated
from sinkscope.causal.power import SHOWN, UNDETERMINED
from sinkscope.causal.record import Verified
from sinkscope.circuit.unit import name_of
from sinkscope.frame import few_documents, opening_notes
from sinkscope.result import Measured
from sinkscope.schema import StageSummary, TestRow, VerifySummary
from sinkscope.schema.base import bounds_of
from sinkscope.schema.verify import CircuitCurve, CircuitSize, TriedSet
from sinkscope.stats import Draw, nan_mean, spearman

if TYPE_CHECKING:
    import xarray


# stage -> name, ids of necessity tests, ids of sufficiency tests, ids whose doses count
STAGES = {
    1: ("recognition", ("N1", "N2"), ("S1", "S2"), "N2"),
    2: ("amplification", ("N3", "N3s", "N4"), (), "N4"),
    3: ("induction", ("N5",), ("S3",), ""),
}


def verify_summary(done: Verified) -> VerifySummary:
    """Reduce one verification to its summary."""
    kept, verdict = done.kept, done.verdict
    rows = [_row(test) for test in done.tests]
    if kept is not None:
        rows += _kept_rows(kept)
    return VerifySummary(
        verdict=verdict.verdict,
        verdict_detail={**verdict.detail, "because": verdict.because},
        missing=verdict.missing,
        stages=_stages(done),
        tests=rows,
        faithfulness=None if kept is None else kept.faithfulness,
        completeness=None if kept is None else kept.completeness,
        circuit_size={} if kept is None else _circuit_size(kept),
        circuit_curve={} if kept is None else _curve(kept),
        circuit_growth=[] if kept is None else [_size(size, kept.total) for size in kept.sizes],
        phase_needs=done.needs,
        thresholds=bounds_of(vars(thresholds)),
        what_would_change_it=verdict.what_would_change_it,
        cost={"passes": round(done.passes, 2), "suffix_passes": done.engine.suffix},
        notes=_notes(done),
    )


def _notes(done: Verified) -> list[str]:
    notes = opening_notes(done.engine.subject, done.prompts)
    notes += list(dict.fromkeys(done.notes))
    if done.circuit.sinks:
        sink = done.engine.intact.on(done.circuit.reading_heads)
        notes += few_documents(sink, done.prompts.units)
    if not done.engine.suffix:
        notes.append("Blocks could not be skipped in this family, so every edited pass was whole.")
    return notes


def _row(test: Test) -> TestRow:
    held = {name: getattr(test, name) for name in TestRow.model_fields if hasattr(test, name)}
    return TestRow(**held, **test.extra, edit_json=[edit.to_json() for edit in test.edits])


def _circuit_size(kept: Kept) -> CircuitSize:
    return {
        "components": kept.components,
        "share": kept.share,
        "of": kept.total,
        "traced": kept.traced,
        "faithful": kept.faithful,
        "needed": kept.needed,
    }


def _curve(kept: Kept) -> CircuitCurve:
    key = kept.key or (None, None)
    return {
        "path": "total" if kept.key is None else "key",
        "ranking": kept.ranking,
        "cpr": kept.cpr,
        "cmd": kept.cmd,
        "faithfulness": key[0],
        "completeness": key[1],
        "random": kept.random,
    }


def _size(size: SizeScore, total: int) -> TriedSet:
    return {
        "components": size.components,
        "share": size.components / total,
        "faithfulness": size.faithfulness,
        "completeness": size.completeness,
    }


def _kept_rows(kept: Kept) -> list[TestRow]:
    """S4 as two rows; their change is what of the sink is kept, less one."""

    def change(part: Measured | None) -> Measured | None:
        if part is None or part.value is None:
            return part
        ends = [None if end is None else end - 1 for end in (part.low, part.high)]
        return Measured(value=part.value - 1, low=ends[0], high=ends[1])

    draws = 0 if kept.draws is None else len(kept.draws)
    names = (
        f"keep only the {kept.components} units of the circuit at position 0, all else the mean",
        f"mean-ablate the {kept.components} units of the circuit at position 0, all else intact",
    )
    only, without = (
        TestRow(
            id="S4",
            edit=name,
            arrow="stage 2 -> stage 4",
            position=0,
            sink_change=change(part),
            edit_json=[edit.to_json() for edit in edits],
            kind="sufficiency",
        )
        for name, part, edits in zip(names, (kept.faithfulness, kept.completeness), kept.edits)
    )
    only.control = "a random set of as many units"
    only.control_change = change(kept.random_one)
    only.note = f"p: against {draws} random sets"
    only.p, only.passed = kept.p, kept.enough
    return [only, without]


def _stages(done: Verified) -> list[StageSummary]:
    if not done.tests:
        return []
    stages = []
    for number, (name, needed, enough, dosed) in STAGES.items():
        taken = [t for t in done.tests if t.id in needed and t.claim]
        given = [t for t in done.tests if t.id in enough and t.claim]
        least = min(taken, key=lambda t: (not t.passed, t.size), default=None)
        most = max(given, key=lambda t: (bool(t.passed), t.size), default=None)
        passed = [t.passed for t in (least, most) if t is not None]
        stages.append(
            StageSummary(
                stage=number,
                name=name,
                passed=_all(passed),
                outcome=_outcome(passed),
                necessity=None if least is None else least.key_change or least.sink_change,
                total=None if least is None else least.sink_change,
                sufficiency=_sufficiency(done, number, most),
                specificity=None if least is None else least.specificity,
                sufficiency_specificity=None if most is None else most.specificity,
                dose=_dose([t for t in done.tests if t.id == dosed]),
                mediation=mediated(done.tests, f"stage {number}"),
                edits=[test.edit for test in (least, most) if test is not None],
            )
        )
    share = Draw(done.prompts.units).mean(done.engine.intact.on(done.circuit.reading_heads))
    stages.append(
        StageSummary(
            stage=4, name="sink", passed=True, outcome=SHOWN, reading_heads_late_share=share
        )
    )
    return stages


def _all(passed: list[bool | None]) -> bool | None:
    """False where one does not hold; None where one is undetermined, or there is none."""
    return False if False in passed else None if None in passed or not passed else True


def _outcome(passed: list[bool | None]) -> str:
    if not passed:
        return "not tested"
    return {True: SHOWN, False: "not shown", None: UNDETERMINED}[_all(passed)]


def _sufficiency(done: Verified, stage: int, most: Test | None) -> Measured | None:
    """Nats of margin; for amplification what the circuit alone keeps of the sink."""
    if stage == 2:
        return None if done.kept is None else done.kept.faithfulness
    return None if most is None else most.margin_change


def _dose(tests: list[Test]) -> float | None:
    """Rank correlation of dose and size of effect, no dose and no effect counted in."""
    rows = [t for t in tests if t.dose is not None]
    doses = [0.0, *(t.dose for t in rows if t.dose is not None)]
    return spearman(doses, [0.0, *(abs(t.size) for t in rows)])


def verify_dataset(done: Verified) -> xarray.Dataset:
    """Effects per test and prompt, by block, and of every random draw."""
    import xarray

    data: dict[str, Any] = {}

    def add(name: str, dims: tuple[str, ...], values: Any, long_name: str, units: str = "1"):
        attributes = {"long_name": long_name, "units": units}
        data[name] = xarray.Variable(dims, np.asarray(values), attributes)

    intact = done.engine.intact
    heads = done.circuit.reading_heads
    add("p0_norm", ("sequence", "point"), intact.norm[:, 0], "norm of P0 over the median of others")
    add("late", ("sequence", "layer", "head"), intact.share[:, 0], "late share of P0, intact")
    if heads:
        add("sink", ("sequence",), intact.on(heads), "late share of P0 on the reading heads")
    tests = done.tests
    if tests:
        missing = np.full(len(done.prompts), np.nan)
        controls = [missing if t.control_effect is None else t.control_effect for t in tests]
        effect = (
            "relative change of the sink (N: through P0's key; I), or part of the margin's gap "
            "gained (S)"
        )
        add("effect", ("test", "sequence"), np.stack([t.effect for t in tests]), effect)
        add("control_effect", ("test", "sequence"), np.stack(controls), f"control: {effect}")
        doses = [np.nan if t.dose is None else t.dose for t in tests]
        add("dose", ("test",), doses, "dose of the edit")
        if all(t.by_head is not None for t in tests):
            each = np.stack([nan_mean(t.by_head) for t in tests if t.by_head is not None])
            add("effect_by_head", ("test", "sink_head"), each, f"in each sink head: {effect}")
        data["test_id"] = xarray.Variable(("test",), np.array([t.id for t in tests], dtype=object))
        for id, name in (("N1", "attention"), ("N3", "mlp")):
            add(f"{name}_necessity", ("layer",), _by_block(done, id), f"{id}: effect by block")
    for name, draws in (("n4_draws", _draws(tests)), ("s4_draws", done.kept and done.kept.draws)):
        if draws is not None:
            add(name, (name.removesuffix("s"),), draws, "sink kept or changed by each random set")
    if done.kept is not None:
        data |= _circuit_arrays(done, done.kept)
    return xarray.Dataset(data)


def _circuit_arrays(done: Verified, kept: Kept) -> dict[str, Any]:
    """The units that were scored or kept, and what else circuit.json needs."""
    circuit = done.circuit
    units = kept.units | kept.others
    scores = [np.nan if score is None else score for score in units.values()]
    names = np.array([name_of(unit) for unit in units], dtype=object)
    arrays = {
        "unit": ("unit", names, {"long_name": "head or neuron"}),
        "unit_score": ("unit", scores, {"long_name": "score through P0's key", "units": "nat"}),
        "unit_kept": (
            "unit",
            [unit in kept.units for unit in units],
            {"long_name": "whether the circuit keeps it"},
        ),
        "sink_head": (
            ("sink_head", "place"),
            np.array(circuit.reading_heads),
            {"long_name": "block and head of each sink head"},
        ),
        "read_point": ((), circuit.read_point, {"long_name": "block at whose input u was taken"}),
        "parallel": (
            (),
            not all(circuit.sites.mid),
            {"long_name": "whether attention and MLP read the same input"},
        ),
    }
    if circuit.direction is not None:
        arrays["sink_direction"] = (
            "channel",
            circuit.direction.numpy(),
            {"long_name": "sink direction u, unit length"},
        )
    return arrays


def _by_block(done: Verified, id: str) -> np.ndarray:
    """Effect of the first row of each block; NaN where none was run."""
    found = np.full(done.engine.depth, np.nan)
    for test in done.tests:
        if test.id == id and test.kind == NECESSITY and test.block is not None:
            found[test.block] = test.size if np.isnan(found[test.block]) else found[test.block]
    return found


def _draws(tests: list[Test]) -> np.ndarray | None:
    return next((t.draws for t in tests if t.id == "N4" and t.draws is not None), None)
