"""Every page is on the site, every command parses, and tutorials and how-tos run as they stand."""

import json
import re

import pytest
import typer
import yaml

from sinkscope.cli.app import app
from sinkscope.known.constructed import build_model, draw_spec
from sinkscope.subject.folder import bundled_model
from sinkscope.subject.tiny import tiny_model
from tests.conftest import word_tokenizer
from tests.docs_runner import DOCS, PAGES, ROOT, blocks, commands, run_page

RUN = [
    page
    for page in PAGES
    if page.startswith(("tutorials/", "howto/")) or page in ("start.md", "saved.md")
]
SECTIONS = ["Formula", "Picture", "Null", "Pitfalls"]


def in_nav(entry):
    if isinstance(entry, str):
        return [entry]
    values = entry.values() if isinstance(entry, dict) else entry
    return [page for value in values for page in in_nav(value)]


def test_every_page_is_in_the_navigation():
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))["nav"]
    assert sorted(in_nav(nav)) == PAGES


def parse(line):
    """Put a command line through the program's own parser, and run nothing."""
    command, words = typer.main.get_command(app), re.findall(r"'[^']*'|\S+", line)[1:]
    words = [word.strip("'") for word in words]
    while hasattr(command, "commands"):
        if not words or words[0].startswith("-"):
            return
        assert words[0] in command.commands, line
        command, words = command.commands[words[0]], words[1:]
    command.make_context("sinkscope", words)


