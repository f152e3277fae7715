"""Killed at any moment, a command leaves the earlier result or the new one; `bench/kills.py`."""

import errno
import random
import signal

import pytest

from bench.kills import COMMANDS, EMPTY_FIRST, kill_one
from sinkscope import files
from tests.fuzzing.base import make_base
from tests.test_cli import run


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("kills") / "base")


@pytest.mark.parametrize("name", ["scan", "timeline", "lab build", "lab train"])
def test_a_killed_command_leaves_a_whole_result(base, name):
    chance = random.Random(name)
    earlier = None if name in EMPTY_FIRST else base / "result"
    for number in (signal.SIGKILL, signal.SIGTERM):
        assert kill_one(name, base, chance.random(), number, earlier) == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_a_disk_that_fills_is_told(base, name, tmp_path, capsys, monkeypatch):
    """Full from the first file on that is written whole."""
    monkeypatch.chdir(base)
    synced = []

    def full(descriptor):
        synced.append(descriptor)
        if len(synced) > 1:  # the first proves that the disk can be written
            raise OSError(errno.ENOSPC, "No space left on device")

    def no_room(*arguments, **options):
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    monkeypatch.setattr(files.os, "fsync", full)
    monkeypatch.setattr("torch.save", no_room)
    code, _, err = run(capsys, *COMMANDS[name], "--out", tmp_path / "D")
    assert (code, "disk is full" in err) == (4, True), err
