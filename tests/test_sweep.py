"""`sweep`: the same bytes however it is run and killed, a failed model is a row, no name a path."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
import yaml

from sinkscope.cli.app import main
from sinkscope.errors import InputError
from sinkscope.model_runs import sweep as sweeping
from sinkscope.model_runs.plan import read_plan
from sinkscope.model_runs.rows import rows_of
from sinkscope.model_runs.sweep import sweep
from sinkscope.report.sweep import words
from sinkscope.report.sweep.page import render_sweep
from sinkscope.result import load_result
from sinkscope.schema.sweep import SweepRow, SweepSummary
from sinkscope.subject.tiny import tiny_model
from tests.conftest import word_tokenizer

ALIKE = ("report.html", "summary.json", "index.csv")  # the same bytes, whatever happened
SCAN = {"n": 3, "length": 24, "untrained": False}


def written(path: Path, **content) -> Path:
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A folder with a model that can be measured and one that cannot."""
    folder = tmp_path_factory.mktemp("models")
    tiny_model("gpt2").save_pretrained(folder / "fine")
    word_tokenizer(100).save_pretrained(folder / "fine")
    tiny_model("llama").save_pretrained(folder / "broken")
    (folder / "broken/model.safetensors").write_bytes(b"12345678 no header")
    return folder


@pytest.fixture(scope="module")
def file(models) -> Path:
    held = ["p0-two-block", "bos-token"]
    entries = [{"constructed": name, "seed": 1, "family": "llama", "noise": 0.0} for name in held]
    entries += [{"model": str(models / name)} for name in ("broken", "fine")]
    settings = {**SCAN, "bos": "both", "seed": [0, 1]}
    return written(models / "few.yaml", models=entries, do="scan", settings=settings)


@pytest.fixture(scope="module")
def whole(file, tmp_path_factory) -> Path:
    """The folder of a sweep that was left alone."""
    out = tmp_path_factory.mktemp("whole") / "out"
    found = sweep(file, out, threads=1)
    assert found.measured == 6
    return out


def bytes_of(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in ALIKE}


def summary_of(out: Path) -> SweepSummary:
    return SweepSummary.model_validate_json((out / "summary.json").read_text(encoding="utf-8"))


def test_every_run_is_a_row_and_a_failed_model_one_with_its_reason(whole):
    summary = summary_of(whole)
    assert [(row.model, row.settings["seed"], row.bos) for row in summary.rows[:3]] == [
        ("p0-two-block-llama-0.0-1", 0, "without"),
        ("p0-two-block-llama-0.0-1", 0, "with"),
        ("p0-two-block-llama-0.0-1", 1, "without"),
    ]
    assert len(summary.rows) == 12
    assert [one["model"] for one in summary.failed] == ["broken"] * 2
    assert "corrupt" in summary.failed[0]["reason"]
    sink = {(row.model, row.bos): row.p0_sink for row in summary.rows}
    assert sink["bos-token-llama-0.0-1", "without"] is False
    assert sink["bos-token-llama-0.0-1", "with"] is True


def test_rows_and_pages_are_those_of_the_runs(whole):
    page = (whole / "report.html").read_text(encoding="utf-8")
    for row in summary_of(whole).rows:
        assert f'href="runs/{row.run}/report.html"' in page
        result = load_result(whole / "runs" / row.run)
        again = {one.bos: one for one in rows_of(result, row.run)}[row.bos]
        assert again.late_share == row.late_share
        assert result.summary.command["seed"] == row.settings["seed"]
        assert (again.blocks, again.family) == (row.blocks, row.family)
    with (whole / "index.csv").open(encoding="utf-8", newline="") as handle:
        table = list(csv.DictReader(handle))
    shares = [row.late_share.value for row in summary_of(whole).rows]
    assert [float(line["late_share"]) for line in table] == shares


def test_nothing_is_measured_twice(file, whole, monkeypatch):
    before = bytes_of(whole)
    tried = count_measured(monkeypatch)
    assert sweep(file, whole, threads=1).measured == 0
    assert tried == [4, 5]  # the broken model alone is tried again
    assert bytes_of(whole) == before


def count_measured(monkeypatch) -> list[int]:
    measure, tried = sweeping.measure, []

    def counted(task):
        tried.append(task.index)
        return measure(task)

    monkeypatch.setattr(sweeping, "measure", counted)
    return tried


