"""The report of a circuit without a browser: the drawing, the strip, the evidence, the exports."""

from __future__ import annotations

import itertools
import json
import re
import xml.etree.ElementTree as ElementTree

import pytest

from sinkscope.errors import InputError
from sinkscope.report import commands, frames, phases, theme
from sinkscope.report.causal import charts as causal_charts
from sinkscope.report.causal import stage_cards, verdict_page
from sinkscope.report.causal import tables as causal_tables
from sinkscope.report.circuit import charts as circuit_charts
from sinkscope.report.circuit import drawing as circuit_drawing
from sinkscope.report.circuit import picture as circuit_picture
from sinkscope.report.circuit import tables as circuit_tables
from sinkscope.report.circuit.layout import Layout, Sheet
from sinkscope.report.compare import comparison
from sinkscope.report.export import export_figures
from sinkscope.report.page import render_page
from sinkscope.report.parts import Drawing, Figure, Section, Tables
from sinkscope.report.table import render_text
from sinkscope.result import Measured
from tests.circuit_fixture import NEURONS, SHARES, build_circuit

STAGES = ["circuit", "recognition", "amplification", "induction"]
CAUSAL = ["verdict", "necessity", "sufficiency", "identity", "tests"]


@pytest.fixture(scope="module")
def result():
    return build_circuit(policies=("without",))


@pytest.fixture(scope="module")
def page(result):
    return render_page(result)


def page_data(page):
    return json.loads(re.search(r'id="data">(.*?)</script>', page, re.S).group(1))


def picture(result, bos="without"):
    return circuit_picture.picture_of(result, bos)


def drawn(result, bos="without"):
    svg = circuit_drawing.draw(picture(result, bos), "Circuit")
    return ElementTree.fromstring(theme.with_colours(svg, theme.LIGHT))


def rows_of(chart):
    """The rows that a chart draws; layers that share them hand them up."""
    charts = [chart, *getattr(chart, "layer", [])]
    found = [one.data["values"] for one in charts if isinstance(one.data, dict)]
    return max(found, key=len)


def elements(svg, name):
    return [e for e in svg.iter() if e.tag.endswith("}" + name)]


# ---- what a page holds ------------------------------------------------------------------------


def test_every_command_has_its_sections(page):
    for name in [*CAUSAL, *STAGES, "scan", "rates", "settings"]:
        assert f'<section id="{name}">' in page, name
    assert page.index('id="verdict"') < page.index('id="circuit"') < page.index('id="scan"')


def test_a_trace_alone_is_a_page_a_table_and_a_plot():
    result = build_circuit(policies=("without",), verified=False, scanned=False)
    page = render_page(result)
    for name in STAGES:
        assert f'<section id="{name}">' in page, name
    for name in [*CAUSAL, "scan", "rates"]:
        assert f'<section id="{name}">' not in page, name
    assert "is tested by sinkscope verify" in page
    text = render_text(result)
    assert "neuron 58" in text
    assert "Sink rate" not in text
    assert result.plot().to_dict()["encoding"]["y"]["title"] == "Share of what adds to it"


def test_a_scan_beside_a_verdict_no_longer_says_that_tests_are_missing(result, page):
    said = "that takes causal tests"
    assert said not in page
    assert said in render_page(build_circuit(policies=("without",), verified=False))
    assert said not in render_text(result)


def test_large_circuits_stay_under_three_megabytes():
    page = render_page(build_circuit(32, 32, positions=128, map_tokens=48))
    assert len(page.encode("utf-8")) < 3_000_000


def test_hostile_text_stays_text(page):
    own = page.split("<main>")[1]
    assert "“</script>”" not in own
    assert "“&lt;/script&gt;”" in own
    assert len(re.findall(r"<script\b", page)) == 3


# ---- the drawing ------------------------------------------------------------------------------


def test_rows_hold_who_writes_and_who_reads(result):
    rows = {row.first: row for row in picture(result).rows}
    writers = {w.kind: w for w in rows[1].writers}
    assert [unit.label for unit in writers["mlp"].units[:4]] == [f"neuron {n}" for _, n in NEURONS]
    assert [unit.share for unit in writers["mlp"].units[:4]] == SHARES
    assert writers["mlp"].units[-1].share == pytest.approx(0.958 - sum(SHARES))
    assert writers["attention"].share == -0.02
    reading = {(b, h) for b, h in result.summary.trace["without"].reading_heads}
    found = {
        (row.first, head)
        for row in rows.values()
        for head, reader in enumerate(row.readers)
        if reader.reads
    }
    assert found == reading
    assert [words for words, _ in rows[1].notes] == ["P0 separated"]
    assert [words for words, _ in rows[0].notes] == ["P0 recognised"]


