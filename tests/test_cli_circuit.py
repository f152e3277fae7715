"""trace, verify and run at the command line, on a model whose answer is known."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import subprocess
import sys

import pytest

from sinkscope.cli.app import main
from sinkscope.cli.expect import VERDICTS as VERDICTS_OF_CLI
from sinkscope.cli.expect import exit_on_expect
from sinkscope.known.constructed import build_model, draw_spec, load_truth
from sinkscope.lab.recipe import TrainingRecipe
from sinkscope.schema import VerifySummary
from sinkscope.settings import (
    CheckpointSettings,
    LoadSettings,
    MixSettings,
    ReplicationSettings,
    RunSettings,
    ScanSettings,
    TimelineSettings,
    TraceSettings,
    VerifySettings,
    field_docs,
)

SETTINGS = (
    *(LoadSettings, RunSettings, ScanSettings, TraceSettings, VerifySettings, MixSettings),
    *(TimelineSettings, CheckpointSettings, ReplicationSettings),
)

PROMPTS = ["--prompts", "random", "--n", "12", "--length", "48", "--offline"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return build_model(draw_spec("p0-two-block", 7), tmp_path_factory.mktemp("lab") / "model")


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as exit_:
        main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return exit_.value.code, out, err


def test_run_does_all_three_in_one_folder(model, tmp_path, capsys):
    folder = tmp_path / "D"
    code, out, err = run(
        capsys, "run", model, *PROMPTS, "--no-untrained", "--out", folder, "--json",
        "--expect", "p0-circuit",
    )  # fmt: skip
    assert code == 0, err
    summary = json.loads(out)
    assert summary == json.loads((folder / "summary.json").read_text())
    truth = load_truth(model)
    traced = summary["trace"]["without"]
    assert sorted(traced["writing_neurons"]) == sorted(truth.writing_neurons)
    assert sorted(traced["reading_heads"]) == sorted(truth.reading_heads)
    assert summary["verify"]["without"]["verdict"] == truth.verdict
    assert summary["command"]["name"] == "scan+trace+verify"
    page = (folder / "report.html").read_text()
    assert '<svg class="circuit"' in page
    code, out, _ = run(capsys, "report", folder)
    assert code == 0
    assert "p0-circuit" in out


def test_trace_alone(model, tmp_path, capsys):
    arguments = ["trace", model, *PROMPTS, "--no-untrained", "--no-vocabulary"]
    code, out, _ = run(capsys, *arguments, "--out", tmp_path / "D")
    assert code == 0
    assert "Position zero stands apart from the others from block 1 on" in out
    summary = json.loads((tmp_path / "D" / "summary.json").read_text())
    assert "scan" not in summary
    assert summary["trace"]["without"]["spike_ratio"] is None
    assert summary["command"]["name"] == "trace"


def test_verify_of_a_model_without_a_sink_is_none(folder, capsys):
    arguments = [
        "verify",
        folder,
        "--prompts",
        "random",
        "--n",
        "11",
        "--length",
        "32",
        "--offline",
    ]
    code, out, _ = run(capsys, *arguments, "--json")
    assert code == 0
    assert json.loads(out)["verify"]["without"]["verdict"] == "none"
    code, _, err = run(capsys, *arguments, "--expect", "p0-circuit")
    assert code == 1
    assert "expected p0-circuit, found none (without BOS)" in err


def test_what_cannot_be_expected_is_refused_before_any_work(tmp_path, capsys):
    for command in ("verify", "run"):
        code, _, err = run(capsys, command, tmp_path / "nowhere", "--expect", "magic")
        assert (code, "--expect 'magic' is not one of" in err) == (2, True)
    assert run(capsys, "verify", tmp_path / "nowhere", "--expect", "sink")[0] == 2
    assert run(capsys, "scan", tmp_path / "nowhere", "--expect", "none")[0] == 2
    for wrong, said in (
        ("late-share<few", "'few' is no number"),
        ("late-share<nan", "'nan' is no number"),
        ("norm<3", "'norm' is no column here; there are late-share, heads"),
        ("late-share", "late-share<NUMBER"),
    ):
        code, _, err = run(capsys, "scan", tmp_path / "nowhere", "--expect", wrong)
        assert (code, said in err) == (2, True), err
    assert run(capsys, "verify", tmp_path / "nowhere", "--expect", "heads<3")[0] == 2


def test_run_still_scans_what_cannot_be_traced(folder, tmp_path, capsys, monkeypatch):
    from sinkscope import job
    from sinkscope.errors import Unsupported

    def refuse(*arguments):
        raise Unsupported("The residual identity does not hold.")

    monkeypatch.setattr(job, "trace_one", refuse)
    arguments = ["run", folder, "--prompts", "random", "--n", "3", "--length", "24", "--offline"]
    arguments += ["--no-untrained", "--out", tmp_path / "D"]
    code, out, _ = run(capsys, *arguments, "--json")
    assert code == 0
    summary = json.loads(out)
    assert "trace" not in summary
    assert any("neither traced nor tested" in n for n in summary["scan"]["without"]["notes"])
    assert run(capsys, *arguments, "--expect", "p0-circuit")[0] == 1, "no verdict is not this one"


def test_run_says_why_short_prompts_were_not_tested(folder, tmp_path, capsys):
    code, out, _ = run(
        capsys, "run", folder, "--prompts", "random", "--n", "3", "--length", "12", "--offline",
        "--no-untrained", "--json", "--out", tmp_path / "D",
    )  # fmt: skip
    assert code == 0
    summary = json.loads(out)
    assert "verify" not in summary
    assert any("was not tested" in note for note in summary["trace"]["without"]["notes"])


def test_both_policies_of_a_run_are_held_against_the_expectation(capsys):
    from tests.circuit_fixture import build_circuit

    result = build_circuit()
    exit_on_expect(result, "p0-circuit")
    result.summary.verify["with"] = VerifySummary(verdict="bos-token")
    with pytest.raises(Exception, match="1"):
        exit_on_expect(result, "p0-circuit")
    assert "found bos-token (with BOS)" in capsys.readouterr().err


def test_verdicts_of_the_command_line_are_those_of_the_tests():
    from sinkscope.causal.verdict import VERDICTS
    from sinkscope.report.causal.verdict_page import SENTENCES

    assert set(VERDICTS_OF_CLI) == set(VERDICTS) == set(SENTENCES)


def test_options_are_shared_by_every_command_on_a_model(capsys):
    for name in ("scan", "trace", "verify", "run"):
        code, out, _ = run(capsys, name, "--help")
        assert code == 0
        for option in ("--revision", "--prompts", "--bos", "--seed", "--offline", "--json"):
            assert option in out, (name, option)
        assert "Examples:" in out


def shown(option, out):
    return re.search(rf"^  --{option}\b", out, re.M) is not None


@pytest.mark.parametrize(
    ("name", "kinds"),
    {
        "run": (LoadSettings, RunSettings),
        "scan": (LoadSettings, ScanSettings),
        "trace": (LoadSettings, TraceSettings),
        "verify": (LoadSettings, VerifySettings),
        "mix": (LoadSettings, MixSettings),
        "timeline": (TimelineSettings, CheckpointSettings),
    }.items(),
)
def test_every_setting_is_an_option_and_its_help_is_the_docstring(name, kinds, capsys):
    code, out, _ = run(capsys, name, "--help")
    words = " ".join(out.split())
    assert code == 0
    for kind in kinds:
        docs = field_docs(kind)
        for each in dataclasses.fields(kind):
            option = each.metadata.get("name", each.name.replace("_", "-"))
            if option is None:
                assert not shown(each.name, out)
                continue
            assert shown(option, out) or each.metadata.get("argument"), each.name
            if not re.search("-[a-z]|/", docs[each.name]):  # such words may be broken over lines
                assert docs[each.name][1:] in words, each.name


@pytest.mark.parametrize("kind", [*SETTINGS, TrainingRecipe], ids=lambda kind: kind.__name__)
def test_every_setting_is_explained_in_one_line_of_its_class(kind):
    assert {each.name for each in dataclasses.fields(kind)} <= set(field_docs(kind))


def test_meanings_are_read_from_docstrings_with_and_without_their_margin():
    """The compiler of Python 3.13 strips it."""
    stripped = type("Stripped", (), {"__doc__": inspect.cleandoc(ScanSettings.__doc__)})
    own = {name: field_docs(ScanSettings)[name] for name in field_docs(stripped)}
    assert own
    assert field_docs(stripped) == own


def test_run_takes_the_settings_of_verify(model, tmp_path, capsys):
    code, out, err = run(
        capsys, "run", model, *PROMPTS, "--no-untrained", "--no-vocabulary", "--rows", "3",
        "--position", "4", "--draws", "2", "--out", tmp_path / "D", "--json",
    )  # fmt: skip
    assert code == 0, err
    command = json.loads(out)["command"]
    assert [command["verify"][name] for name in ("rows", "position", "draws")] == [3, 4, 2]
    assert command["trace"]["vocabulary"] is False
    assert "rows" not in command["scan"]


def test_help_imports_nothing_heavy():
    code = "import sys; from sinkscope.cli.app import app; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
