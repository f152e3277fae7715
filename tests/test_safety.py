"""What comes from strangers reaches no other file, and what was measured is not lost."""

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import xarray
import yaml

from sinkscope import files
from sinkscope.detect.scan import scan
from sinkscope.errors import InputError, OutOfResources, Unsupported
from sinkscope.files import PART, READY, prove_writable, write_folder, write_whole
from sinkscope.report.export import _file_name
from sinkscope.result import load_result
from sinkscope.subject.load import Subject, load
from sinkscope.subject.tiny import tiny_model
from sinkscope.training_runs.timeline import timeline
from tests.test_cli import SMALL, run
from tests.test_lab_experiments import TINY

ODD = np.array(["a\0b", "\ud800"], object)
RANDOM = ["--prompts", "random", *SMALL]


@pytest.fixture
def result(llama):
    return scan(llama, n=3, length=24, kind="random", untrained=False)


@pytest.fixture
def saved(result, tmp_path):
    return result.save(tmp_path / "saved")


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# ---- names are no paths


@pytest.mark.parametrize("name", ["/{}/outside/x", "../outside/x", "..", "a/b", "a\0b", ""])
def test_a_cell_is_no_path(name, tmp_path, capsys):
    outside = tmp_path / "outside"
    (outside / "x-seed-0").mkdir(parents=True)
    (outside / "x-seed-0" / "mine.txt").write_text("precious")
    cell = name.format(str(tmp_path).strip("/"))
    experiment = {**TINY, "cells": {cell: {}}, "control": "", "signs": [], "published": []}
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(experiment))
    code, _, err = run(capsys, "lab", "run", tmp_path / "e.yaml", "--out", tmp_path / "out")
    assert (code, "no plain name" in err) == (2, True), err
    assert contents(outside) == {"x-seed-0/mine.txt": b"precious"}


def asked_of(folder, **changes):
    held = {
        "experiment": "e", "size": "smoke", "seeds": 1, "excerpt": True, "cells": {"plain": {}},
        "evaluate": ["with"], "text_sha256": "0", "every": 1, "windows": 1, "length": 8,
        "about": {"question": "?", "source": "s", "differs": "d", "control": "", "published": [],
                  "signs": [], "options": "--size smoke", "sizes": ["smoke"]},
    }  # fmt: skip
    held |= changes
    held["cells"] = {k: {"steps": 1, "tokens_per_step": 1} | v for k, v in held["cells"].items()}
    folder.mkdir(exist_ok=True)
    (folder / "experiment.json").write_text(json.dumps(held))
    return folder


def test_an_experiment_is_no_path(tmp_path, capsys):
    (tmp_path / "x.md").write_text("precious")
    for name in (str(tmp_path / "x"), "../x"):
        folder = asked_of(tmp_path / "run", experiment=name)
        code, _, err = run(capsys, "lab", "study", folder, "--out", tmp_path / "out")
        assert (code, "no plain name" in err) == (2, True), err
    assert (tmp_path / "x.md").read_text() == "precious"


def test_a_study_page_holds_no_html(tmp_path, capsys):
    bad = "<script>alert(1)</script> ![x](http://a.b/c)"
    about = {"question": bad, "source": bad, "differs": bad, "control": "", "published": [],
             "signs": [], "options": f"```\n{bad}", "sizes": ["smoke"]}  # fmt: skip
    folder = asked_of(tmp_path / "run", about=about)
    assert run(capsys, "lab", "study", folder)[0] == 0
    page = (folder / "e.md").read_text()
    assert "alert(1)" in page
    shown = "".join(page.split("```")[::2])
    assert "<script" not in shown
    assert "![x](" not in shown
    assert page.count("```") == 2, "what is given closes no block of code"