def test_a_write_that_only_the_tests_reveal_is_drawn(result):
    trace = result.summary.trace["without"].model_copy(deep=True)
    trace.write_shares["0.attention"] = 0.0001
    trace.writing_heads = []
    other = build_circuit(policies=("without",))
    other.summary.trace["without"] = trace
    kinds = [writer.kind for writer in picture(other).rows[0].writers]
    assert kinds == ["attention"]  # the sink goes without it (N1), though it writes nothing along u
    other.summary.verify = {}
    assert not picture(other).rows[0].writers


def test_experts_stand_for_their_neurons():
    units = picture(build_circuit(policies=("without",), experts=True)).rows[1].writers[1].units
    assert units[0].label == "expert 3"
    assert "neurons 58, 74, 171, 189" in units[0].tip


def test_blocks_in_which_nothing_happens_are_folded():
    result = build_circuit(layers=12, policies=("without",))
    trace = result.summary.trace["without"]
    trace.reading_heads = [head for head in trace.reading_heads if head[0] in (2, 3)]
    rows = picture(result).rows
    assert [(row.first, row.last) for row in rows if row.empty] == [(4, 11)]
    assert [row.first for row in rows] == [0, 1, 2, 3, 4]


def test_edges_are_as_wide_as_their_share(result):
    widths = [
        float(path.get("stroke-width"))
        for path in elements(drawn(result), "path")
        if (path.get("d") or "").startswith(f"M{Layout().unit} ")
    ]
    expected = [circuit_drawing.width_of(share) for share in sorted(SHARES, reverse=True)]
    for width in expected:
        assert any(abs(width - found) < 0.06 for found in widths)


def test_everything_drawn_lies_on_the_sheet():
    for case in (
        build_circuit(policies=("without",)),
        build_circuit(32, 32, policies=("without",)),
        build_circuit(policies=("without",), experts=True),
    ):
        svg = drawn(case)
        width, height = (float(n) for n in svg.get("viewBox").split()[2:])
        for rect in elements(svg, "rect"):
            x, y = float(rect.get("x")), float(rect.get("y"))
            assert x >= 0
            assert y >= 0
            assert x + float(rect.get("width")) <= width + 1
            assert y + float(rect.get("height")) <= height
        lines = sorted(float(t.get("y")) for t in elements(svg, "text") if t.get("x") == "10.0")
        assert all(b - a >= 12 for a, b in itertools.pairwise(lines)), "labels do not overlap"


def test_numbers_are_said_when_pointed_at(result):
    tips = [e.get("data-tip") for e in drawn(result).iter() if e.get("data-tip")]
    assert any(tip.startswith("Block 1, neuron 58: 34.0") for tip in tips)
    assert any("without it the sink changes by −97.0" in tip for tip in tips)
    assert [circuit_drawing._cut(cut) for cut in (-0.772, 0.03, 4e-5, -4e-8)] == [
        *("−77.2\u00a0%", "+3.0\u00a0%", "±0.0\u00a0%", "±0.0\u00a0%")
    ]
    assert sum("sink margin" in tip for tip in tips) == len(
        result.summary.trace["without"].reading_heads
    )


def test_nothing_to_draw_is_no_drawing():
    result = build_circuit(policies=("without",), sinks=False, verified=False)
    trace = result.summary.trace["without"]
    trace.write_shares, trace.reading_heads, trace.writing_neurons = {}, [], []
    trace.writing_heads, trace.emergence_block, trace.recognition_point = [], None, None
    assert picture(result) is None
    assert "Position zero is not separated" in render_page(result)


# ---- the evidence -----------------------------------------------------------------------------


def test_strip_says_pass_fail_and_not_tested(page):
    assert re.findall(r'class="stage (\w+)"', page) == ["shown", "shown", "failed", "untested"]


def test_stage_rows_carry_their_intervals(result):
    first, second, *_ = result.summary.verify["without"].stages
    rows = {name: (value, interval) for name, value, interval in stage_cards.stage_rows(first)}
    assert rows["Sink without it"] == ("−81.0\u00a0%", "−84 to −78")
    assert rows["Given elsewhere"] == ("+4.6 nats", "+4.6 to +4.6")
    kept = {r[0]: r[1] for r in stage_cards.stage_rows(second)}["Faithfulness"]
    assert kept == "95.0\u00a0%"


