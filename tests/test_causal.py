"""Constructed models: the verdict is the one that was built in, and controls do nothing."""

from __future__ import annotations

import dataclasses
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import sinkscope
from sinkscope import pace
from sinkscope.causal.evidence import SUFFICIENCY, Test, judge, p_values
from sinkscope.causal.families.faithfulness import keep_circuit, traced_units
from sinkscope.causal.families.necessity import mlp_writes, neurons, ranked_neurons, recognition
from sinkscope.causal.families.sufficiency import self_only
from sinkscope.causal.families.write_sets import write_sets
from sinkscope.causal.p0_verdict import in_whole, with_p0_sink
from sinkscope.causal.power import LEAST, outcome, prompts_for, prompts_to_settle, smallest_p
from sinkscope.causal.sink_heads import SinkHeads
from sinkscope.causal.summary import verify_dataset, verify_summary
from sinkscope.causal.testing import CausalBench
from sinkscope.causal.thresholds import ALPHA, NEGLIGIBLE, REASONS
from sinkscope.causal.verdict import VERDICTS, Verdict
from sinkscope.causal.verify import FEW, VerifySettings, run_tests, verify, verify_one
from sinkscope.causal.words import other_paths
from sinkscope.circuit.find import find_circuit
from sinkscope.circuit.unit import NEURON, Unit
from sinkscope.errors import InputError, Missing, Unsupported
from sinkscope.intervene.edits import KeepUnits, from_json
from sinkscope.intervene.engine import Engine
from sinkscope.intervene.readout import over_heads
from sinkscope.known.constructed.build import build_in_memory
from sinkscope.known.constructed.spec import MECHANISMS, draw_spec
from sinkscope.known.measure import plain_rows
from sinkscope.observe.parity import token_prompts
from sinkscope.result import Measured
from sinkscope.schema import VerifySummary
from sinkscope.stats import sign_flip_p
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import build_prompts
from sinkscope.subject.tiny import tiny_model

SMALL = VerifySettings(rows=8, draws=4)
CHEAP = {"p0-split": "gpt2", "p0-deeper": "gpt2", "bos-token": "gpt2"}  # and llama for the rest


@cache
def constructed(mechanism: str, bos: str = "without", **fields):
    family = CHEAP.get(mechanism, MECHANISMS[mechanism][0])
    spec = draw_spec(mechanism, 7, family=family, noise=0.05, **fields)
    model, tokenizer, truth = build_in_memory(spec)
    subject = Subject.from_model(model, tokenizer, mechanism)
    n = 48 if mechanism == "p0-part" else 16  # a quarter of them hold its cause
    prompts = build_prompts(subject, n=n, length=64, bos=bos)
    return subject, prompts, find_circuit(subject, prompts, untrained=False), truth


@cache
def verified(mechanism: str, bos: str = "without"):
    subject, prompts, circuit, truth = constructed(mechanism, bos)
    return verify_one(subject, prompts, circuit, SMALL), truth


CASES = [(name, "without") for name in MECHANISMS]
CASES += [(name, "with") for name in ("bos-token", "p0-and-bos", "p0-or-bos", "p0-two-block")]
# Controls that do move the sink, by what was built: how far an unread spike drowns what is read
# depends on the norm alone; any direction taken from a huge P0 disturbs a second recognition.
UNSPECIFIC = {"p0-spike-before": "N2", "p0-head-groups": "N5"}


@pytest.mark.parametrize(("mechanism", "bos"), CASES)
def test_verdict_is_what_was_built(mechanism, bos):
    done, truth = verified(mechanism, bos)
    wanted = truth.verdict_on(bos)
    assert done.verdict.verdict == wanted, done.verdict
    assert set(done.verdict.verdict.split("+")) <= set(VERDICTS)
    assert not done.verdict.missing
    summary = verify_summary(done)
    text = summary.model_dump_json()
    assert VerifySummary.model_validate_json(text).model_dump_json() == text
    assert summary.verdict_detail["because"]
    for test in done.tests:
        if test.claim and UNSPECIFIC.get(mechanism) == test.id:
            assert (test.outcome, test.passed) == ("unspecific", False)
        elif test.claim and test.control_p_holm is not None and test.id != "I1":
            assert test.control_p_holm > ALPHA or test.specificity < 0.5, test.edit
    if wanted == "p0-circuit":
        assert summary.faithfulness.value > 0.9
        assert summary.completeness.value < 0.2
        growth = [size["components"] for size in summary.circuit_growth]
        assert growth == sorted(set(growth))
        assert {summary.circuit_size["traced"], summary.circuit_size["needed"]} <= set(growth)
        assert summary.circuit_size["components"] >= summary.circuit_size["needed"]
        assert summary.circuit_size["share"] < 0.05
        deeper = truth.amplifying_blocks[0] > 1
        assert summary.verdict_detail["blocks"] == ("deeper" if deeper else "two-block")
        assert summary.what_would_change_it


