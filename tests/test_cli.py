"""The command line as a user meets it: output, exit codes, one sentence for every bad input."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
import typer
from safetensors.torch import load_file, save_file

import sinkscope
import sinkscope.ranks
from sinkscope.cli.app import main
from sinkscope.cli.expect import exit_on_expect
from sinkscope.cli.lab import EXAMPLES as LAB

SMALL = ["--n", "3", "--length", "24", "--no-untrained", "--offline"]


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as exit_:
        main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return exit_.value.code, out, err


def test_scan_prints_the_summary_and_nothing_else(folder, text_file, capsys):
    code, out, err = run(capsys, "scan", folder, "--text", text_file, "--json", *SMALL)
    assert code == 0
    assert json.loads(out)["scan"]["without"]["reader"] == {"lean": 4}
    assert err == ""


def test_both_policies(folder, text_file, capsys):
    _, out, _ = run(capsys, "scan", folder, "--text", text_file, "--bos", "both", "--json", *SMALL)
    assert set(json.loads(out)["scan"]) == {"with", "without"}


def test_run_leaves_three_files_and_report_renders_them_again(folder, text_file, tmp_path, capsys):
    out_dir = tmp_path / "D"
    code, out, _ = run(capsys, "run", folder, "--text", text_file, "--out", out_dir, *SMALL)
    assert code == 0
    assert str(out_dir / "report.html") in out
    assert {p.name for p in out_dir.iterdir()} == {"summary.json", "arrays.nc", "report.html"}
    (out_dir / "report.html").unlink()
    assert run(capsys, "report", out_dir)[0] == 0
    assert (out_dir / "report.html").exists()
    code, _, _ = run(capsys, "report", out_dir, "--against", out_dir)
    assert code == 0
    assert (out_dir / "comparison.html").exists()


def test_run_ends_with_a_screen_and_is_named_after_the_model(
    folder, text_file, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    code, out, _ = run(capsys, "run", folder, "--text", text_file, *SMALL)
    assert code == 0
    lines = out.splitlines()
    assert lines[-1] == f"Report: sinkscope-run-{folder.name}/report.html"
    assert 5 < len(lines) <= 25
    assert not [line for line in lines if len(line) > 80 or line.endswith(" ")]
    code, out, _ = run(capsys, "report", f"sinkscope-run-{folder.name}", "--verbose")
    assert "By block" in out
    assert not [line for line in out.splitlines() if line.endswith(" ")]


def test_quiet_prints_the_path_alone(folder, text_file, tmp_path, capsys):
    quiet = ["scan", folder, "--text", text_file, "--quiet", *SMALL]
    assert run(capsys, *quiet, "--out", tmp_path / "D") == (0, f"{tmp_path}/D/report.html\n", "")
    assert run(capsys, *quiet) == (0, "", "")
    assert run(capsys, *quiet, "--json")[0] == 2
    assert run(capsys, "report", tmp_path / "D", "--quiet")[1] == f"{tmp_path}/D/report.html\n"


@pytest.mark.parametrize("command", [["scan"], ["advise", "--questions", "bos"]])
def test_of_several_processes_the_first_alone_writes_and_prints(
    command, folder, text_file, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(sinkscope.ranks, "rank", lambda: 1)
    card = ["--model-card", tmp_path / "C"] if command[0] == "advise" else []
    given = [folder, "--text", text_file, "--n", "3", "--length", "24", "--out", tmp_path / "D"]
    code, out, err = run(capsys, *command, *given, *card, "--offline", "--json")
    assert (code, out, err) == (0, "", "")
    assert not (tmp_path / "C").exists()
    assert not (tmp_path / "D").exists()


def test_a_result_of_another_model_is_not_replaced(folder, text_file, tmp_path, capsys):
    scan = ["scan", folder, "--text", text_file, "--out", tmp_path / "D", *SMALL]
    assert run(capsys, *scan)[0] == run(capsys, *scan)[0] == 0
    weights = load_file(folder / "model.safetensors")
    save_file(
        {k: v * 1.01 for k, v in weights.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    before = (tmp_path / "D" / "summary.json").read_bytes()
    code, out, err = run(capsys, *scan)
    assert (code, out) == (2, "")
    assert "result of another model" in err
    assert (tmp_path / "D" / "summary.json").read_bytes() == before
    assert run(capsys, *scan, "--force")[0] == 0
    assert (tmp_path / "D" / "summary.json").read_bytes() != before


@pytest.mark.parametrize("name", ["summary.json", "report.html"])
def test_a_file_of_another_program_is_not_replaced(folder, text_file, tmp_path, capsys, name):
    out = tmp_path / "D"
    out.mkdir()
    (out / name).write_text('{"model": "mine"}')
    scan = ["scan", folder, "--text", text_file, "--out", out, *SMALL]
    code, printed, err = run(capsys, *scan)
    assert (code, printed) == (2, "")
    assert f"holds a {name}, but no result that can be read" in err
    assert [each.name for each in out.iterdir()] == [name]
    assert (out / name).read_text() == '{"model": "mine"}'
    assert run(capsys, *scan, "--force")[0] == 0


def test_a_reader_that_leaves_is_no_failure():
    command = [sys.executable, "-m", "sinkscope", "models"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()  # before anything is printed
    assert (process.wait(), process.stderr.read()) == (0, "")


def test_names_of_folders_are_plain():
    from sinkscope.cli.common import name_of

    assert name_of(None) == "bundled"
    assert name_of("Qwen/Qwen2.5-0.5B") == "Qwen2.5-0.5B"
    assert name_of("/a/b c/model Q8.gguf") == "model-Q8"
    assert name_of("/") == "model"


def test_a_shell_can_complete_commands():
    asked = {
        "_SINKSCOPE_COMPLETE": "complete_bash",
        "COMP_WORDS": "sinkscope ver",
        "COMP_CWORD": "1",
    }
    code = "import sys; sys.argv = ['sinkscope']; from sinkscope.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | asked, capture_output=True, text=True
    )
    assert done.stdout.split() == ["verify"]


def test_figures_for_papers(folder, text_file, tmp_path, capsys):
    out_dir = tmp_path / "D"
    run(capsys, "run", folder, "--text", text_file, "--out", out_dir, *SMALL)
    assert run(capsys, "report", out_dir, "--figures", tmp_path / "figures")[0] == 0
    kinds = {p.suffix for p in (tmp_path / "figures").rglob("*") if p.is_file()}
    assert {".png", ".svg", ".pdf"} <= kinds


def test_a_policy_without_a_verdict_meets_none(capsys):
    verified = {"with": SimpleNamespace(verdict="p0-circuit")}
    summary = SimpleNamespace(scan=dict.fromkeys(["with", "without"]), verify=verified)
    with pytest.raises(typer.Exit):
        exit_on_expect(SimpleNamespace(summary=summary), "p0-circuit")
    assert "found no verdict (without BOS)" in capsys.readouterr().err


def test_expect(folder, text_file, capsys):
    arguments = ["scan", folder, "--text", text_file, "--json", *SMALL, "--expect"]
    code, _, err = run(capsys, *arguments, "sink")
    assert code == 1
    assert "expected sink" in err
    assert run(capsys, *arguments, "no-sink")[0] == 0
    assert run(capsys, *arguments, "everything")[0] == 2
    assert run(capsys, *arguments, "late-share<0.3")[0] == 0
    assert run(capsys, *arguments, "heads<=0")[0] == 0
    code, _, err = run(capsys, *arguments, "late-share>=0.3")
    assert code == 1
    assert re.search(r"expected late-share>=0.3, found [\d.]+.% \(.*\) \(.* BOS\)", err)


BAD = {
    "missing folder": (lambda f: f.parent / "nowhere", 2, "No such folder"),
    "no config": (lambda f: (f / "config.json").unlink() or f, 2, "holds a tokenizer and no model"),
    "truncated": (lambda f: truncate(f), 2, "corrupt|cannot be loaded"),
    "pickle only": (lambda f: pickle_only(f), 2, "pickle"),
    "NaN": (lambda f: with_nan(f), 2, "NaN"),
    "encoder": (lambda f: encoder(f), 3, "not a causal language model"),
}


def truncate(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    return folder


def pickle_only(folder):
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def with_nan(folder):
    state = load_file(folder / "model.safetensors")
    state["model.norm.weight"][0] = float("nan")
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def encoder(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "vit"}))
    return folder


@pytest.mark.parametrize("name", list(BAD))
def test_bad_models(name, folder, tmp_path, capsys):
    import re

    make, code, match = BAD[name]
    out_dir = tmp_path / "out"
    got, out, err = run(capsys, "run", make(folder), "--out", out_dir, *SMALL)
    assert got == code
    assert re.search(match, err)
    assert out == ""
    assert err.count("\n") == 1, "one sentence"
    assert not out_dir.exists()


def test_bad_prompts(folder, tmp_path, capsys):
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    assert "is empty" in run(capsys, "scan", folder, "--text", empty)[2]
    for command in ("scan", "advise"):  # no model is loaded for a text that is not there
        assert "No such text" in run(capsys, command, tmp_path / "gone", "--text", "gone.txt")[2]
    code, _, err = run(capsys, "scan", folder, "--length", "99999", "--prompts", "random")
    assert (code, "beyond this model's maximum" in err) == (2, True)
    code, _, err = run(capsys, "scan", folder, "--reader", "quick", "--prompts", "random")
    assert (code, "reader" in err) == (2, True)
    assert run(capsys, "scan", folder, "--n", "0")[0] == 2
    assert run(capsys, "nonsense")[0] == 2


def test_tokenizer_of_another_model(folder, text_file, capsys):
    from tests.conftest import word_tokenizer

    big = word_tokenizer(400)
    big.save_pretrained(folder)
    text_file.write_text(" ".join(f"w{i}" for i in range(100, 340)))
    code, _, err = run(capsys, "scan", folder, "--text", text_file, "--length", "24")
    assert code == 2
    assert "do not belong together" in err
    saved = json.loads((folder / "tokenizer.json").read_text())
    saved["model"]["vocab"]["w100"] = 2**31
    (folder / "tokenizer.json").write_text(json.dumps(saved))
    code, _, err = run(capsys, "scan", folder, "--text", text_file, "--length", "24")
    assert (code, f"token id {2**31} lies outside" in err) == (2, True)


def test_out_is_a_file(folder, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    code, _, err = run(capsys, "run", folder, "--out", tmp_path / "file")
    assert (code, "is a file" in err) == (2, True)


@pytest.mark.parametrize("given", [["--out", ""], ["--out="]])
def test_an_empty_name_is_not_the_current_folder(tmp_path, capsys, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, "scan", *given)
    assert (code, "given for --out is empty" in err) == (2, True)
    assert not list(tmp_path.iterdir())


def test_full_disk(folder, text_file, tmp_path, capsys, monkeypatch):
    import errno
    import pathlib

    def full(self, *args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    previous = tmp_path / "D"
    assert run(capsys, "run", folder, "--text", text_file, "--out", previous, *SMALL)[0] == 0
    before = (previous / "summary.json").read_bytes()
    monkeypatch.setattr(pathlib.Path, "write_text", full)
    code, _, err = run(capsys, "run", folder, "--text", text_file, "--out", previous, *SMALL)
    assert code == 4
    assert "disk is full" in err
    assert (previous / "summary.json").read_bytes() == before


def test_debug_shows_the_traceback(tmp_path, capsys):
    _, _, err = run(capsys, "scan", tmp_path / "nowhere", "--debug")
    assert "Traceback" in err


def test_help_is_quick_and_imports_no_torch():
    code = (
        "import sys, sinkscope.cli.app as a\n"
        "try: a.main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'transformers', 'xarray', 'altair', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "scan" in done.stdout


def test_commands_are_listed_with_whole_sentences(capsys):
    assert "..." not in run(capsys, "--help")[1].split("Commands:")[1]


def test_every_command_has_examples(capsys):
    for name in ("run", "scan", "report", "models", "doctor"):
        code, out, _ = run(capsys, name, "--help")
        assert code == 0
        assert "Examples:" in out


def test_models_lists_the_matrix(capsys):
    code, out, _ = run(capsys, "models", "--json")
    matrix = json.loads(out)
    assert code == 0
    assert len(matrix["types"]) > 150
    code, out, _ = run(capsys, "models", "llama", "bert")
    assert "llama" in out
    assert run(capsys, "models", "no_such_family")[0] == 2


def test_models_verify(capsys, tmp_path):
    out_file = tmp_path / "m.json"
    code, out, _ = run(capsys, "models", "--verify", "llama", "--json", "--out", out_file)
    row = json.loads(out)["types"]["llama"]
    assert code == 0
    assert row["exact"] == 0.0
    assert json.loads(out_file.read_text())["types"]["llama"] == row


def test_lab_builds_a_model_that_scan_reads(tmp_path, capsys):
    code, out, _ = run(capsys, "lab", "list", "--json")
    assert code == 0
    assert len(json.loads(out)["mechanisms"]) == 37
    folder = tmp_path / "D"
    arguments = ["lab", "build", "--mechanism", "p0-two-block", "--seed", "7", "--out", folder]
    assert run(capsys, *arguments)[0] == 0
    truth = json.loads((folder / "truth.json").read_text())
    _, out, _ = run(
        capsys,
        "scan",
        folder,
        "--prompts",
        "random",
        "--n",
        "8",
        "--length",
        "64",
        "--no-untrained",
        "--json",
        "--expect",
        "sink",
    )
    found = json.loads(out)["scan"]["without"]["sink_heads"]
    assert {(block, head) for block, head, _ in found} == set(map(tuple, truth["reading_heads"]))
    assert run(capsys, *arguments)[0] == 2, "an existing model is not overwritten"
    assert run(capsys, "lab", "build", "--mechanism", "magic", "--out", tmp_path / "E")[0] == 2


def test_doctor(capsys):
    code, out, _ = run(capsys, "doctor", "--json")
    assert code == 0
    checks = json.loads(out)["checks"]
    assert all(check["ok"] for check in checks)
    assert len(checks) >= 12
    assert run(capsys, "doctor", "--device", "nonsense")[0] == 2


def test_doctor_fails_where_a_check_does(capsys, monkeypatch):
    found = {"versions": {}, "checks": [{"name": "lean", "ok": False, "detail": "off by 1"}]}
    monkeypatch.setattr("sinkscope.observe.selfcheck.self_check", lambda device: found)
    assert run(capsys, "doctor") == (1, "FAIL lean: off by 1\n", "")


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_interrupt(tmp_path):
    """Ctrl-C in the middle: 130, one sentence, nothing written."""
    out_dir = tmp_path / "D"
    arguments = ["run", "--offline", "--n", "4000", "--prompts", "random", "--length", "256"]
    code = (
        "import sys; from sinkscope.cli.app import main; print('ready', flush=True); "
        "main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", code, *arguments, "--out", str(out_dir)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(6)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip().splitlines()[-1] == "sinkscope: interrupted; nothing was written."
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "part"),
    [(["scan", "--n", "0"], "--n"), (["scan", "--nope"], "--nope"), (["nothing"], "nothing")],
)
def test_bad_usage_names_what_is_wrong(arguments, part, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    err = capsys.readouterr().err
    assert exit_.value.code == 2
    assert part in err
    assert "unexpected" not in err


def test_an_unexpected_error_is_no_bad_usage(monkeypatch, folder, text_file, capsys):
    def broken(*arguments, **options):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("sinkscope.detect.scan.scan", broken)
    code, out, err = run(capsys, "scan", folder, "--text", text_file, *SMALL)
    assert (code, out) == (70, "")
    assert "unexpected ZeroDivisionError: a bug" in err
    assert err.count("\n") == 1, "one sentence"


COMMANDS = ["run", "scan", "trace", "verify", "timeline", "mix", "advise", "sweep", "index"]
COMMANDS += ["report", "models", "doctor", *(f"lab {name}" for name in LAB), "lab run", "lab study"]


@pytest.mark.parametrize("command", ["", "lab", *COMMANDS])
def test_help_is_whole_and_fits_eighty_columns(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = run(capsys, *command.split(), "-h")
    assert code == 0
    assert not [line for line in out.splitlines()[1:] if len(line) > 80 or line.endswith("...")]
    assert command not in COMMANDS or f"\n  sinkscope {command}" in out  # examples as written


def test_closed_streams_and_a_folder_that_is_gone(folder, tmp_path):
    scan = [sys.executable, "-m", "sinkscope", "scan", str(folder), "--prompts", "random"]
    closed = [*scan, "--n", "2", "--length", "16", "--no-untrained", "--out", str(tmp_path / "o")]
    ended = subprocess.run(["sh", "-c", 'exec "$@" >&- 2>&-', "sh", *closed], check=False)
    assert ended.returncode == 0
    assert sinkscope.load_result(tmp_path / "o")
    gone = 'mkdir "$0" && cd "$0" && rmdir "$0" && exec "$@"'
    ended = subprocess.run(
        ["sh", "-c", gone, str(tmp_path / "gone"), *scan],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, "the current folder is gone" in ended.stderr) == (2, True)


def test_a_home_that_there_is_not_is_told(folder, capsys):
    quick = ("--n", "2", "--length", "16", "--no-untrained")
    for arguments in (
        ("scan", "~no-such-user/model"), ("scan", folder, "--text", "~no-such-user/a.txt"),
        ("scan", folder, "--out", "~no-such-user/out", *quick), ("report", "~no-such-user/run"),
        ("index", "~no-such-user/runs"), ("timeline", "~no-such-user/run"),
    ):  # fmt: skip
        code, _, err = run(capsys, *arguments)
        assert (code, "no such home folder" in err) == (2, True), arguments


@pytest.mark.parametrize("group", [(), ("lab",)])
def test_nothing_asked_for_is_answered_with_the_help_and_no_error(group, capsys):
    code, out, err = run(capsys, *group)
    assert (code, err) == (0, "")
    assert out.startswith("Usage: sinkscope")


@pytest.mark.parametrize("command", [("advise",), ("report",), ("doctor",), ("lab", "train")])
def test_help_names_what_an_option_takes_and_no_type_of_python(command, capsys):
    _, out, _ = run(capsys, *command, "--help")
    options = out[out.index("Options:") : out.index("Examples:")]
    taken = set(re.findall(r"^  --[a-z-]+ (\S+)", options, re.MULTILINE))
    assert taken <= {"TEXT", "PATH", "N", "X", "/"}
    assert taken & {"TEXT", "PATH"}
