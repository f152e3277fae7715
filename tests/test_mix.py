"""`mix` end to end: one result, its words, its page, the command."""

import copy
import json
import re

import numpy as np
import pytest
import torch

import sinkscope
from sinkscope.cli.app import main
from sinkscope.errors import InputError, Unsupported
from sinkscope.known.constructed import build_in_memory, draw_spec
from sinkscope.mixing.thresholds import NO_DIFFERENT
from sinkscope.report.mixing.words import findings_of, sweeps_said
from sinkscope.report.page import render_page
from sinkscope.report.table import render_text
from sinkscope.result import load_result
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import build_prompts
from sinkscope.subject.tiny import tiny_model

FIGURES = (
    "mix-loss mix-kl spread-with spread-without spread-depth jacobian-with jacobian-without "
    "collapse row-entropy smoothness mix-length mix-length-change mix-length-share mix-repeat "
    "mix-depth mix-mediation"
)


@pytest.fixture(scope="module")
def subject():
    spec = draw_spec("p0-two-block", seed=3, family="llama", noise=0.1)
    model, tokenizer, _ = build_in_memory(spec)
    return Subject.from_model(model, tokenizer, name="p0-two-block")


@pytest.fixture(scope="module")
def result(subject):
    return sinkscope.mix(subject, n=12, pairs=12, length=48, longest=96)


def rows_of(result):
    return {row.name: row for row in result.summary.mix["without"].conditions}


def test_the_floor_more_spread_without_the_sink_and_not_with_the_control(result):
    one, rows = result.summary.mix["without"], rows_of(result)
    assert one.mixing == "more"
    for cut, control in (
        ("redistributed", "other-key"),
        ("circuit-cut", "circuit-cut-control"),
        ("circuit-cut-norm-kept", "circuit-cut-control"),
    ):
        change, other = rows[cut].spread_change, rows[control].spread_change
        assert rows[cut].control == control
        assert change.low > 0
        assert abs(other.value) < 0.02 * change.value
        assert rows[cut].sink_left.value < 0.1
    assert one.mediation["share"].value == pytest.approx(1, abs=0.1)
    assert one.theorem["holds"]
    assert one.path_bound["holds"]
    assert 0 < one.path_bound["largest_ratio"] <= 1
    # the confound of a shorter P0 is taken apart: equal norm, no sink, the same rise
    assert rows["circuit-cut"].p0_norm.value < 0.5
    assert rows["circuit-cut-norm-kept"].p0_norm_error < 1e-4
    assert rows["redistributed"].p0_norm_error == 0
    assert one.verdict == "present, not needed"  # its readout does not look at what the heads write
    assert findings_of(one).headline.startswith("The sink is present, not needed")
    assert one.thresholds["NO_DIFFERENT"]["value"] == NO_DIFFERENT


def test_prompts_that_no_pair_is_made_of_are_told(subject):
    few = sinkscope.mix(subject, n=3, pairs=2, length=32, jacobian=False, sweeps=False)
    assert "the first 2 of 3 prompts" in " ".join(few.summary.mix["without"].notes)
    assert "Jacobian" not in render_text(few)  # no column of what was not asked for


def test_the_spread_over_length_is_told_with_its_intervals(result):
    said = sweeps_said(result.summary.mix["without"])
    assert re.search(r"by \S+\u00a0% \(\S+ to \S+\u00a0%\) at [\d,]+ tokens", said)


def test_jacobians_stand_beside_what_was_done(result):
    assert "Jacobian" in render_text(result)