def test_a_position_that_shares_the_sink_is_not_the_ordinary_one():
    """Ids 0 to 7 are marked alike: exchanged with 5, position zero's id changes nothing."""
    subject, prompts, circuit, _ = constructed("position-several", marked=tuple(range(8)))
    assert circuit.positions == tuple(range(8))
    done = verify_one(subject, prompts, circuit, SMALL)
    assert done.verdict.verdict == "position-embedding"
    assert any("position 8 was taken" in note for note in done.notes)


def test_evidence_of_a_two_block_circuit():
    """Every row of a known circuit comes out as the mechanism says."""
    done, truth = verified("p0-two-block")
    rows = {}
    for test in done.tests:
        rows.setdefault(test.id, []).append(test)
    write = truth.amplifying_blocks[0]
    for test in rows["N3"]:
        if test.block in (0, write):
            assert -test.size > 0.9
            if test.confirmed:
                assert test.passed, test.edit
                assert test.prompts == len(done.prompts)
                assert abs(test.others_change.value) < 0.01
            else:  # other ways to take what the mean has taken already
                assert test.edit.startswith(("zero", "resample"))
        else:
            assert not test.passed
            assert abs(test.size) < NEGLIGIBLE
            assert not test.confirmed or test.outcome == "absent"
    assert sum(test.confirmed for test in rows["N3"]) <= 3
    assert any(test.outcome == "absent" for test in rows["N3"])
    for test in done.tests:  # what decides nothing is run on a few prompts, or not in full at all
        idle = test.id.startswith("N") and abs(test.size) < NEGLIGIBLE / 10
        few = test.confirmed and (idle or not test.claim)
        wanted = FEW if few else len(done.prompts) if test.confirmed else 0
        assert test.prompts == wanted, test.edit
    for test in done.tests:
        if not test.confirmed:
            assert (test.claim, test.sink_change, test.p, test.passed) == (False, None, None, None)
            assert test.key_change.low <= test.key_change.value <= test.key_change.high
    assert [t.passed for t in rows["N4"] if t.claim] == [True]
    assert {t.passed for t in rows["N5"] if t.claim} == {True}
    assert max((t for t in rows["S1"] if t.claim), key=lambda t: t.size).passed
    by_edit = {t.edit.split(" of ")[0]: t for t in rows["S3"]}
    assert by_edit["key"].passed
    assert abs(by_edit["value"].size) < NEGLIGIBLE
    assert "key and value" not in by_edit  # the key alone does it
    summary = verify_summary(done)
    assert [stage.passed for stage in summary.stages] == [True] * 4
    of = {(t.kind, t.edit): t.specificity for t in summary.tests if t.claim}
    for stage in summary.stages[:1] + summary.stages[2:3]:
        needed, enough = stage.edits
        assert stage.specificity == of["necessity", needed]
        assert stage.sufficiency_specificity == of["sufficiency", enough]
    moved = next(t for t in rows["S1"] if t.passed).mass_moved_to
    assert moved["position"] == SMALL.position
    assert moved["share"] > 0.3
    for row in [*summary.tests, *summary.stages]:
        assert not row.model_extra  # every key is declared
    for row in summary.tests:
        for edit in row.edit_json:
            assert from_json(edit).to_json() == edit