def test_pictures_have_plain_names(tmp_path):
    with pytest.raises(InputError, match="no name of a file"):
        write_folder(tmp_path / "D", {"../gone": lambda path: path.write_text("x")})
    assert not list(tmp_path.iterdir())
    for name, panel in (("../x", ""), ("late", "../../y"), (".x", "\0"), ("a" * 300, "")):
        made = _file_name(name, panel)
        assert Path(made).name == made
        assert not made.startswith(".")
        assert len(made) < 200


# ---- arrays of strangers


def refused(saved, change):
    with h5py.File(saved / "arrays.nc", "a") as file:
        change(file)
    with pytest.raises(InputError, match="refused"):
        load_result(saved)


def test_arrays_take_nothing_from_other_files(saved, tmp_path):
    (tmp_path / "secret").write_bytes(b"secrets!" * 8)

    def external(file):
        place = [(str(tmp_path / "secret"), 0, h5py.h5f.UNLIMITED)]
        file["scan"].create_dataset("stolen", (64,), "u1", external=place)

    refused(saved, external)


@pytest.mark.parametrize(
    "link", [h5py.ExternalLink("/etc/passwd", "/"), h5py.SoftLink("/scan"), h5py.SoftLink("/no")]
)
def test_arrays_link_to_nothing(saved, link):
    refused(saved, lambda file: file["scan"].__setitem__("linked", link))


def test_arrays_end(saved):
    def loop(file):
        file["scan/without/again"] = file["scan"]

    refused(saved, loop)


def test_arrays_are_no_deeper_nor_larger_than_a_result(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "deep")
    refused(tmp_path / "deep", lambda file: file.create_group("/".join("abcdefghij" * 40)))
    refused(saved, lambda file: file.create_dataset("big", (10**12,), "f8", chunks=(1024,)))


def test_virtual_arrays_are_refused(saved):
    def virtual(file):
        layout = h5py.VirtualLayout((8,), "u1")
        layout[:] = h5py.VirtualSource("/etc/hostname", "x", (8,))
        file.create_virtual_dataset("virtual", layout)

    refused(saved, virtual)


# ---- nothing that was measured is lost


def test_odd_tokens_are_saved(llama, tmp_path):
    class Odd:
        bos_token_id = None
        texts = ("\0", "a\0b", "\ud800", "\x1b[2J", "\u2028", "")

        def __len__(self):
            return 100

        def decode(self, ids):
            return self.texts[int(ids[0]) % len(self.texts)]

        def __call__(self, text, **options):
            return {"input_ids": [5]}

    subject = Subject(llama.model, Odd(), llama.anatomy, llama.identity)
    result = scan(subject, n=3, length=24, kind="random", untrained=False)
    result.data["scan/without"].attrs["odd"] = "kept"
    result.data["scan/without"]["mine"] = xarray.DataArray(ODD, dims="mine")
    back = load_result(result.save(tmp_path / "run"))
    assert list(back.data["scan/without"]["mine"].values)[:1] == ["a\u2400b"]


def test_a_page_that_cannot_be_drawn_costs_only_itself(result, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "sinkscope.report.page.render_page", lambda *a: (_ for _ in ()).throw(KeyError("x"))
    )
    with pytest.raises(RuntimeError, match="holds the numbers"):
        result.save(tmp_path / "run")
    assert load_result(tmp_path / "run").to_json() == result.to_json()


def test_what_is_no_number_is_saved_as_none(result, tmp_path):
    result.summary.scan["without"].late_share.value = float("nan")
    result.save(tmp_path / "run")
    held = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert held["scan"]["without"]["late_share"]["value"] is None


# ---- where results go is proved before anything is computed