def test_a_stage_shows_each_control_over_its_own_effect(result):
    verified = result.summary.verify["without"].model_copy(deep=True)
    own = {"specificity": -0.001, "sufficiency_specificity": 0.287}
    stage = verified.stages[0].model_copy(update=own)
    rows = [row[:2] for row in stage_cards.stage_rows(stage)]
    after = {name: rows[at + 1] for at, (name, _) in enumerate(rows[:-1])}
    assert after["Sink without it"] == ("Control ÷ that effect", "0.00")
    assert after["Given elsewhere"] == ("Control ÷ that effect", "0.29")
    stage.necessity = Measured(value=-4e-8, low=-1e-7, high=5e-8)  # over nothing: no ratio
    first, then, *_ = stage_cards.stage_rows(stage)
    assert first == ("Sink without it", "0.0\u00a0%", "0 to 0")
    assert then[0] != "Control ÷ that effect"


def test_the_size_of_the_circuit_is_said_with_what_its_bounds_ask(result):
    verified = result.summary.verify["without"].model_copy(deep=True)
    assert "A faithful circuit" not in " ".join(verdict_page._details(verified))
    verified.faithfulness = Measured(value=0.879, low=0.667, high=1.0)
    verified.circuit_size["needed"] = 4
    said = " ".join(verdict_page._details(verified))
    assert "of the sink in full passes. 4 of them are traced along the sink direction. " in said
    assert "A faithful circuit keeps 90\u00a0% or more; test S4 asks for 50\u00a0%." in said
    assert "complete through position zero's key, all else held as it was." in said
    assert "small sets hardly weigh in them: 4 units alone keep 70.0\u00a0%." in said
    verified.circuit_growth = verified.circuit_growth[1:]  # faithful at every size tried
    assert "small sets" not in " ".join(verdict_page._details(verified))


def test_effects_table_has_every_test_with_edit_and_control(result):
    verified = result.summary.verify["without"]
    table = causal_tables.effects_table(verified)
    named = {test.id for test in verified.tests}
    assert len(table.rows) == len(verified.tests) + len(named)
    assert table.rows[0][:2] == ["N1", "Attention output of P0 resampled"]
    row = next(r for r in table.rows if r[0] == "N3" and "block 1" in r[1])
    assert row[2] == "✓\u00a0needed"
    kept = next(r for r in table.rows if r[0] == "S4" and r[2] != "")
    assert kept[2] == "✓\u00a0keeps 50.0\u00a0% or more"  # no word of it being faithful
    assert row[5:7] == [*map(causal_tables.change, (_m(-0.97), _m(-0.01)))]
    aftermath = causal_tables.aftermath_table(verified).rows[1]
    assert aftermath[6].startswith("3 “</script>” +11.0")
    assert causal_tables._moved({"position": 1, "token": "a", "share": 1e-5}) == (
        "1 “a” <\u00a00.1\u00a0%"
    )


def test_paths_stand_apart_and_screened_rows_that_say_nothing_are_one(result):
    verified = result.summary.verify["without"].model_copy(deep=True)
    rows = [test for test in verified.tests if test.id == "N3"]
    for test, key in zip(rows, (-0.07, -0.9, 0.001, -0.004, 0.0)):
        test.key_change, test.others_change = _m(key), _m(test.sink_change.value - key)
        if test.block not in (0, 1):
            test.confirmed, test.claim, test.sink_change = False, False, None
            test.passed = test.p_holm = None
    rows[0].outcome, rows[0].passed, rows[0].needs = "undetermined", None, 9
    fold = "blocks 2 to 4: none changes the sink by more than 0.4\u00a0% through P0's key"
    for table in (causal_tables.effects_table(verified), causal_tables.deciding_table(verified)):
        found = [row for row in table.rows if row[0] == "N3"]
        assert len(found) == 4  # a title, two confirmed rows, one fold
        assert found[3][1] == fold
        assert all(len(row) == len(table.columns) for row in table.rows)
    deciding = found
    for row in rows:
        row.key_change = _m(0.0 if row.confirmed else -4e-8)
    last = causal_tables.deciding_table(verified).rows
    last = [row for row in last if row[0] == "N3"][3]
    assert last[1:3] == [fold.replace("more than 0.4\u00a0%", "0.1\u00a0% or more"), ""]
    assert deciding[1][7] == "undetermined, take 9 prompts"
    assert deciding[2][2:5] == ["−90.0\u00a0%", "−7.0\u00a0%", "−97.0\u00a0%"]


