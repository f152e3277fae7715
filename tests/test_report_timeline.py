"""What the page, the terminal and the exporter say of a timeline."""

from __future__ import annotations

import re

import numpy as np
import pytest

from sinkscope.report import commands
from sinkscope.report.page import render_page
from sinkscope.report.timeline import page as timeline_page
from sinkscope.report.timeline import words
from sinkscope.report.timeline.axis import Axis, axes_of, event_layers, stage_layers, x_of
from sinkscope.schema import RunSummary
from sinkscope.schema.base import Measured
from tests.timeline_fixture import STEPS, build_timeline

AXES = ["steps, log", "steps, linear", "tokens, log", "tokens, linear"]


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return build_timeline(tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    return build_timeline(tmp_path_factory.mktemp("three"), runs=3)


def _figures(result):
    return {
        figure.name: figure
        for section in timeline_page.sections(result)
        for figure in section.figures
    }


def test_every_figure_over_training_offers_the_same_axes(three):
    figures = _figures(three)
    assert {"timeline-course", "timeline-loss", "timeline-bands", "timeline-heat"} <= set(figures)
    for name, figure in figures.items():
        assert figure.axes == ([""] if name == "timeline-heat" else AXES)
        assert len(figure.variants) == len(figure.labels) * len(figure.axes)
    assert figures["timeline-bands"].choice == "Run"
    assert figures["timeline-bands"].labels == ["run-0", "run-1", "run-2"]


def test_tokens_are_offered_only_where_every_run_knows_them(three):
    data = {name: three.data[f"timeline/run-{i}"].to_dataset() for i, name in enumerate("abc")}
    assert list(axes_of(data)) == AXES
    data["b"] = data["b"].drop_vars("tokens")
    assert list(axes_of(data)) == AXES[:2]
    data["b"].attrs["unit"] = "index"
    assert list(axes_of(data)) == ["index and steps, log", "index and steps, linear"]


def test_marks_lie_where_they_should_on_every_axis(one):
    data = {"run": one.data["timeline/run-0"].to_dataset()}
    stages = [
        {"start": 0, "stop": 20, "low": None, "high": 0},
        {"start": 40, "stop": 160, "low": 20, "high": 40},
    ]
    emergence = {"sink": {"step": 20, "low": None, "high": 30.0, "before": None}}
    run = RunSummary.model_construct(
        steps=list(STEPS), emergence=emergence, settled_step=80, stages=stages
    )
    found = {"run": run}
    for by, unit in (("step", 1), ("tokens", 1000)):
        axis = Axis(by, True)
        x = x_of(data, axis)
        rules, _, bar = event_layers(data, found, axis, x)
        assert [row["x"] / unit for row in rules.data["values"]] == [20, 80]
        assert bar.data["values"][0] == {"x": 0, "stop": 30 * unit, "run": "run"}
        stage, gap = stage_layers(data, found, axis, x)
        assert stage.data["values"] == [{"x": 40 * unit, "stop": 160 * unit}]
        assert gap.data["values"] == [{"x": 20 * unit, "stop": 40 * unit}]


def test_words_name_every_run(one, three):
    assert "holds no findings" not in render_page(one)
    assert '<h1>Attention sinks in <span class="model">run-0, run-1 and run-2' in render_page(three)
    text = three.table()
    assert re.search(r"[Aa] sink emerged in \d of 3 runs; (none|\d) settled\.", text)
    assert all(f"• run-{number}: " in text for number in range(3))
    [found] = commands.all_findings(one, "")
    assert len(found.keys) == 4


def test_what_was_not_asked_for_is_named(one):
    [run] = one.summary.timeline.runs.values()
    assert "Not asked for." not in run.notes
    assert any("untrained was not asked for" in note for note in run.notes)


def test_sentences_claim_no_more_than_the_blocks_that_were_looked_at():
    one = {"settled_step": 80, "settled": {"announced": 80}, "unit": "step", "steps": [1, 80]}
    one |= {"emergence": {"sink": None}, "vanished_step": None, "stages": []}
    one |= {
        "concentration": {"2": Measured(value=0.5)},
        "present_from_start": False,
        "sink_spans": [],
    }

    def said(first):
        looked = {"first_blocks": first, "blocks": 8}
        run = RunSummary.model_construct(**one, looked_at=looked)
        return [*words.sentences(run), words.of_several({"a": run, "b": run})]

    one["sink_spans"] = [[80, 80]]
    assert "no sink is seen to last over 2 checkpoints; one stands at step 80." in said(8)[0]
    one["sink_spans"] = []
    for part in said(4)[0], said(4)[1]:
        assert "in the first 4 of 8 blocks" in part
    assert "In the blocks that were looked at" in said(4)[-1]
    assert "one stage" not in " ".join(said(8))  # of a sink that never came
    assert not any("blocks" in each for each in (*said(8)[:2], said(8)[-1]))


def test_a_share_that_there_is_none_of_is_not_told():
    none = {"2": Measured(value=None, low=0.0, high=1.0)}
    assert words.written("a", RunSummary.model_construct(concentration=none), 2) == ""


def test_charts_over_tokens_hold_tokens(one):
    chart = next(
        v.charts[""] for v in _figures(one)["timeline-course"].variants if v.axis == AXES[2]
    )
    rows = next(layer.data["values"] for layer in chart.layer if "value" in layer.data["values"][0])
    assert [row["x"] for row in rows] == [1000 * step for step in STEPS]
    assert [row["step"] for row in rows] == list(STEPS)


def test_two_timelines_are_compared(one, three):
    page = render_page(one, three)
    assert "Emergence step" in page
    assert "share no" not in page.split('id="compare"')[1].split("</section>")[0]


def test_dashes_tell_curves_of_one_colour_apart(one):
    data = one.data["timeline/run-0"].to_dataset()
    runs = {f"run {i}": data for i in range(6)}
    found = dict.fromkeys(runs, one.summary.timeline.runs["run-0"])
    chart = timeline_page.charts.course_chart(
        runs, timeline_page.charts.MEASURES[1], found, timeline_page.STEPS
    )
    encodings = [layer.to_dict()["encoding"] for layer in chart.layer]
    dashes = next(e["strokeDash"]["scale"]["range"] for e in encodings if "strokeDash" in e)
    assert dashes[0] == dashes[3] != dashes[4]
    assert np.shape(dashes)[0] == 6