@pytest.mark.skipif(os.getuid() == 0, reason="root writes anywhere")
def test_an_unwritable_out_is_noticed_first(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sinkscope.subject.load.load", None)
    (tmp_path / "locked").mkdir(mode=0o500)
    code, _, err = run(capsys, "scan", folder, *RANDOM, "--out", tmp_path / "locked" / "D")
    assert (code, "Cannot write" in err) == (2, True)


def test_a_full_disk_is_noticed_first(folder, tmp_path, capsys, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("sinkscope.subject.load.load", None)
    monkeypatch.setattr(files.os, "fsync", full)
    for command in (["scan", folder, *RANDOM], ["lab", "build", "--mechanism", "p0-two-block"]):
        code, _, err = run(capsys, *command, "--out", tmp_path / "new" / "D")
        assert (code, "disk is full" in err) == (4, True), err
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="no second disk here")
def test_out_may_be_a_link_to_another_disk(result, tmp_path):
    place = f"/dev/shm/sinkscope-test-{os.getpid()}"
    os.mkdir(place)
    try:
        (tmp_path / "D").symlink_to(place)
        prove_writable(tmp_path / "D")
        result.save(tmp_path / "D")
        assert load_result(tmp_path / "D").to_json() == result.to_json()
    finally:
        shutil.rmtree(place)


def test_libraries_that_only_say_that_the_disk_is_full(tmp_path):
    for said in ("I/O error: No space left on device (os error 28)", "Disk quota exceeded"):

        def fail(path, said=said):
            raise RuntimeError(said)

        with pytest.raises(OutOfResources):
            write_folder(tmp_path / "D", {"a": fail})
    assert not (tmp_path / "D").exists()


# ---- several files are one step


def test_a_commit_that_is_cut_is_finished_by_who_comes_next(tmp_path, monkeypatch):
    old = {name: lambda path: path.write_text("old") for name in "abc"}
    new = {name: lambda path: path.write_text("new") for name in "abd"}
    folder = write_folder(tmp_path / "D", old)
    moves = []
    replace = os.replace

    def killed(source, target):
        moves.append(target)
        if len(moves) > 1:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_folder(folder, new, gone=["c"])
    assert (folder / READY).is_dir()
    assert files.latest(folder, "b").read_text() == "new", "a reader sees one content"
    monkeypatch.setattr(files.os, "replace", replace)
    prove_writable(folder)
    assert contents(folder) == dict.fromkeys("abd", b"new")


def test_a_mixture_of_two_runs_is_refused(saved, llama, tmp_path):
    other = scan(llama, n=3, length=24, kind="random", seed=7, untrained=False)
    other.save(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "arrays.nc", saved / "arrays.nc")
    with pytest.raises(InputError, match="mixes two runs"):
        load_result(saved)


def test_what_a_killed_process_left_is_swept_out(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from sinkscope.files import *\n"
        "def stop(path): path.write_text('half'); print('here', flush=True); sys.stdin.read()\n"
        "write_folder(Path(sys.argv[1]), {'a': stop})"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "D")]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"here\n"
    prove_writable(tmp_path / "D")
    assert len(list((tmp_path / "D").glob(f"{PART}*"))) == 1, "its writer lives"
    child.kill()
    child.communicate()
    prove_writable(tmp_path / "D")
    assert not list((tmp_path / "D").iterdir())


def test_a_link_named_as_ready_moves_nothing(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a").write_text("mine")
    (tmp_path / "D").mkdir()
    (tmp_path / "D" / READY).symlink_to(tmp_path / "mine")
    prove_writable(tmp_path / "D")
    assert contents(tmp_path / "mine") == {"a": b"mine"}


# ---- signals


def ended(tmp_path, number, marker="import sinkscope.cli; print('ready', flush=True)"):
    """Exit code and last line of a run that a signal ends."""
    code = f"import sys; {marker}; sinkscope.cli.main(sys.argv[1:])"
    arguments = ["run", "--offline", "--n", "4000", "--prompts", "random", "--length", "256"]
    command = [sys.executable, "-c", code, *arguments, "--out", str(tmp_path / "D")]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "ready\n"
    child.send_signal(number)
    _, err = child.communicate(timeout=120)
    assert "Traceback" not in err
    return child.returncode, err.strip().splitlines()[-1]


LATER = (
    "import sinkscope.cli, sinkscope.subject.load as l; "
    "l.load = lambda *a, **k: (print('ready', flush=True), __import__('time').sleep(60))"
)


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")],
)
def test_a_signal_ends_it_with_a_sentence(tmp_path, number, code, word):
    assert ended(tmp_path, number, LATER) == (code, f"sinkscope: {word}; nothing was written.")
    assert not list(tmp_path.iterdir())