def test_the_sentence_claims_only_stages_that_are_shown(result):
    verified = result.summary.verify["without"].model_copy(deep=True)
    said = verdict_page._sentence(verified)
    assert "a circuit that recognises it and amplifies it (" in said  # stage 3 is not shown
    for stage in verified.stages:
        stage.passed = True
    assert "recognises it, amplifies it and reads it (" in verdict_page._sentence(verified)
    verified.stages[0].passed, verified.stages[0].outcome = None, "undetermined"
    assert "that amplifies it and reads it" in verdict_page._sentence(verified)
    assert causal_tables.stages_table(verified).rows[0][1] == "undetermined"


def _m(value, half=0.03):
    return Measured(value=value, low=value - half, high=value + half)


def test_paired_chart_sets_every_edit_beside_its_control(result):
    tests = [t for t in result.summary.verify["without"].tests if t.id == "N3"]
    chart = causal_charts.paired_chart(tests, causal_charts.sink_changes, "x", percent=True)
    rows = rows_of(chart)
    assert len(rows) == 2 * len(tests)
    edit = next(r for r in rows if "block 1" in r["test"] and r["series"] == causal_charts.EDIT)
    assert (edit["value"], edit["low"], edit["high"]) == (-0.97, -1.0, -0.94)


def test_dose_chart_takes_each_dose_once(result):
    tests = [t for t in result.summary.verify["without"].tests if t.id == "N4"]
    variant = tests[-1].model_copy(update={"sink_change": _m(-0.1), "claim": False})
    chart = causal_charts.dose_chart(
        [*tests, variant], causal_charts.sink_changes, "n", "x", percent=True
    )
    rows = [r for r in rows_of(chart) if r["series"] == causal_charts.EDIT]
    assert [(r["dose"], r["value"]) for r in sorted(rows, key=lambda r: r["dose"])] == [
        (1, -0.2),
        (2, -0.5),
        (4, -0.96),
    ]


def test_blocks_chart_shows_both_writes_of_every_block(result):
    rows = rows_of(causal_charts.blocks_chart(result.summary.verify["without"].tests))
    shown = {(r["block"], r["series"]) for r in rows}
    assert {(0, "Attention output"), (1, "MLP output"), (1, "MLP output, control")} <= shown


def test_kept_chart_shows_what_is_left(result):
    rows = rows_of(causal_charts.kept_chart(result.summary.verify["without"].tests))
    assert [row["value"] for row in rows] == [0.95, 0.03, 0.08]


def test_verdict_names_its_class_and_what_would_change_it(result):
    text = render_text(result)
    assert "p0-circuit: Position zero is a sink by a circuit" in text
    assert "N3 on block 1 removing less than half of the sink" in text
    for name in verdict_page.SENTENCES:
        verified = result.summary.verify["without"].model_copy(update={"verdict": name})
        assert verdict_page._findings(verified).headline.startswith(f"{name}: ")


def test_units_are_ranked_over_kinds(result):
    units = circuit_tables.writers_tables(result.summary.trace["without"])[1]
    assert [row[1] for row in units.rows] == [
        *(f"neuron {n}" for _, n in NEURONS),
        "head 2",
    ]


# ---- one list for every command ---------------------------------------------------------------


def test_a_section_that_a_command_adds_is_on_the_page(result, monkeypatch):
    def added(held):
        return [Section("mine", "Mine", "A lead.", [Tables({"": []})])]

    monkeypatch.setattr(commands, "SECTIONS", (*commands.SECTIONS, ("Asked", added)))
    assert '<section id="mine">' in render_page(result)


def test_every_section_is_named_once(result):
    names = [section.name for section in commands.all_sections(result)]
    assert len(names) == len(set(names))
    figures = [f.name for s in commands.all_sections(result) for f in s.figures]
    assert len(figures) == len(set(figures))


def test_every_figure_of_a_full_result_is_drawn(page, result):
    drawn = set(re.findall(r'data-chart="([a-z0-9-]+)"', page))
    assert drawn == set(page_data(page)["figures"])
    wanted = {"auroc", "unmixed", "variance", "trace-norm", "trace-direction", "write-shares"}
    wanted |= {"neurons", "concentration", "vocabulary", "margin", "alone", "attribution"}
    wanted |= {"necessity-tests", "necessity-blocks", "sufficiency-tests", "kept", "identity"}
    wanted |= {"dose-n2", "dose-n4", "dose-s1"}
    assert wanted <= drawn
    assert "routing" in render_page(build_circuit(policies=("without",), experts=True))