def test_a_backup_is_found_as_part_of_a_set():
    """A second MLP writes when the first is off: neither is needed, both together are."""
    spec = draw_spec("delimiter", 7, family="llama", blocks=(1,), from_block=3, depth=5)
    model, _, truth = build_in_memory(spec)
    layers = model.model.layers
    layers[2].mlp.load_state_dict(layers[1].mlp.state_dict())
    ids = plain_rows(truth, 0, rows=8)
    ids[:, 0] = truth.tokens[0]  # marked in its embedding; no other position is
    subject, prompts = Subject.from_model(model), token_prompts(ids)
    circuit = find_circuit(subject, prompts, untrained=False)
    engine = Engine(
        subject, prompts, circuit.sites, direction=circuit.direction,
        heads=circuit.reading_heads, positions=(0, 5),
    )  # fmt: skip
    lab = CausalBench(engine, circuit, list(circuit.reading_heads), 5, 2, 0)
    alone = [*recognition(lab), *mlp_writes(lab)]
    assert not any(t.passed for t in judge(alone))
    sets = judge(write_sets(lab))
    assert sets[-1].passed
    assert sets[-1].edit == (
        "mean-ablate the MLP output of block 1 at position 0; "
        "mean-ablate the MLP output of block 2 at position 0"
    )


def test_a_circuit_that_depends_on_the_token_too_is_a_circuit():
    """Another token takes its sink, and S1 says that the token does nothing where it is mixed."""
    done, _ = verified("p0-part")
    gone = next(t for t in done.tests if t.extra.get("role") == "token at P0")
    assert -gone.size > 0.5
    given = next(t for t in done.tests if t.id == "S1" and "token of P0" in t.note)
    assert given.passed
    assert given.size > 0.9
    assert abs(given.specificity) < 0.1
    assert "it depends on the token there too: another one takes 9" in done.verdict.because


@pytest.mark.parametrize(("held", "of", "number"), [(3, 16, 112), (8, 24, 68)])
def test_a_part_of_the_prompts_says_once_how_many_of_all_would_do(held, of, number):
    opened = Verdict("undetermined", "", missing=["prompts: these are too few"])
    found = in_whole(opened, held, of)
    assert f"take {number} prompts" in found.missing[-1]
    assert len(found.missing) == (1 if held < LEAST else 2)
    shown = Verdict("p0-circuit", "")
    assert in_whole(shown, held, of) is shown


def lab_of(mechanism: str, rows: int = 4, draws: int = 3) -> CausalBench:
    subject, prompts, circuit, _ = constructed(mechanism)
    engine = Engine(
        subject, prompts.take(slice(0, rows)), circuit.sites,
        direction=circuit.direction, heads=circuit.reading_heads, positions=(0, 5),
    )  # fmt: skip
    return CausalBench(engine, circuit, list(circuit.reading_heads), 5, draws, 0)


def lab_where_p_sinks(rows: list[int], heads=None) -> CausalBench:
    """Of 6 prompts, these hold a token at p that later heads sink on by itself."""
    subject, prompts, circuit, truth = constructed("secondary")
    ids = prompts.input_ids[:6].clone()
    ids[:, 5] = ids[:, 2]
    ids[rows, 5] = truth.secondary["tokens"][0]
    heads = [(b, h) for b, h in circuit.reading_heads if heads is None or b in heads]
    engine = Engine(
        subject, token_prompts(ids), circuit.sites,
        direction=circuit.direction, heads=heads, positions=(0, 5),
    )  # fmt: skip
    return CausalBench(engine, circuit, heads, 5, 2, 0)


def test_prompts_in_which_p_sinks_already_are_left_out_of_sufficiency():
    middle = constructed("secondary")[3].secondary["block"]
    lab = lab_where_p_sinks([1, 4])
    assert {b > middle for b, _ in lab.heads} == {True, False}  # it sinks on the later ones
    assert lab.ordinary().tolist() == [True, False, True, True, False, True]
    for test in self_only(lab)[:-1]:
        read = lab.run(test.edits, full=True)
        intact = lab.engine.intact
        moved = read.bare_margin_on(lab.heads, 5) - intact.bare_margin_on(lab.heads, 5)
        assert np.isnan(test.effect).tolist() == (~lab.ordinary()).tolist()
        assert test.margin_change.value == pytest.approx(moved[[0, 2, 3, 5]].mean(), rel=1e-5)
        gap = over_heads(intact.margin[:, intact.at(0)], lab.heads) - intact.bare_margin_on(
            lab.heads, 5
        )
        assert test.size == pytest.approx(moved[[0, 2, 3, 5]].mean() / gap[[0, 2, 3, 5]].mean())
    run_tests(lab)
    assert any("in 2 of 6 prompts position 5 is a sink" in note for note in lab.notes)


