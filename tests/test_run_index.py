"""An index of runs: what is found in a folder, filtered and sorted, in a terminal and on a page."""

from __future__ import annotations

import json

import pytest

from sinkscope.cli import common
from sinkscope.cli.app import main
from sinkscope.errors import InputError
from sinkscope.model_runs.index import chosen, runs_in
from sinkscope.report.sweep.columns import COLUMNS
from sinkscope.report.sweep.page import render_index
from sinkscope.report.sweep.tables import plain_table
from sinkscope.schema import Measured
from sinkscope.schema.sweep import SweepRow
from tests.report_fixture import build_result
from tests.test_report_browser import (  # noqa: F401 - fixtures
    SCREENS,
    Opened,
    axe,
    browser,
    serious,
)
from tests.timeline_fixture import build_timeline


def row(model: str, share: float | None = None, **about) -> SweepRow:
    late = None if share is None else Measured(value=share, low=share - 0.01, high=share + 0.01)
    plain = {"run": model, "family": "Llama", "parameters": 1, "bos": "without", "kind": "p0"}
    return SweepRow(**{**plain, "model": model, "late_share": late, **about})


ROWS = [
    row("b", 0.1, p0_sink=False, verdict="none", settings={"seed": 1}),
    row("a", 0.4, p0_sink=True, verdict="p0-circuit", settings={"seed": 0}),
    row("d", None, p0_sink=None, settings={"seed": 1}),
    row("c", 0.25, p0_sink=True, verdict="bos-token", settings={"seed": 10}),
]


@pytest.mark.parametrize(
    ("where", "sort", "models"),
    [
        ([], None, "badc"),
        ([], "model", "abcd"),
        ([], "-late-share", "acbd"),  # without a value: last, either way
        ([], "late-share", "bcad"),
        ([], "-seed", "cbda"),
        (["late-share>0.1"], None, "ac"),
        (["late-share>=0.1", "sink=yes"], "late-share", "ca"),
        (["sink!=yes"], None, "bd"),
        (["seed=1"], None, "bd"),
        (["seed<10"], "model", "abd"),
        (["verdict = bos-token"], None, "c"),
        (["sink=undecided"], None, "d"),
    ],
)
def test_rows_are_filtered_and_sorted(where, sort, models):
    assert "".join(one.model for one in chosen(ROWS, where, sort)) == models