def test_runs_are_compared_by_what_both_hold(result):
    traced = build_circuit(policies=("without",), verified=False, scanned=False)
    traced.summary.trace["without"].emergence_block = 3
    section = comparison(result, traced)
    rows = {row[0]: row[1:] for row in _tables(section)[0].rows}
    assert rows["Emergence block"] == ["1", "3", "differs"]
    assert rows["Sink heads"][2] == "0"
    assert "Verdict" not in rows
    assert "Late share of P0" not in rows
    both = {row[0] for row in _tables(comparison(result, result))[0].rows}
    assert {"Verdict", "Late share of P0"} <= both


def _tables(section):
    parts = [part for part in section.parts if isinstance(part, Tables)]
    return [table for part in parts for found in part.panels.values() for table in found]


def test_plot_of_what_is_not_there_is_refused(result):
    with pytest.raises(InputError, match="with"):
        result.plot("with")


def test_the_drawing_is_exported_in_the_colours_of_paper(tmp_path, monkeypatch):
    result = build_circuit(policies=("without",), verified=False, scanned=False)
    only = [
        Section(s.name, s.title, s.lead, [p for p in s.parts if isinstance(p, Drawing)])
        for s in commands.all_sections(result)
    ]
    monkeypatch.setattr("sinkscope.report.export.page_sections", lambda held: only)
    written = export_figures(result, tmp_path)
    assert {path.name for path in written} == {
        f"circuit-without.{f}" for f in ("png", "svg", "pdf")
    }
    svg = (tmp_path / "circuit-without.svg").read_text()
    assert "var(--" not in svg
    assert theme.LIGHT["category"][0] in svg
    assert (tmp_path / "circuit-without.png").read_bytes().startswith(b"\x89PNG")


def test_figures_of_every_command_have_files_of_their_own(result):
    names = [
        (variant.name or part.name, panel)
        for section in commands.all_sections(result)
        for part in section.parts
        if isinstance(part, Figure)
        for variant in part.variants
        for panel in variant.charts
    ]
    assert len(names) == len(set(names))


def test_policies_of_all_commands_are_shown():
    result = build_circuit(policies=("without",))
    result.summary.trace["with"] = result.summary.trace.pop("without")
    assert frames.policies(result) == ["without", "with"]
    assert "With BOS" in render_page(result)


def phase_row(rise, peak, fall, **parts):
    return {
        **{"by": "norm", "rise": rise, "emergence_block": rise[1], "peak": peak, "height": 9.0},
        **{"plateau": [peak, peak], "fall": fall, "takers": [], "writing_heads": []},
        **{"concentration": {"1": 0.3, "2": 1.0}, "most_read": False, **parts},
    }


PHASES = [
    phase_row(
        [0, 1],
        "x2",
        [2, 3],
        writers=[["1.mlp", 0.9]],
        takers=[["2.mlp", -0.6], ["3.mlp", -0.2]],
        writing_neurons=[[1, 58, 0.5]],
        reading_heads=[[2, 0], [2, 1], [3, 0]],
        sink_heads=[[2, 0]],
        most_read=True,
    ),
    phase_row(
        [4, 4],
        "x5",
        None,
        writers=[["4.mlp", 1.0]],
        writing_neurons=[[4, 7, 1.0]],
        reading_heads=[[5, 3]],
        sink_heads=[],
    ),
]


@pytest.fixture(scope="module")
def two_phases():
    made = build_circuit(policies=("without",))
    made.summary.trace["without"] = made.summary.trace["without"].model_copy(
        update={"phases": PHASES}
    )
    return made


def test_the_drawing_has_every_phase(two_phases):
    """Who writes and who takes back in each, by the shares of that phase."""
    shown = picture(two_phases)
    rows = {row.first: row for row in shown.rows}
    shares = {b: [w.share for w in row.writers if w.kind == "mlp"] for b, row in rows.items()}
    assert (shares[1], shares[2], shares[3], shares[4]) == ([0.9], [-0.6], [-0.2], [1.0])
    assert [unit.label for unit in rows[4].writers[-1].units] == ["neuron 7"]
    assert [row.first for row in shown.rows if row.begins] == [4]
    said = {b: [words for words, _ in row.notes] for b, row in rows.items()}
    assert "phase 1 rises" in said[1]
    assert "phase 2 rises" in said[4]
    assert said[2] == ["phase 1 falls"]
    assert "P0 separated" not in str(said)
    svg = "".join(drawn(two_phases).itertext())
    assert "share of what its phase writes" in svg
    assert "phase 1 falls" in svg
    assert "embedding" not in svg


