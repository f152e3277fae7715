"""A stranger's twelve questions: each is answered by the command that the docs name for it."""

import contextlib
import io
import os
import re
import subprocess
import sys

import pytest

from tests.docs_runner import DOCS, ROOT, sinkscope

ANSWERS = {  # number -> what must be said, in any layout
    1: r"Position zero is an attention sink: over all heads, later queries give it \d+(\.\d+)? %",
    2: r"Heads, neurons and experts that do Block Unit Share ─+ \d+ (head|neuron) \d+ \d",
    3: r"Sink heads, which read it Block Heads ─+ 2 0–1 3 0–1",
    4: r"Does it need BOS\? .*nats a token",
    5: r"How many first tokens must a short cache keep\? ",
    6: r"It has not settled within these checkpoints",
    7: r"The sink is (present, not needed|used|harmful)|undetermined",
    8: r"What must quantisation leave alone\? .*nats a token",
    9: r"Is float16 safe\? It is: the largest activation in \d+ texts is \d+ of",
    10: r"'share_of_step_time_at_every_100': 0\.\d+",
    11: r"95 % interval \d+(\.\d+)?–\d+.* (take|need) \d+ or more",
    12: r"What would change it .*were it to remove less than half of the sink",
}
SMALL = ("--n", "8", "--length", "32", "--offline")


def questions():
    page = (DOCS / "questions.md").read_text("utf-8")
    rows = re.findall(r"^\| (\d+) \| (.+?) \| `(.+?)` \|", page, re.M)
    return {int(number): (question, command) for number, question, command in rows}


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What a command printed; each is run once."""
    kept = {}
    cache = tmp_path_factory.mktemp("cache")

    def run(command):
        if command not in kept:
            with inside(cache):
                kept[command] = printed(command)
        return kept[command]

    return run


@contextlib.contextmanager
def inside(folder):
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def printed(command):
    if command.startswith("python "):
        small = ["--rows", "1", "--length", "32", "--rounds", "1"]
        done = subprocess.run(
            [sys.executable, ROOT / command.split()[1], *small], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert sinkscope(command, *SMALL) == 0
    return out.getvalue()


def test_there_are_twelve_and_a_stranger_finds_them():
    assert sorted(questions()) == sorted(ANSWERS) == list(range(1, 13))
    assert "docs/questions.md" in (ROOT / "README.md").read_text("utf-8")


@pytest.mark.parametrize("number", ANSWERS)
def test_the_command_answers(number, said, monkeypatch, tmp_path):
    monkeypatch.setenv("SINKSCOPE_CACHE", str(tmp_path))
    _, command = questions()[number]
    text = " ".join(said(command).split())
    assert re.search(ANSWERS[number], text), text[-3000:]