def test_a_sweep_that_was_broken_off_goes_on(file, whole, tmp_path, monkeypatch):
    measure, tried = sweeping.measure, []

    def cut(task):
        tried.append(task.index)
        if tried.count(2):
            raise KeyboardInterrupt
        return measure(task)

    monkeypatch.setattr(sweeping, "measure", cut)
    with pytest.raises(KeyboardInterrupt):
        sweep(file, tmp_path / "out", threads=1)
    assert not (tmp_path / "out/report.html").exists()
    monkeypatch.setattr(sweeping, "measure", measure)
    assert sweep(file, tmp_path / "out", threads=1).measured == 4
    assert bytes_of(tmp_path / "out") == bytes_of(whole)


def test_processes_give_the_same_bytes(file, whole, tmp_path):
    sweep(file, tmp_path / "out", workers=2, threads=1)
    assert bytes_of(tmp_path / "out") == bytes_of(whole)


def test_ray_on_two_nodes_gives_the_same_bytes(file, whole, tmp_path):
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    try:
        assert sum(node["Alive"] for node in ray.nodes()) == 2
        sweep(file, tmp_path / "out", workers="ray", threads=1)
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert bytes_of(tmp_path / "out") == bytes_of(whole)


def test_changed_weights_and_damaged_rows_are_measured_anew(models, tmp_path, monkeypatch):
    place = tmp_path / "model"
    tiny_model("gpt2").save_pretrained(place)
    word_tokenizer(100).save_pretrained(place)
    file = written(tmp_path / "one.yaml", models=[str(place)], do="scan", settings=SCAN)
    out = tmp_path / "out"
    [first] = sweep(file, out, threads=1).summary.rows
    tiny_model("gpt2", seed=5).save_pretrained(place)
    [second] = sweep(file, out, threads=1).summary.rows
    assert second.run != first.run
    assert second.late_share != first.late_share
    (out / "runs" / second.run / "row.json").write_text('{"key": 1', encoding="utf-8")
    assert sweep(file, out, threads=1).measured == 1
    assert sweep(file, out, threads=1, anew=True).measured == 1


def test_memory_that_runs_out_is_of_one_model(file, tmp_path, monkeypatch):
    from sinkscope.model_runs import task

    def full(*_, **__):
        raise MemoryError

    monkeypatch.setitem(task.COMMANDS, "scan", full)
    found = sweep(file, tmp_path / "out", threads=1)
    assert found.summary.failed[0]["reason"] == "there is not enough memory for it."
    assert not found.summary.rows
    assert (tmp_path / "out/report.html").is_file()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"models": []}, "no models"),
        ({"models": ["bundled"], "do": "mix"}, "do: "),
        ({"models": ["bundled"], "to": 3}, "to is not a setting"),
        ({"models": [{"model": "bundled", "allow_pickle": True}]}, "allow_pickle is not a setting"),
        ({"models": [{"model": "bundled", "name": "../../up"}]}, "no plain name"),
        ({"models": [{"model": "bundled", "constructed": "bos-token"}]}, "either"),
        ({"models": [{"constructed": "wish"}]}, "'wish' is not one of"),
        ({"models": [{"model": "bundled", "seed": 3}]}, "has no seed of its own"),
        ({"models": ["bundled", "bundled"]}, "two models are called 'bundled'"),
        ({"models": ["bundled"], "settings": {"budget": 3}}, "depends on the clock"),
        ({"models": ["bundled"], "settings": {"lenght": 3}}, "'lenght' is no setting"),
        ({"models": ["bundled"], "settings": {"n": "many"}}, "n: "),
        ({"models": ["bundled"], "settings": {"n": 0}}, "the least is 1"),
        ({"models": ["bundled"], "settings": {"n": []}}, "n is an empty list"),
        ({"models": ["bundled"], "settings": {"n": [4, 4]}}, "the same value twice"),
        ({"models": ["bundled"], "settings": {"dtype": "int3"}}, "dtype 'int3'"),
        ({"models": ["bundled"], "settings": {"seed": [*range(20_000)]}}, "20,000 choices"),
        ({"modles": ["bundled"]}, "a.yaml: modles is not a setting"),
        ([1, 2], "a.yaml: input should be an object"),
    ],
)
def test_files_that_will_not_do(tmp_path, content, said):
    file = tmp_path / "a.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(InputError, match=said):
        read_plan(file)