def test_where_p_sinks_in_every_prompt_sufficiency_is_not_tried():
    middle = constructed("secondary")[3].secondary["block"]
    lab = lab_where_p_sinks([0, 1, 2, 3, 4, 5], range(middle + 1, 20))
    tests, _ = run_tests(lab)
    assert tests
    assert not any(test.kind == SUFFICIENCY for test in tests)
    assert any("they were not tried" in note for note in lab.notes)


@pytest.mark.parametrize("mechanism", ["p0-two-block", "p0-expert"])
def test_keeping_all_units_changes_nothing_and_none_leaves_nothing(mechanism):
    lab, truth = lab_of(mechanism), constructed(mechanism)[3]
    engine, sites, block = lab.engine, lab.circuit.sites, truth.amplifying_blocks[0]
    module = engine.subject.anatomy.modules(engine.subject.model)[block]
    everything = tuple(range(sites.mlp(block).projection.columns(module).shape[-2]))
    heads = tuple(range(sites.attention(block).heads))
    for edit in (
        KeepUnits(block, "mlp", everything),
        KeepUnits(block, "attention", heads),
        KeepUnits(block, "mlp", (), complement=True),
    ):
        kept = engine.run([edit])
        assert np.abs(kept.on(lab.heads) - lab.intact_sink).max() < 1e-5, edit
    writers = tuple(n for _, n in truth.writing_neurons)
    assert np.abs(engine.run([KeepUnits(block, "mlp", writers)]).on(lab.heads)).min() > 0.9
    for edit in (
        KeepUnits(block, "mlp", ()),
        KeepUnits(block, "mlp", writers, complement=True),
    ):
        assert engine.run([edit]).on(lab.heads).max() < 0.1, edit


def test_traced_units_are_those_that_write():
    lab, truth = lab_of("p0-two-block"), constructed("p0-two-block")[3]
    writers = {Unit(block, NEURON, neuron) for block, neuron in truth.writing_neurons}
    assert set(ranked_neurons(lab)) == writers
    assert set(traced_units(lab)) == writers
    kept = keep_circuit(lab)
    assert len(kept.edits[0]) == len(kept.edits[1]) == 2 * lab.last_read
    assert kept.components == len(truth.writing_neurons)
    assert kept.random.value < 0.1


def without_a_writer():
    """A bench of the split circuit, less a writer that holds the sink when it is left alone."""
    lab, truth = lab_of("p0-split"), constructed("p0-split")[3]
    writers = {Unit(block, NEURON, neuron) for block, neuron in truth.writing_neurons}
    assert writers == set(lab.circuit.of(NEURON))
    left_out = [unit for unit in lab.circuit.writers if unit.block == truth.amplifying_blocks[-1]][
        -1
    ]
    kept = tuple(unit for unit in lab.circuit.writers if unit != left_out)
    lab.circuit = dataclasses.replace(lab.circuit, writers=kept)
    return lab, writers, left_out


def test_a_writer_that_the_trace_leaves_out_is_found_by_the_ranking():
    lab, writers, left_out = without_a_writer()
    assert left_out in lab.circuit.ranking[: 4 * len(writers)]
    kept = keep_circuit(lab)
    of_traced = next(s for s in kept.sizes if s.components == kept.traced)
    assert of_traced.completeness.value > kept.completeness.value + 0.1
    assert kept.completeness.value < 0.2
    assert writers <= set(kept.units)


def test_without_a_ranking_only_the_traced_units_are_kept_and_it_is_said():
    lab, _, _ = without_a_writer()
    lab.circuit = dataclasses.replace(lab.circuit, ranking=Missing("its keys are not linear"))
    kept = keep_circuit(lab)
    assert kept.sizes[-1].components == kept.components == kept.traced
    assert kept.needed is None
    assert kept.cpr is None
    assert any("its keys are not linear" in note for note in lab.notes)


def row(id="N3", size=-0.9, control=0.0, kind="necessity", claim=True, role=None, n=8, noise=0.0):
    """A row on four sink heads; size is one for all, or one for each of them."""
    each = np.broadcast_to(np.asarray(size, dtype=float), (4,))
    spread = noise * np.resize([1, -1], n)[:, None]
    by_head, of_control = np.tile(each, (n, 1)) + spread, np.full((n, 4), control)
    none = Measured(value=None)
    return Test(
        id=id, kind=kind, arrow="", edits=(), control="", block=1,
        position=0, dose=None, claim=claim, sink_change=none, control_change=none,
        margin_change=none, control_margin_change=none, ce_change=None,
        kl=None, p0_norm=None, p0_cosine=None, mass_moved_to=None,
        effect=by_head.mean(1), by_head=by_head, control_by_head=of_control,
        extra={"role": role, "follows_ids": True} if role else {},
        **p_values(kind, by_head.mean(1), of_control.mean(1)),
    )  # fmt: skip


