"""Results on disk: whole or not at all."""

import errno
import json

import numpy as np
import pytest
import xarray

from sinkscope.detect.scan import scan
from sinkscope.errors import InputError, OutOfResources
from sinkscope.files import write_folder
from sinkscope.result import Result, TraceSummary, load_result
from tests.circuit_fixture import build_circuit

NEEDED = {  # without these nothing can be said
    "scan": {"p0_sink", "sink_rate", "late_share", "uniform_late_share", "position_zero"},
    "trace": {
        *("emergence_block", "amplification", "recognition_point", "reading_heads"),
        *("writing_neurons", "writing_heads", "writing_experts"),
    },
    "verify": {"verdict"},
}


@pytest.fixture
def result(llama):
    return scan(llama, n=3, length=24, kind="random", untrained=False)


def test_save_and_load_give_the_same(result, tmp_path):
    folder = result.save(tmp_path / "run")
    assert sorted(p.name for p in folder.iterdir()) == ["arrays.nc", "report.html", "summary.json"]
    back = load_result(folder)
    assert back.to_json() == result.to_json()
    for name, array in result.data["scan/without"].data_vars.items():
        np.testing.assert_array_equal(array.values, back.data["scan/without"][name].values, name)
    assert back.data["scan/without"]["p0_late"].attrs["long_name"].startswith("late share")
    assert list(back.data["scan/without"]["layer_type"].values) == ["full"] * 4


def test_summary_has_the_keys_scripts_rely_on(result):
    summary = json.loads(result.to_json())
    assert summary["schema"] == "1"
    assert set(summary["model"]) >= {
        "id",
        "revision",
        "architecture",
        "weights_sha256",
        "parameters",
    }
    assert set(summary["prompts"]) >= {"kind", "n", "length", "sha256"}
    assert set(summary["environment"]) >= {
        "sinkscope",
        "torch",
        "transformers",
        "device",
        "dtype",
        "seed",
    }
    scanned = summary["scan"]["without"]
    assert set(scanned["sink_rate"]) == {"0.2", "0.3", "0.5", "0.8"}
    assert set(scanned["late_share"]) == {"value", "low", "high"}
    assert {"uniform_late_share", "reader"} <= set(scanned)


def test_every_array_is_labelled(result):
    for name, array in result.data["scan/without"].data_vars.items():
        assert array.attrs["long_name"], name
        assert "units" in array.attrs, name


def test_a_broken_write_leaves_the_previous_run_whole(result, tmp_path, monkeypatch):
    folder = result.save(tmp_path / "run")
    before = {p.name: p.read_bytes() for p in folder.iterdir()}

    def fail(path):
        path.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OutOfResources, match="disk is full"):
        write_folder(folder, {"summary.json": lambda p: p.write_text("new"), "arrays.nc": fail})
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_a_second_run_replaces_the_first(result, llama, tmp_path):
    result.save(tmp_path / "run")
    other = scan(llama, n=3, length=24, kind="random", seed=5, untrained=False)
    folder = other.save(tmp_path / "run")
    assert load_result(folder).to_json() == other.to_json() != result.to_json()


def test_a_file_in_the_way(result, tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(InputError, match="Cannot write"):
        result.save(tmp_path / "run")


def test_not_a_run_folder(tmp_path):
    with pytest.raises(InputError, match="not a run folder"):
        load_result(tmp_path)


@pytest.mark.parametrize("name", ["summary.json", "arrays.nc"])
def test_damaged_run_folder(result, tmp_path, name):
    folder = result.save(tmp_path / "run")
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=f"run/{name} is damaged"):
        load_result(folder)