@pytest.mark.parametrize("page", ["../README.md", *PAGES])
def test_every_command_of_a_page_is_one(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("run", "my-run", "sinkscope-run-bundled", "RUN", "run-a"):
        (tmp_path / folder).mkdir()
    for language, text in blocks(DOCS / page):
        if language in ("", "sh") and page != "cli.md":
            for line in commands(text):
                parse(line)


@pytest.mark.parametrize("page", RUN)
def test_a_page_runs_as_it_stands(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("SINKSCOPE_CACHE", str(tmp_path / "cache"))
    tiny_model("llama").save_pretrained(tmp_path / "my-model")
    word_tokenizer(100).save_pretrained(tmp_path / "my-model")
    excerpt = (bundled_model().parent / "excerpt.txt").read_text("utf-8")
    (tmp_path / "my.txt").write_text(excerpt[:40_000], encoding="utf-8")
    names = {}
    run_page(DOCS / page, names)
    said = capsys.readouterr().out
    TRUE.get(page, lambda *_: None)(names, said, tmp_path)


def researcher(names, said, folder):
    before, after = (float(n) for n in re.findall(r"at position [05] (\d\.\d\d)", said))
    assert before < 0.5 < after
    assert re.search(r"^\[(\([2-5], [01]\) ?){3}\]$", said, re.M)
    assert names["scan"].late_share.low > 0.3
    assert names["result"].summary.verify["without"].verdict == "p0-circuit"
    assert (folder / "figures").is_dir()
    assert (folder / "late-share.svg").exists()


def pretraining(names, said, folder):
    shares = re.findall(r"^(\d+) sink/late_share (\d\.\d+)", said, re.M)
    assert [int(step) for step, _ in shares] == [0, 20, 40, 60]
    assert "emerged between" in " ".join(said.split())
    assert (folder / "timeline" / "report.html").exists()


def inference(names, said, folder):
    assert names["answer"].answer == "safe"
    assert "\nTo do " in said
    assert json.loads((folder / "advice" / "summary.json").read_text("utf-8"))["advise"]["bos"]


def saved(names, said, folder):
    assert "/trace/without" in said
    assert "p0-circuit" in said


def start(names, said, folder):
    for word in ("Sink ", "Where ", "Since ", "Made by ", "Read by ", "Proved ", "Weak "):
        assert f"\n{word}" in said
    assert (folder / "smollm2" / "report.html").exists()


TRUE = {
    "tutorials/researcher.md": researcher,
    "tutorials/pretraining.md": pretraining,
    "tutorials/inference.md": inference,
    "saved.md": saved,
    "start.md": start,
}


FRAGMENTS = {  # page -> what a reader fills in, and what is made smaller here
    "../README.md": {
        '"path/or/hub-id", dtype="bfloat16"': "",
        "n=64, length=256": "n=8, length=32, untrained=False, vocabulary=False",
    },
    "advise.md": {"n=8, length=256": "n=4, length=64, questions='streaming'"},
    "known-answers.md": {
        "truth.writing_neurons ": "assert truth.writing_neurons[0] == [1, 58]",
        "check_truth(subject, truth) ": "assert check_truth(subject, truth) == []",
    },
    "real-models.md": {"n=32, length=64": "n=4, length=64"},
    "replications.md": {"n=300": "n=2"},
    "sweep.md": {", workers=4": ", workers=1"},
    "timeline.md": {
        "path/to/tokenizer": str(bundled_model()),
        "text.txt": "my.txt",
        "max_steps=2000, per_device_train_batch_size=8": "max_steps=1, use_cpu=True",
    },
}
# tests/test_docs.py, with what they must say; tests/test_spread.py, which takes two processes
ELSEWHERE = ["circuit.md", "edits.md", "mixing.md", "scale.md"]
SWEEP = "models: [{constructed: p0-two-block, seed: 7}]\ndo: scan\nsettings: {n: 2, length: 32}\n"


def test_no_snippet_of_python_is_left_out():
    written = {
        page
        for page in ("../README.md", *PAGES)
        if any(language == "python" for language, _ in blocks(DOCS / page))
    }
    assert written <= {*RUN, *FRAGMENTS, *ELSEWHERE}


@pytest.mark.parametrize("page", FRAGMENTS)
def test_a_fragment_runs_with_what_a_reader_fills_in(page, tmp_path, monkeypatch):
    import sinkscope

    monkeypatch.chdir(tmp_path)
    excerpt = (bundled_model().parent / "excerpt.txt").read_text("utf-8")
    (tmp_path / "my.txt").write_text(excerpt[:4_000], encoding="utf-8")
    (tmp_path / "models.yaml").write_text(SWEEP, encoding="utf-8")
    code = "\n".join(text for language, text in blocks(DOCS / page) if language == "python")
    for given, small in FRAGMENTS[page].items():
        assert given in code
        code = code.replace(given, small)
    subject = sinkscope.load()
    if page == "real-models.md":  # it speaks of two phases
        spec = draw_spec("p0-two-phase", 1, noise=0.05)
        subject = sinkscope.load(build_model(spec, tmp_path / "two-phases"))
    exec(compile(code, page, "exec"), {"sinkscope": sinkscope, "subject": subject})


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("measure/")])
def test_a_page_of_a_measure_has_all_its_parts(page):
    text = (DOCS / page).read_text("utf-8")
    assert re.findall(r"^## (.*)$", text, re.M) == SECTIONS
    assert re.search(r"!\[[^]]+\]\(([^)]+\.png)\)", text)
    ending = text.rstrip().split("\n\n")[-1]
    assert ending.startswith("In the result: ")
    assert "Command" in ending


def test_what_a_page_of_a_measure_names_is_there():
    """Arrays and keys of the summary, by the pages that explain all of them."""
    known = "".join(
        (DOCS / page).read_text("utf-8") for page in ("measures.md", "summary.md", "timeline.md")
    )
    for page in (page for page in PAGES if page.startswith("measure/")):
        ending = (DOCS / page).read_text("utf-8").rstrip().split("\n\n")[-1]
        for name in re.findall(r"`([\w.<>]+)`", ending):
            key = name.split(".")[-1]
            if not key.endswith(("json", "sinkscope")) and key not in ("verify", "mix", "timeline"):
                assert f"`{key}`" in known, (page, name)