def identity(token=0.0, position=0.0, both=None, given=0.0, n=8):
    """I1 to I3; where both are gone, what either of them takes is gone, unless said otherwise."""
    return [
        row("I1", token, kind="identity", role="token at P0", n=n),
        row("I2", position, kind="identity", role="position ids", n=n),
        row("I2", given, kind="sufficiency", role="P0's position id elsewhere", n=n),
        row("I3", np.add(token, position) if both is None else both, kind="identity",
            role="token and position id", n=n),
    ]  # fmt: skip


def raised(size=0.9, **how):
    return row("S1", size, kind="sufficiency", **how)


def bias(size, **how):
    return row("I2", size, kind="identity", role="query bias", **how)


def on_four_heads(rows, bos="without"):
    n = len(rows[0].effect)
    heads = SinkHeads(((1, 0), (1, 1), (2, 0), (2, 1)), np.ones((n, 4)), np.full(4, 10.0))
    return with_p0_sink(judge(rows), heads, bos, {})


HALF = np.array([-0.9, -0.9, 0, 0])


@pytest.mark.parametrize(
    ("rows", "bos", "verdict", "missing"),
    [
        ([*identity(), row(), raised()], "without", "p0-circuit", ""),
        ([*identity(), row()], "without", "p0-circuit", ""),  # nothing but its place is left
        ([*identity(position=2.0, both=-0.9), row(), raised(0.0)], "without", "undetermined",
         "sufficiency"),  # ids that raise the sink are no pass
        ([row()], "without", "undetermined", "no test of the position ids"),
        ([*identity(), raised()], "with", "undetermined", "necessity"),
        ([*identity(), row(control=-0.6), raised()], "without", "undetermined", "control"),
        ([*identity(), row(size=-0.4), raised()], "without", "undetermined", "most: 40.0%"),
        ([*identity(token=-0.9), row()], "with", "bos-token", ""),
        ([*identity(token=-0.9), row()], "without", "other", ""),
        ([*identity(position=-0.9), row()], "without", "position-embedding", ""),
        ([*identity(position=-0.9), row(), raised(4.0, control=1.5)], "without",
         "position-embedding", ""),  # a control that gains more than the gap
        ([*identity(position=-0.9), bias(-0.8)], "without", "query-bias", ""),
        ([*identity(position=-0.9), bias(-0.2)], "without", "position-embedding", ""),
        ([*identity(both=-0.9), bias(-0.8)], "without", "query-bias", ""),
        ([*identity(), row(), raised(), bias(-0.8)], "without", "p0-circuit", ""),
        ([*identity(token=HALF), row(size=HALF[::-1]), raised(-HALF[::-1])], "with",
         "p0-circuit+bos-token", ""),
        ([*identity(position=HALF), row(size=HALF[::-1])], "without",
         "p0-circuit+position-embedding", ""),
        ([*identity(given=0.4), row("N6"), raised()], "without",
         "p0-circuit+position-embedding", ""),  # in the same heads
    ],
)  # fmt: skip
def test_rules_of_the_verdict(rows, bos, verdict, missing):
    assert all(test.passed is None for test in rows)  # a judgement is a new test
    found = on_four_heads(rows, bos)
    assert found.verdict == verdict, found
    assert missing in " ".join(found.missing)
    assert bool(found.missing) == (verdict == "undetermined")
    assert set(verdict.split("+")) <= set(VERDICTS)
    for part in found.detail["parts"] if not found.missing else ():
        assert part["mass"].value == pytest.approx(part["heads"] / 4)


@pytest.mark.parametrize("n", [2, 4, 6])
def test_so_few_prompts_decide_nothing_and_say_how_many_would(n):
    rows = [*identity(token=-0.98, n=n), row(n=n), raised(n=n)]
    found = on_four_heads(rows, "with")
    assert found.verdict == "undetermined"
    assert f"{n} cannot bring p below" in found.missing[0]
    assert f"which takes {LEAST}; take 16" in found.missing[0]
    assert on_four_heads([*identity(token=-0.98, n=16), row(n=16)], "with").verdict == "bos-token"