def test_an_interruption_says_what_there_is(tmp_path, capsys, monkeypatch):
    def half(*arguments, **options):
        write_whole(tmp_path / "D" / "part", b"x")
        raise KeyboardInterrupt

    monkeypatch.setattr("sinkscope.subject.load.load", half)
    code, _, err = run(capsys, "scan", "x")
    assert (code, f"what was finished lies in {tmp_path / 'D'}" in err) == (130, True)


def test_the_end_of_a_file_is_no_interruption(capsys, monkeypatch):
    def end(*arguments, **options):
        raise EOFError("Ran out of input")

    monkeypatch.setattr("sinkscope.subject.load.load", end)
    assert run(capsys, "scan", "x")[0] == 70


# ---- models of strangers


def test_a_panic_is_a_fault_of_the_tokenizer(folder, capsys):
    path = folder / "tokenizer.json"
    held = json.loads(path.read_text())
    held["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": "////AAAA"}
    path.write_text(json.dumps(held))
    code, _, err = run(capsys, "scan", folder, *RANDOM)
    assert code == 2
    assert "tokenizer" in err.splitlines()[-1]


class PanicException(BaseException):
    """As the libraries in Rust raise it."""


def test_a_panic_later_on_is_no_verdict(capsys, monkeypatch):
    def panic(*arguments, **options):
        raise PanicException("called `unwrap` on a `None` value")

    monkeypatch.setattr("sinkscope.subject.load.load", panic)
    code, _, err = run(capsys, "scan", "x")
    assert (code, err.count("\n")) == (2, 1)


def test_names_in_files_do_not_steer_the_terminal(folder, capsys):
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "\x1b[2J\x1b]0;owned\x07"
    (folder / "config.json").write_text(json.dumps(config))
    code, _, err = run(capsys, "scan", folder, *RANDOM)
    assert code == 3
    assert "\x1b" not in err
    assert "\x07" not in err


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_a_configuration_loads_no_code_from_the_hub(folder, key):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {key: "kernels-community/flash-attn"}))
    with pytest.raises(InputError, match="code on the Hub"):
        load(folder)


def test_offline_asks_nobody(monkeypatch):
    asked = []

    def refuse(self, address):
        asked.append(address)
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: refuse(None, a))
    with pytest.raises(InputError, match="No folder 'nobody/such-model' here, nor a downloaded"):
        load("nobody/such-model", offline=True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="No folder 'such-model' here, nor a downloaded"):
        load("such-model")
    assert asked == []


# ---- timelines


def run_of_three(place):
    for step in (1, 2, 3):
        tiny_model("llama", seed=step).save_pretrained(place / f"step{step}")
    return place


ASKED = {"kind": "random", "n": 2, "length": 16, "first_blocks": 2, "untrained": False}


@pytest.mark.parametrize("which", ["step2", "step3"])
def test_a_bad_checkpoint_is_a_row(tmp_path, which):
    place = run_of_three(tmp_path / "run")
    config = json.loads((place / which / "config.json").read_text())
    too_large = {"hidden_size": 10**6, "intermediate_size": 10**6}
    for wrong in (
        {"hidden_size": "x"},
        {"rope_parameters": 7},
        {"num_hidden_layers": 10**6},
        too_large,
    ):
        (place / which / "config.json").write_text(json.dumps(config | wrong))
        found = timeline(place, cache=tmp_path / "cache", **ASKED)
        [row] = found.summary.timeline.runs.values()
        assert list(row.broken) == [which], wrong