def test_what_is_mediated_is_a_share_only_where_its_parts_add_up(result):
    one = copy.deepcopy(result.summary.mix["without"])
    one.mediation |= {"share": {"value": 0.8}, "share_by_direct": {"value": 0.85}}
    assert "80.0\u00a0%" in " ".join(findings_of(one).sentences)
    for counted, by_direct in ((1.37, 0.85), (0.6, 0.85), (-0.2, -0.2), (1.05, 1.05)):
        one.mediation |= {"share": {"value": counted}, "share_by_direct": {"value": by_direct}}
        said = next(s for s in findings_of(one).sentences if s.startswith("Ablating the circuit"))
        whole, through = (one.mediation[key].value for key in ("total", "through"))
        for change in (whole, through):
            assert f"{100 * change / one.spread['intact'].value:+.2f}" in said
        assert ("The two interact" in said) == (abs(counted - by_direct) > 0.1)
        assert ("against each other" in said) == (abs(counted - by_direct) <= 0.1)


def test_saved_and_loaded_it_is_the_same(result, tmp_path):
    loaded = load_result(result.save(tmp_path / "run"))
    assert loaded.to_json() == result.to_json()
    data = loaded.data["mix/without"].to_dataset()
    assert data["spread"].dims == ("condition", "sequence", "kind", "point")
    assert data["spread"].attrs["reference"]
    np.testing.assert_array_equal(data["jacobian"], result.data["mix/without"]["jacobian"])
    final = data["spread"].sel(condition="intact").values[:, :, -1].mean()
    assert final == pytest.approx(result.summary.mix["without"].spread["intact"].value, rel=1e-5)


def test_the_page_and_the_table(result):
    page = render_page(result)
    for name in FIGURES.split():
        assert f'data-chart="{name}"' in page, name
    text = render_text(result)
    assert "The sink is present, not needed" in text
    assert "Checked: the spectral bound" in text
    assert result.plot() is not None


def test_the_tables_fit_a_narrow_terminal(result):
    import io

    from rich.console import Console

    from sinkscope.report.table import print_tables

    stream = io.StringIO()
    print_tables(result, Console(file=stream, width=80, color_system=None))
    text = stream.getvalue()
    tables = text[text.index("Mixing") :]
    assert "…" not in tables
    for word in (
        "Condition",
        "Control:",
        "Sink left",
        "Mass taken",
        "P0 norm",
        "present, not needed",
    ):
        assert word in tables, word


def test_what_could_not_be_measured_is_said(monkeypatch):
    from sinkscope.mixing import measured

    def refuse(*args, **kwargs):
        raise Unsupported("block 1 mixes positions outside attention.")

    monkeypatch.setattr(measured, "influences", refuse)
    monkeypatch.setattr(measured, "path_bound", refuse)
    found = sinkscope.mix(
        Subject.from_model(tiny_model("llama")), kind="random", n=4, pairs=4, length=24, longest=30
    )
    (one,) = found.summary.mix.values()
    assert "No Jacobian norms: block 1 mixes positions outside attention." in one.notes
    assert "No path-sum bound: block 1 mixes positions outside attention." in one.notes
    assert any("No length sweep" in note for note in one.notes)
    assert "No Jacobian norms" in render_page(found)


def test_a_control_that_cuts_the_sink_is_called_that(result):
    from sinkscope.mixing.summary import weak_control
    from sinkscope.schema import Measured, MixRow

    row = MixRow(name="circuit-cut-control", what="", sink_left=Measured(value=0.6))
    assert "leaves 60% of the sink" in weak_control({row.name: row})
    row.sink_left = Measured(value=0.97)
    assert weak_control({row.name: row}) == ""
    assert weak_control({}) == ""
    assert not any("control of the circuit cut" in n for n in result.summary.mix["without"].notes)