def test_a_value_that_is_none_is_named(result, tmp_path):
    folder = result.save(tmp_path / "run")
    content = json.loads((folder / "summary.json").read_text()) | {"model": 3}
    (folder / "summary.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"summary.json is damaged: model: "):
        load_result(folder)


@pytest.mark.parametrize("command", ["scan", "trace", "verify"])
def test_an_older_result_is_shown_without_what_it_lacks(tmp_path, command):
    folder = build_circuit(policies=("without",)).save(tmp_path / "run")
    whole = json.loads((folder / "summary.json").read_text())
    for key in whole[command]["without"]:
        content = json.loads(json.dumps(whole))
        del content[command]["without"][key]
        (folder / "summary.json").write_text(json.dumps(content))
        if key in NEEDED[command]:
            with pytest.raises(InputError, match=f"older version .* lacks {command}.without.{key}"):
                load_result(folder)
        else:
            text = " ".join(load_result(folder).table().split())
            assert f"Not in this older result: {key.replace('_', ' ')}." in text


def test_another_schema_is_refused(result, tmp_path):
    folder = result.save(tmp_path / "run")
    content = json.loads((folder / "summary.json").read_text())
    content["schema"] = "99"
    (folder / "summary.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="schema 99"):
        load_result(folder)


def test_table_and_plot(result):
    assert "tiny llama" in result.table()
    assert result.plot().to_dict()


def other_part(result, name="trace", **arrays):
    """A result of another command on the same model and prompts."""
    summary = result.summary.model_copy(deep=True)
    summary.scan = {}
    summary.command = {"name": name, "n_verify": 3}
    found = TraceSummary(
        emergence_block=1,
        amplification="norm",
        recognition_point="x1",
        writing_neurons=[[1, 5]],
        writing_heads=[],
        writing_experts=[],
        reading_heads=[[2, 0]],
    )
    setattr(summary, name, {"without": found})
    data = xarray.Dataset({k: ("point", v) for k, v in arrays.items()})
    return Result(summary, xarray.DataTree.from_dict({f"{name}/without": data}))


def test_a_merge_holds_both_commands(result, tmp_path):
    merged = result.merge(other_part(result, norm=np.arange(3.0)))
    assert merged.summary.scan["without"] == result.summary.scan["without"]
    assert merged.summary.trace["without"].writing_neurons == [[1, 5]]
    assert merged.summary.command["name"] == "scan+trace"
    assert merged.summary.command["trace"] == {"n_verify": 3}
    assert merged.summary.command["scan"]["n"] == 3
    assert not result.summary.trace, "the parts stay as they were"
    back = load_result(merged.save(tmp_path / "run"))
    assert back.to_json() == merged.to_json()
    assert list(back.data["trace/without"]["norm"].values) == [0, 1, 2]
    assert "p0_late" in back.data["scan/without"]


def test_merging_again_replaces_that_command_alone(result):
    first = result.merge(other_part(result, norm=np.zeros(3)))
    again = first.merge(other_part(result, norm=np.ones(2)))
    assert list(again.data["trace/without"]["norm"].values) == [1, 1]
    assert set(again.summary.command) == {"name", "scan", "trace"}


def test_unlike_results_are_not_merged(result):
    for change, words in (
        (lambda s: setattr(s.model, "weights_sha256", "0"), "weights"),
        (lambda s: setattr(s.environment, "dtype", "bfloat16"), "bfloat16"),
        (lambda s: s.prompts.sha256.update(without="0"), "prompts differ"),
    ):
        other = other_part(result)
        change(other.summary)
        with pytest.raises(InputError, match=words):
            result.merge(other)


def test_commands_that_were_not_run_leave_no_key(result):
    assert {"trace", "verify", "timeline", "mix"}.isdisjoint(json.loads(result.to_json()))


def test_a_file_of_another_user_is_not_called_damaged(result, tmp_path, monkeypatch):
    folder = result.save(tmp_path / "run")
    denied = PermissionError(13, "Permission denied")
    monkeypatch.setattr("sinkscope.result.read_arrays", lambda file: (_ for _ in ()).throw(denied))
    with pytest.raises(InputError, match=r"arrays.nc cannot be read: it belongs to another user"):
        load_result(folder)


def test_a_summary_that_is_no_object_is_told_without_a_key(result, tmp_path):
    folder = result.save(tmp_path / "run")
    (folder / "summary.json").write_text("[]")
    with pytest.raises(InputError, match=r"summary.json is damaged: Input should be"):
        load_result(folder)