def test_a_damaged_cache_is_measured_again(tmp_path):
    place = run_of_three(tmp_path / "run")
    whole = timeline(place, cache=tmp_path / "cache", **ASKED)
    for content in (b"", b"{}", b'{"pilot": {}, "model": {}}', b"\xff"):
        for path in (tmp_path / "cache").iterdir():
            path.write_bytes(content)
        assert timeline(place, cache=tmp_path / "cache", **ASKED).to_json() == whole.to_json()


def test_another_tokenizer_or_dtype_is_measured_anew(folder, text_file, tmp_path):
    place = tmp_path / "run"
    for step in (1, 2):
        shutil.copytree(folder, place / f"step{step}")
    asked = {**ASKED, "kind": "text", "text": str(text_file), "cache": tmp_path / "cache"}
    first = timeline(place, **asked).data["timeline/run"]
    other = timeline(place, **asked, dtype="bfloat16").data["timeline/run"]
    assert any(not first[name].equals(other[name]) for name in first.data_vars)
    for path in place.glob("*/tokenizer.json"):
        held = json.loads(path.read_text())
        words = list(held["model"]["vocab"].items())
        turned = dict(zip((w for w, _ in words), [*[i for _, i in words][3:], 0, 1, 2]))
        held["model"]["vocab"] = {w: turned[w] for w, _ in words}
        path.write_text(json.dumps(held))
    cached = timeline(place, **asked)
    fresh = timeline(place, **(asked | {"cache": tmp_path / "empty"}))
    assert cached.summary.prompts.sha256 == fresh.summary.prompts.sha256


def test_an_unsupported_run_keeps_its_class(tmp_path):
    for step in (1, 2):
        tiny_model("gpt2", seed=step).save_pretrained(tmp_path / "run" / f"step{step}")
        path = tmp_path / "run" / f"step{step}" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "no_such"}))
    with pytest.raises(Unsupported):
        timeline(tmp_path / "run", cache=tmp_path / "cache", **ASKED)


# ---- texts, and training


def test_a_line_of_jsonl_may_hold_line_separators(folder, tmp_path, capsys):
    text = "a head of the sink \u2028 zero block \u0085 key " * 20
    (tmp_path / "t.jsonl").write_text(json.dumps({"text": text}, ensure_ascii=False) + "\n")
    code, _, err = run(capsys, "scan", folder, "--text", tmp_path / "t.jsonl", *SMALL)
    assert code == 0, err


def test_a_training_cut_before_its_first_state_begins_anew(tmp_path):
    from sinkscope.lab.state import check_out

    out = tmp_path / "D"
    out.mkdir()
    for name in ("log.jsonl", ".state.pt"):
        (out / name).write_text("")
    check_out(out, False)
    check_out(out, True)
    (out / "mine.txt").write_text("precious")
    for resume in (False, True):
        with pytest.raises(InputError):
            check_out(out, resume)


def test_an_alias_bomb_is_refused(tmp_path, capsys):
    bomb = "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    for one, two in zip("abcdefgh", "bcdefghi"):
        bomb += f"{two}: &{two} [{', '.join([f'*{one}'] * 10)}]\n"
    (tmp_path / "e.yaml").write_text(bomb)
    for command in (["lab", "run"], ["lab", "train"]):
        code, _, err = run(capsys, *command, tmp_path / "e.yaml", "--out", tmp_path / "D")
        assert (code, "too large" in err) == (2, True), err


def test_a_long_document_is_encoded_piece_by_piece(monkeypatch):
    from sinkscope.subject import windows

    seen = []

    def tokenizer(text, **options):
        seen.append(len(text))
        return {"input_ids": [ord(c) for c in text]}

    monkeypatch.setattr(windows, "PIECE", 64)
    for text in ("word " * 100, "x" * 300, "\n" * 200, "a line\n" * 50, ""):
        assert "".join(map(chr, windows._encoded(tokenizer, text))) == text
    assert max(seen) <= 64