def test_a_large_effect_that_is_not_sure_is_not_called_not_needed():
    """Half of the prompts lose everything with another token, half nothing."""
    rows = [*identity(), row(), raised()]
    rows[0] = row("I1", -0.5, kind="identity", role="token at P0", noise=0.5)
    found = on_four_heads(rows, "with")
    assert found.verdict == "undetermined"
    assert "token: it carries 0.0% to 100.0% of the sink; take" in found.missing[0]


def test_prompts_that_settle_a_row_do():
    generator, needed, settled = np.random.default_rng(0), [], []
    for _ in range(200):
        few = generator.normal(0.4, 0.8, 8)
        n = prompts_to_settle(few, 0.0)
        if n is None or few.mean() <= 0:
            continue
        needed.append(n)
        settled.append(sign_flip_p(generator.normal(0.4, 0.8, min(n, 2000))) < ALPHA)
    assert min(needed) >= 16
    assert np.mean(settled) > 0.9
    assert prompts_to_settle(np.full(8, 0.5), 0.5) is None


def test_smallest_p_is_that_of_the_test():
    for n in (1, 5, 12, 14, 20):
        assert sign_flip_p(np.ones(n)) == pytest.approx(smallest_p(n), rel=1e-9 if n <= 12 else 1)
    for tests in (1, 5, 31):
        n = prompts_for(tests)
        assert tests * smallest_p(n) < ALPHA <= tests * smallest_p(n - 1)
    assert prompts_for(31) == 10  # eight prompts cannot: 31 / 256 is 0.12


@pytest.mark.parametrize(
    ("mean", "spread", "n", "p", "specificity", "tests", "word", "passed"),
    [
        (0.9, 0.01, 8, 0.02, 0.1, 5, "shown", True),
        (0.8, 0.01, 8, 0.121, 0.0, 31, "undetermined", None),
        (0.8, 0.01, 8, 0.01, 0.9, 5, "unspecific", False),
        (0.01, 0.01, 8, 1.0, 0.1, 5, "absent", False),
        (0.01, 0.4, 8, 1.0, 0.1, 5, "in part", False),
        (0.3, 0.01, 8, 0.02, 0.1, 5, "in part", False),
        (-0.3, 0.01, 8, 1.0, 0.1, 5, "in part", False),  # it does something: it adds to the sink
        (0.4, 0.3, 8, 0.3, 0.1, 5, "undetermined", None),
    ],
)
def test_an_effect_is_absent_only_where_its_interval_is(
    mean, spread, n, p, specificity, tests, word, passed
):
    effect = mean + spread * np.resize([1, -1], n)
    found = outcome(effect, 0.5, p, specificity, tests)
    assert (found.word, found.passed) == (word, passed)
    assert (found.needs is not None) == (passed is None)
    if found.needs:
        assert found.needs >= 16
        assert f"take {found.needs}" in found.note(n)


def test_what_goes_through_other_positions_is_no_evidence():
    path = {"key_change": Measured(value=-0.07), "sink_change": Measured(value=-0.6)}
    large = dataclasses.replace(row("N1", -0.07), others_change=Measured(value=-0.53), **path)
    (test,) = judge([large])
    assert test.passed is False
    (said,) = other_paths([test])
    assert "7.0% through position zero's key (60.0% in all)" in said
    assert "no evidence" in said
    path["key_change"] = Measured(value=-0.35)  # more than half of it, and the bound is not met
    most = dataclasses.replace(row("N1", -0.35), others_change=Measured(value=-0.25), **path)
    assert other_paths(judge([most])) == []


def test_without_p0s_key_every_row_is_confirmed_and_it_is_said():
    lab = lab_of("p0-two-block")
    lab.screen.path = Missing("there is none")
    tests = mlp_writes(lab)
    assert all(test.confirmed and test.key_change is None for test in tests)
    assert min(test.sink_change.value for test in tests) < -0.9
    subject = Subject.from_model(tiny_model("bloom"))
    prompts = token_prompts(torch.randint(3, 100, (2, 24)))
    bench = CausalBench(Engine(subject, prompts), SimpleNamespace(phases=()), [(1, 0)], 5, 1, 0)
    assert isinstance(bench.screen.path, Missing)
    assert "run in full, without a screen" in bench.notes[0]