@pytest.mark.parametrize(
    ("where", "sort", "said"),
    [
        (["late-share"], None, "not of the form"),
        (["weight>3"], None, "no column here"),
        (["verdict>none"], None, "'none' is no number"),
        ([], "weight", "no column here"),
    ],
)
def test_conditions_that_cannot_be_one(where, sort, said):
    with pytest.raises(InputError, match=said):
        chosen(ROWS, where, sort)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two runs, one of them deep, one that is damaged, and what a killed process left."""
    place = tmp_path_factory.mktemp("runs")
    build_result(minimal=True, policies=("without",)).save(place / "one")
    build_result(minimal=True, seed=3).save(place / "deep" / "er" / "two")
    build_result(minimal=True, seed=4).save(place / "broken")
    (place / "broken" / "summary.json").write_text("{", encoding="utf-8")
    build_result(minimal=True, seed=5).save(place / ".part-1" / "three")
    return place


def test_every_run_below_a_folder_is_found(folder):
    found = runs_in(folder)
    assert [(one.run, one.bos) for one in found.rows] == [
        ("deep/er/two", "with"),
        ("deep/er/two", "without"),
        ("one", "without"),
    ]
    assert found.pages["deep/er/two"] == "deep/er/two/report.html"
    assert list(found.left_out) == ["broken"]
    with pytest.raises(InputError, match="is no folder"):
        runs_in(folder / "none")


def test_a_timeline_has_no_row_and_is_named(tmp_path):
    build_timeline(tmp_path / "source").save(tmp_path / "runs" / "course")
    found = runs_in(tmp_path / "runs")
    assert found.rows == []
    assert "over its checkpoints" in found.left_out["course"]


def test_the_length_is_a_column_where_runs_differ_in_it(tmp_path):
    for name, length in (("short", 16), ("long", 24)):
        result = build_result(minimal=True, policies=("without",))
        result.summary.prompts.length = length
        result.save(tmp_path / name)
    rows = runs_in(tmp_path).rows
    assert [row.run for row in chosen(rows, ["length>20"], None)] == ["long"]
    (tmp_path / "short" / "summary.json").unlink()
    (tmp_path / "short" / "arrays.nc").unlink()
    assert [row.settings for row in runs_in(tmp_path).rows] == [{}]


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no run"):
        runs_in(tmp_path)


def test_the_command_line_lists_them(folder, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["index", str(folder), "--where", "bos=without", "--json"])
    out, err = capsys.readouterr()
    assert exit_.value.code == 0
    assert [one["run"] for one in json.loads(out)] == ["deep/er/two", "one"]
    assert "broken is left out" in err
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert 'href="deep/er/two/report.html"' in page
    with pytest.raises(SystemExit) as exit_:
        main(["index", str(folder)])
    assert "3 of 3 rows" in capsys.readouterr().out


@pytest.mark.browser
def test_the_page_sorts_and_filters(browser, tmp_path):  # noqa: F811
    file = tmp_path / "index.html"
    file.write_text(render_index("runs", ROWS, {"a": "a/report.html"}, "0"), encoding="utf-8")
    page = Opened(browser, file.as_uri(), folded=True).page
    shown = """() => [...document.querySelectorAll(".index tbody tr")]
        .filter((row) => !row.hidden).map((row) => row.cells[0].textContent).join("")"""
    assert page.evaluate(shown) == "badc"
    heading = page.get_by_role("button", name="Late share")
    heading.click()
    assert page.evaluate(shown) == "bcad"
    heading.click()
    assert page.evaluate(shown) == "acbd"
    page.get_by_label("Sink", exact=True).select_option(label="yes")
    assert page.evaluate(shown) == "ac"
    page.get_by_label("Search").fill("bos-token")
    assert page.evaluate(shown) == "c"
    assert page.locator(".index output").inner_text() == "1 of 4 rows"


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), SCREENS)
def test_axe_finds_nothing_serious_in_the_page(browser, axe, tmp_path, width, scheme):  # noqa: F811
    file = tmp_path / "index.html"
    file.write_text(render_index("runs", ROWS, {"a": "a/report.html"}, "0"), encoding="utf-8")
    options = {"color_scheme": scheme, "viewport": {"width": width, "height": 900}}
    opened = Opened(browser, file.as_uri(), folded=True, bypass_csp=True, **options)
    assert serious(opened, axe) == []
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    assert opened.said == []
    opened.page.close()


def test_runs_that_nothing_else_tells_apart_are_listed_by_their_folder():
    rows = [row("same", 0.5, run=run) for run in ("mon", "tue")]
    shown = plain_table(rows, "Runs")
    assert (shown.columns[0], [cells[0] for cells in shown.rows]) == ("Run", ["mon", "tue"])
    assert "Run" not in plain_table(ROWS, "Runs").columns


def test_every_cell_of_a_page_has_the_name_of_its_column():
    """On a narrow screen a row is a list of cells."""
    page = render_index("runs", ROWS, {}, "0")
    assert page.count("<td data-key") == 0
    assert page.count('<td data-label="Sink"') == len(ROWS)


def test_tokens_that_stand_once_are_not_named_as_the_most_frequent():
    [column] = [column for column in COLUMNS if column.name == "p0"]
    shown = [column.text(row("a", 0.5, position_zero=zero)) for zero in ("':' × 1", "'<s>' × 8")]
    assert shown == ["another in each prompt", "'<s>' × 8"]


def test_results_in_a_folder_that_cannot_be_written_are_shown_all_the_same(
    folder, tmp_path, capsys, monkeypatch
):
    """`index` and `report` of the results of others; charts of them go where one can write."""
    prove = common.prove_writable
    run = next(one.parent for one in folder.rglob("summary.json"))

    def refuse(place):
        if place in (folder, run):
            raise InputError(f"Cannot write to {place}: Permission denied.")
        prove(place)

    monkeypatch.setattr(common, "prove_writable", refuse)
    for command, place, name in (("index", folder, "index.html"), ("report", run, "report.html")):
        for options, code in (([], 0), (["--json"], 0), (["--quiet"], 2)):
            (place / name).unlink(missing_ok=True)
            with pytest.raises(SystemExit) as ended:
                main([command, str(place), *options])
            assert ended.value.code == code
            out, err = capsys.readouterr()
            assert "Permission denied" in err
            assert bool(out) == (code == 0)
            assert "--out" not in out
            assert not (place / name).exists()
    with pytest.raises(SystemExit) as ended:
        main(["report", str(run), "--figures", str(tmp_path / "figures")])
    assert ended.value.code == 0
    assert list((tmp_path / "figures").iterdir())