def test_a_key_that_stands_twice_is_told(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("models: [bundled]\nmodels: [{constructed: bos-token}]\n", encoding="utf-8")
    with pytest.raises(InputError, match="models stands there twice"):
        read_plan(file)


@pytest.mark.parametrize(
    "model", ["..", "../../etc/passwd", "/", "a\n\x1b[2J/../b", "org/na me", "…"]
)
def test_no_name_of_a_model_is_a_path(tmp_path, model):
    [planned] = read_plan(written(tmp_path / "a.yaml", models=[model])).runs
    name = planned.folder("0123456789abcdef")
    assert Path(name).name == name
    assert name[0] not in ".-"
    assert name.endswith("-01234567")
    assert name.isprintable()


def test_a_list_is_all_its_values_and_two_their_product(tmp_path):
    settings = {"n": 4, "length": [24, 48], "seed": [0, 1]}
    plan = read_plan(written(tmp_path / "a.yaml", models=["bundled"], settings=settings))
    assert [planned.varied for planned in plan.runs] == [
        {"length": length, "seed": seed} for length in (24, 48) for seed in (0, 1)
    ]
    assert plan.do == "run"
    assert {planned.settings["n"] for planned in plan.runs} == {4}


def test_a_folder_that_holds_something_else_is_refused(file, tmp_path):
    (tmp_path / "summary.json").write_text('{"schema": "1", "scan": {}}', encoding="utf-8")
    with pytest.raises(InputError, match="another command"):
        sweep(file, tmp_path, threads=1)


def test_the_command_line_says_what_failed(file, whole, capsys):
    for options, shown in ((["--quiet"], "report.html\n"), ([], "Report: "), (["--json"], "}\n")):
        with pytest.raises(SystemExit) as exit_:
            main(["sweep", str(file), "--out", str(whole), *options])
        out, err = capsys.readouterr()
        assert exit_.value.code == 1
        assert shown in out
        assert "corrupt" in (err if options else out)
    assert len(json.loads(out)["rows"]) == 12


def row(model: str, **about) -> SweepRow:
    return SweepRow(
        **{
            "run": f"{model}-1",
            "model": model,
            "family": "Llama",
            "parameters": 1,
            "bos": "without",
            "kind": "p0",
            "p0_sink": True,
            **about,
        }
    )


def test_sentences_count_what_the_rows_say():
    rows = [
        row("a", emergence_block=-1, verdict="p0-circuit", expected="p0-circuit"),
        row("a", emergence_block=2, bos="with", p0_sink=False, kind="none", verdict="none"),
        row("b", emergence_block=2, verdict="undetermined", expected="bos-token"),
        row("c", p0_sink=None, verdict="bos-token+p0-circuit", expected="p0-circuit+bos-token"),
        row("d", p0_sink=False, kind="none", verdict="none", expected="p0-circuit"),
    ]
    assert words.sinks(rows) == (
        "Position zero is a sink in 1 of 4 models, in part of the rows of 1 (a), in no row of 1, "
        "and 1 are undecided (c)."
    )
    assert words.known(rows) == (
        "Of constructed models, whose answer is known, the verdict is the known one in 2 of 4 "
        "rows, undetermined in 1, another in 1 (d)."
    )
    assert words.since(rows) == (
        "Where position zero is a sink, it is set apart between embedding and block 2."
    )
    assert words.by_policy(rows) == "BOS decides whether position zero is a sink in 1 model: a."
    assert words.by_policy(rows[2:]) == ""
    assert "not the same in all rows of a" in words.verdicts(rows)
    phase = {"rise": [0, 1], "fall": None, "readers": 3, "most_read": True}
    assert words.phases([row("a", phases=[phase] * 2)]) == "1 model raises position zero twice: a."
    assert words.phases([row("a", phases=[phase])]) == ""


def test_names_of_models_are_text_on_the_page(whole):
    summary = summary_of(whole)
    hostile = "<script>alert(1)</script>\x1b[2J"
    summary.rows[0].model = summary.failed[0]["model"] = hostile
    page = render_sweep(summary)
    assert "<script>alert" not in page
    assert "\x1b" not in page


def test_threads_of_this_process_are_left_as_they_were(file, whole):
    before = torch.get_num_threads()
    sweep(file, whole, threads=before)
    assert torch.get_num_threads() == before