def test_one_prompt_is_undetermined_and_says_why():
    subject, prompts, circuit, _ = constructed("p0-two-block")
    small = dataclasses.replace(SMALL, rows=1, draws=1)
    done = verify_one(subject, prompts.take(slice(0, 1)), circuit, small)
    assert done.verdict.verdict == "undetermined"
    assert "1 cannot bring p below" in done.verdict.missing[0]
    assert verify_summary(done).tests[0].sink_change.low is None


def test_as_many_prompts_are_taken_as_the_rows_need():
    subject, prompts, circuit, _ = constructed("p0-two-block")
    few = dataclasses.replace(SMALL, rows=2, draws=1)
    alone = verify_one(subject, prompts.take(slice(0, 2)), circuit, few)
    confirmed = [t for t in alone.tests if t.id == "N3" and t.confirmed]
    best = min(confirmed, key=lambda t: t.size)
    assert best.outcome == "undetermined"
    assert best.needs >= 16
    assert f"take {best.needs}" in best.note
    done = verify_one(subject, prompts, circuit, few)
    assert done.verdict.verdict == "p0-circuit"
    assert len(done.prompts) == 7
    assert "at least 7 prompts: 7 were taken instead of 2" in done.notes[0]


def test_without_time_the_verdict_comes_first_and_what_was_left_out_is_said():
    subject, prompts, circuit, _ = constructed("p0-two-block")
    short = dataclasses.replace(SMALL, rows=12, draws=1, budget=0.0)
    done = verify_one(subject, prompts, circuit, short)
    assert len(done.prompts) == pace.LEAST
    assert not {"N5", "S3", "M1"} & {test.id for test in done.tests}
    assert {"I1", "I2", "N1", "N3", "S1"} <= {test.id for test in done.tests}
    assert done.kept is not None
    said = " ".join(done.notes)
    assert f"The tests are of {pace.LEAST} prompts, not 12: the budget of 0 minutes" in said
    for id in ("N5", "S3", "M1"):
        assert f"{id} was left out: the budget of 0 minutes was used up." in said


def test_result_of_the_public_call(tmp_path):
    subject, prompts, circuit, _ = constructed("uniform")
    seen = []
    result = sinkscope.verify(
        subject, prompts=prompts, circuit=circuit, rows=8,
        progress=lambda label, done, total: seen.append(label),
    )  # fmt: skip
    assert result.summary.verify["without"].verdict == "none"
    assert result.summary.command["rows"] == 8
    assert result.summary.prompts.n == 16
    assert set(result.summary.verify["without"].thresholds) == set(REASONS)
    assert "verify/without" in result.data.groups or "/verify/without" in result.data.groups


def test_dataset_names_its_dimensions():
    done, _ = verified("p0-two-block")
    data = verify_dataset(done)
    assert data["effect"].dims == ("test", "sequence")
    assert data.sizes["test"] == len(done.tests)
    assert data["mlp_necessity"].sizes["layer"] == done.engine.depth
    assert np.nanmin(data["mlp_necessity"]) < -0.9
    assert all("long_name" in data[name].attrs for name in data if name != "test_id")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"length": 16}, "too short to verify on"),
        ({"position": 40}, "must lie in their first half"),
        ({"bos": "sometimes"}, "is not one of"),
    ],
)
def test_bad_settings_are_refused(changes, message):
    subject, _, _, _ = constructed("uniform")
    fields = {"n": 4, "length": 64, **changes}
    with pytest.raises(InputError, match=message):
        verify(subject, **fields)


def test_a_failed_residual_identity_is_refused():
    subject = Subject.from_model(tiny_model("llama"))
    forward = type(subject.model.model.layers[1].mlp).forward
    mlp = subject.model.model.layers[1].mlp
    block = subject.model.model.layers[1]
    original = type(block).forward

    def twisted(*args, **kwargs):
        return 1.5 * original(block, *args, **kwargs)

    block.forward = twisted
    assert forward is type(mlp).forward
    with pytest.raises(Unsupported, match="residual identity"):
        verify(subject, n=4, length=32, kind="random")


def test_equal_seeds_give_equal_numbers():
    first, second = lab_of("p0-two-block"), lab_of("p0-two-block")
    for one, other in zip(neurons(first), neurons(second), strict=True):
        assert one.edits == other.edits
        assert one.sink_change == other.sink_change
        assert one.p == other.p
        assert (one.effect == other.effect).all()
    assert (keep_circuit(first).draws == keep_circuit(second).draws).all()