def test_the_bus_is_as_wide_as_what_a_phase_has_written_so_far():
    band = circuit_drawing._bus(Sheet(Layout()), [(9.0, 0.0), (8.0, 2.0), (7.0, 0.5)])
    right = [float(x) for x in re.findall(r"[ML]([\d.]+) ", band)][:3]
    widths = [2 * (x - Layout().bus) for x in right]
    wide = circuit_drawing.width_of
    assert widths == pytest.approx([2.0, wide(1.0), wide(0.25)], abs=0.2)


def test_the_stream_begins_anew_with_a_phase(two_phases):
    svg = circuit_drawing.draw(picture(two_phases), "Circuit")
    (band,) = re.findall(r'<path d="([^"]*)Z" fill="var\(--accent\)" data-tip="Position', svg)
    places = [float(x) for x in re.findall(r"[ML]([\d.]+) ", band)]
    widths = [2 * (x - Layout().bus) for x in places[: len(places) // 2]]
    left = circuit_drawing.width_of(0.1)  # 0.9 written, 0.6 and 0.2 taken back
    at = max(i for i, wide in enumerate(widths) if wide == pytest.approx(left, abs=0.2))
    assert widths[at + 1] == pytest.approx(2.0, abs=0.2)
    assert widths[-1] == pytest.approx(circuit_drawing.THICK, abs=0.2)


def test_a_note_is_drawn_in_a_deep_model_too():
    reads = [circuit_picture.Reader(0.5, True, "")]
    rows = [circuit_picture.PictureRow(block, block, [], reads) for block in range(30)]
    rows[27].notes = [("phase 2 falls", "")]
    deep = circuit_picture.Picture("any first token", None, rows, "", "")
    assert "phase 2 falls" in circuit_drawing.draw(deep, "Circuit")


def test_a_line_a_phase(two_phases):
    first, second = phases.phase_lines(two_phases.summary.trace["without"])
    assert first.replace("\u00a0", " ") == (
        "Phase 1: blocks 0–1 write it (the MLP of block 1 90.0 %), 3 heads of blocks 2–3 read it "
        "(1 as sink heads), blocks 2–3 take it back (the MLP of block 2 60.0 %, the MLP of block 3 "
        "20.0 %); no other is read by more sink heads, so all other figures are of this one."
    )
    assert second.replace("\u00a0", " ") == (
        "Phase 2: block 4 writes it (the MLP of block 4 100.0 %), 1 head of block 5 reads it "
        "(0 as sink heads), it lasts to the end."
    )
    one = build_circuit(policies=("without",)).summary.trace["without"]
    assert phases.phase_lines(one.model_copy(update={"phases": PHASES[:1]})) == []


@pytest.mark.parametrize(
    ("section", "name"), [("position-zero", "norm"), ("amplification", "trace-norm")]
)
def test_norm_charts_mark_rise_reading_and_fall(two_phases, section, name):
    (figure,) = [
        figure
        for each in commands.all_sections(two_phases)
        if each.name == section
        for figure in each.figures
        if figure.name == name
    ]
    chart = figure.variants[0].charts["without"].to_dict()
    rows = [row for data in chart.get("datasets", {}).values() for row in data]
    rows += [r for one in chart["layer"] for r in one.get("data", {}).get("values", [])]
    marks = sorted({(r["series"], r["start"], r["stop"]) for r in rows if "start" in r})
    half = phases.HALF_READ
    assert marks == [
        ("Is read", 2 - half, 3 + half),
        ("Is read", 5 - half, 5 + half),
        ("Is taken back", 2, 4),
        ("Rises", 0, 2),
        ("Rises", 4, 5),
    ]


def test_early_writing_is_drawn_for_each_phase(two_phases):
    trace = two_phases.summary.trace["without"]
    chart = circuit_charts.concentration_chart(trace, frames.group(two_phases, "trace", "without"))
    series = {row["series"] for row in rows_of(chart)}
    assert {f"Of phase {number}, along its own u" for number in (1, 2)} < series