def test_models_of_different_depth_side_by_side(result, tmp_path):
    """Three runs: a column each, and the change of the spread over the number of blocks."""
    runs = [result]
    for depth in (3, 6):
        spec = draw_spec("p0-two-block", seed=3, family="llama", noise=0.1, depth=depth)
        model, tokenizer, _ = build_in_memory(spec)
        subject = Subject.from_model(model, tokenizer, name=f"{depth} blocks")
        runs.append(
            sinkscope.mix(
                subject, n=4, pairs=4, length=48, sweeps=False, circuit=False, jacobian=False
            )
        )
    page = render_page(*runs)
    assert 'data-chart="mix-models"' in page
    assert "6 blocks" in page
    folders = [str(run.save(tmp_path / str(i))) for i, run in enumerate(runs)]
    with pytest.raises(SystemExit) as stop:
        main(["report", folders[0], "--against", folders[1], "--against", folders[2]])
    assert stop.value.code == 0
    assert "3 blocks" in (tmp_path / "0" / "comparison.html").read_text(encoding="utf-8")
    assert 'data-chart="mix-models"' not in render_page(runs[0], runs[0])


def test_equal_seeds_give_equal_bytes(subject):
    options = {"n": 4, "pairs": 4, "length": 24, "sweeps": False, "circuit": False}
    a, b = (sinkscope.mix(subject, jacobian=False, **options).to_json() for _ in range(2))
    assert a == b


def test_fewer_prompts_than_the_length_sweep_has(subject):
    options = {"circuit": False, "jacobian": False}
    few = sinkscope.mix(subject, n=4, pairs=4, length=48, longest=96, **options)
    sizes = few.data["mix/without"].sizes
    assert (sizes["sequence"], sizes["length_prompt"]) == (4, 4)


def test_a_model_without_a_sink_says_so():
    found = sinkscope.mix(
        Subject.from_model(tiny_model("llama")),
        kind="random", n=4, pairs=4, length=24, sweeps=False, jacobian=False,
    )  # fmt: skip
    one = found.summary.mix["without"]
    assert one.verdict == "no sink"
    assert one.sink_heads == []
    assert "does not sink" in findings_of(one).headline
    assert any("No head sinks" in note for note in one.notes)


def test_bos_dropped_is_reported_apart(subject):
    found = sinkscope.mix(
        subject, n=4, pairs=4, length=32, bos="with", sweeps=False, circuit=False, jacobian=False
    )
    row = found.summary.mix["with"].conditions[-1]
    assert row.name == "bos-dropped"
    assert row.out_of_distribution
    assert row.use is None
    assert row.ce_change.value is not None


def test_dropped_bos_compares_the_same_tokens(subject):
    """Losses of tokens 3.. with BOS are those of tokens 2.. without it."""
    from sinkscope.mixing.dropped import text_loss, without_first

    prompts = build_prompts(subject, n=3, length=24, bos="with")
    short = without_first(prompts)
    assert torch.equal(prompts.input_ids[:, 3:], short.input_ids[:, 2:])
    logits = subject.model(short.input_ids).logits.log_softmax(-1)
    wanted = [
        -logits[row, range(1, 22), short.input_ids[row, 2:]].mean().item() for row in range(3)
    ]
    np.testing.assert_allclose(text_loss(subject, short, 2), wanted, rtol=1e-4)


def test_what_cannot_be_done_is_one_sentence(subject):
    with pytest.raises(Unsupported, match="attention registry"):
        sinkscope.mix(Subject.from_model(tiny_model("bloom")), kind="random", n=2, length=16)
    with pytest.raises(InputError, match="at least 8 tokens"):
        sinkscope.mix(subject, n=2, length=4)
    with pytest.raises(InputError, match="swaps are"):
        sinkscope.mix(subject, n=2, length=16, swaps=("other",))


def test_the_command(folder, text_file, capsys):
    options = ["--text", str(text_file), "--n", "2", "--pairs", "2", "--length", "16", "--json"]
    with pytest.raises(SystemExit) as stop:
        main(["mix", str(folder), *options, "--no-sweeps", "--no-jacobian", "--no-circuit"])
    assert stop.value.code == 0
    summary = json.loads(capsys.readouterr().out)
    found = next(iter(summary["mix"].values()))
    assert {"spread", "jacobian", "effective_rank", "conditions", "verdict"} <= set(found)
    assert set(found["spread"]["intact"]) == {"value", "low", "high"}