def test_more_prompts_than_memory_are_refused(folder, capsys):
    code, _, err = run(capsys, "scan", folder, "--prompts", "random", "--n", "2147483648")
    assert (code, "tokens" in err) == (4, True)


def test_a_renderer_that_dies_costs_only_the_page(result, tmp_path, monkeypatch):
    from sinkscope.report import embed, renderer

    dies = "import os, signal; os.kill(os.getpid(), signal.SIGTRAP)"
    monkeypatch.setattr(renderer, "_CHILD", dies)
    embed.vega_runtime.cache_clear()
    with pytest.raises(OutOfResources, match="renderer of charts died"):
        result.save(tmp_path / "run")
    assert load_result(tmp_path / "run").to_json() == result.to_json()


def test_a_matrix_that_lapack_gives_up_on_is_not_a_number():
    from sinkscope.observe.stream import eigenvalues

    whole = torch.eye(3).double()
    found = eigenvalues(torch.stack([whole, whole * float("inf")]))
    assert found[0].tolist() == [1, 1, 1]
    assert found[1].isnan().all()


def test_half_a_character_is_refused(folder, tmp_path, capsys):
    (tmp_path / "t.jsonl").write_text('{"text": "a \\ud800 head"}\n')
    code, _, err = run(capsys, "scan", folder, "--text", tmp_path / "t.jsonl", *SMALL)
    assert (code, "line 1" in err) == (2, True)


@pytest.mark.parametrize(
    "asked",
    [
        {"num_hidden_layers": 10**6},
        {"num_hidden_layers": 10**9},
        {"vocab_size": 10**10},
        {"intermediate_size": 10**12},
        {"num_local_experts": 10**12},
    ],
)
def test_a_hungry_configuration_is_refused_before_it_is_laid_out(folder, asked, monkeypatch):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | asked))
    monkeypatch.setattr("sinkscope.subject.load.load_weights", None)
    with pytest.raises(OutOfResources, match="GB"):
        load(folder)


def test_a_configuration_far_beyond_its_weights_is_refused(folder, monkeypatch):
    config = json.loads((folder / "config.json").read_text())
    monkeypatch.setattr("sinkscope.subject.load.load_weights", None)
    for asked, said in (({"num_hidden_layers": 900}, "blocks"), ({"vocab_size": 10**6}, "lacks")):
        (folder / "config.json").write_text(json.dumps(config | asked))
        with pytest.raises(InputError, match=said):
            load(folder)


@pytest.mark.parametrize(
    ("family", "entry"),
    [("llama", "head_dim"), ("llama", "num_key_value_heads"), ("gpt2", "n_positions"),
     ("opt", "max_position_embeddings"), ("opt", "word_embed_proj_dim"),
     ("qwen3_moe", "moe_intermediate_size"), ("deepseek_v3", "kv_lora_rank"),
     ("deepseek_v3", "head_dim"), ("qwen3_next", "linear_key_head_dim"),
     ("falcon", "ffn_hidden_size")],
)  # fmt: skip
@pytest.mark.parametrize("value", [10**7, 10**9])
def test_any_entry_that_makes_a_model_large_is_refused(tmp_path, family, entry, value, monkeypatch):
    tiny_model(family).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {entry: value}))
    monkeypatch.setattr("sinkscope.subject.load.load_weights", None)
    with pytest.raises((OutOfResources, InputError), match=r"GB|lacks weights"):
        load(tmp_path)


def test_a_killed_build_begins_anew(tmp_path, capsys):
    left = tmp_path / "D" / f"{PART}x"
    left.mkdir(parents=True)
    (left / "config.json").write_text("{")
    code, _, err = run(
        capsys, "lab", "build", "--mechanism", "p0-two-block", "--out", tmp_path / "D"
    )
    assert code == 0, err
    assert not left.exists()
