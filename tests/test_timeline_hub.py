"""Checkpoints of a Hub repository, asked for over HTTP from a server on this machine."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from sinkscope.errors import InputError, OutOfResources
from sinkscope.subject.plan import plan_blocks
from sinkscope.subject.tiny import tiny_model
from sinkscope.training_runs.checkpoint import Checkpoint
from sinkscope.training_runs.hub import fetch_first_blocks
from sinkscope.training_runs.tensors import read_header
from sinkscope.training_runs.timeline import timeline
from tests.hub_server import Hub, serving

STEPS = (0, 10, 20, 40)
BLOCKS = 1
LOOKING = {"kind": "random", "n": 2, "length": 32, "first_blocks": BLOCKS, "untrained": False}
COMMITS = {step: f"{step:040x}" for step in STEPS}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A sharded model of four blocks for each step."""
    folder = tmp_path_factory.mktemp("hub")
    for step in STEPS:
        tiny_model("llama", seed=step).save_pretrained(folder / str(step), max_shard_size="40KB")
    return folder


@pytest.fixture
def hub(folders, tmp_path, monkeypatch):
    """The server, asked in place of the Hub; temporary files lie in `tmp_path / "disk"`."""
    import huggingface_hub
    from huggingface_hub import constants

    branches = {f"step{step}": (COMMITS[step], folders / str(step)) for step in STEPS}
    branches["main"] = branches["step40"]
    (tmp_path / "disk").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "disk"))
    with serving(Hub(branches, {"v1": COMMITS[40]})) as started:
        monkeypatch.setattr(constants, "ENDPOINT", started.endpoint)
        template = started.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        huggingface_hub.HfFileSystem.clear_instance_cache()
        yield started
        huggingface_hub.HfFileSystem.clear_instance_cache()


def _measure(tmp_path, **options):
    return timeline("org/model", cache=tmp_path / "cache", threads=1, **LOOKING, **options)


def _weights(hub: Hub) -> int:
    return sum(size for name, size in hub.sent.items() if name.endswith(".safetensors"))


def _needed(folder: Path) -> tuple[int, int]:
    """(bytes of the tensors that are needed and of the headers of their files, of all files)."""
    plan = plan_blocks(tiny_model("llama").config, BLOCKS)
    needed = total = 0
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            header, base = read_header(file, path.name)
        kept = [v["data_offsets"] for k, v in header.items() if k[0] != "_" and plan.keeps(k)]
        # is the range honoured (8 bytes), how much is it, and then the reading itself
        needed += sum(stop - start for start, stop in kept) + (2 * base + 8 if kept else 0)
        total += path.stat().st_size
    return needed, total


def test_commits_are_recorded_and_only_what_is_needed_is_fetched(hub, folders, tmp_path):
    found = _measure(tmp_path)
    data = found.data["timeline/org/model"].to_dataset()
    assert data["step"].values.tolist() == list(STEPS)
    assert data["commit"].values.tolist() == list(COMMITS.values())
    pilot, sweep = (folders / "40"), [_needed(folders / str(step)) for step in STEPS]
    once = sum(path.stat().st_size for path in pilot.glob("*.safetensors"))
    headers = sum(needed[0] for needed in sweep)
    assert once + headers <= _weights(hub) <= once + headers + 8 * 40 * len(STEPS) + 20_000
    assert headers < 0.6 * sum(total for _, total in sweep)
    local = timeline(
        [folders / str(step) for step in STEPS],
        cache=tmp_path / "local",
        threads=1,
        **LOOKING,
    )
    theirs = next(iter(local.data["timeline"].children.values())).to_dataset()
    for name in ("late", "log_norm", "concentration"):
        assert data[name].values.tobytes() == theirs[name].values.tobytes()
    before = hub.sent.copy()
    again = _measure(tmp_path)
    assert hub.sent == before  # what was measured is not fetched again
    assert again.to_json() == found.to_json()


def test_what_is_on_disk_stays_under_the_budget(hub, folders, tmp_path):
    needed = max(_needed(folders / str(step))[0] for step in STEPS)
    whole = sum(path.stat().st_size for path in (folders / "40").glob("*.safetensors"))
    seen = []
    hub.on_file = lambda: seen.append(
        sum(f.stat().st_size for f in (tmp_path / "disk").rglob("*.safetensors") if f.is_file())
    )
    _measure(tmp_path, disk_budget=1.05 * whole / 1e9)
    assert needed * 0.5 < max(seen) <= 1.05 * whole
    assert not any((tmp_path / "disk").iterdir())
    hub.sent.clear()
    with pytest.raises(OutOfResources, match="--disk-budget"):
        timeline(
            "org/model", cache=tmp_path / "other", disk_budget=0.5 * whole / 1e9, threads=1,
            **LOOKING,
        )  # fmt: skip
    assert _weights(hub) < 0.3 * whole  # headers alone


def test_a_server_without_ranges_gives_the_same_and_it_is_said(hub, folders, tmp_path):
    expected = _measure(tmp_path)
    hub.ranges = False
    hub.sent.clear()
    found = timeline("org/model", cache=tmp_path / "whole", threads=1, **LOOKING)
    a, b = (r.data["timeline/org/model"].to_dataset() for r in (expected, found))
    for name in ("late", "log_norm", "concentration"):
        assert a[name].values.tobytes() == b[name].values.tobytes()
    said = "4 of 4 checkpoints: its weights were downloaded whole, since the server gave no ranges."
    assert said in found.summary.timeline.notes
    assert said not in expected.summary.timeline.notes
    assert not any((tmp_path / "disk").iterdir())


def test_a_revision_that_is_not_there(hub, tmp_path):
    with pytest.raises(InputError, match="no branch or tag 'step99'"):
        _measure(tmp_path, revisions=["step0", "step99"])
    real = hub.folder
    hub.folder = lambda revision: None if revision == COMMITS[10] else real(revision)
    commit = hub.commit
    hub.commit = lambda revision: None if revision == COMMITS[10] else commit(revision)
    found = _measure(tmp_path)
    assert found.summary.timeline.steps == [0, 20, 40]
    [(name, reason)] = found.summary.timeline.broken.items()
    assert name == "step10"
    assert "cannot be fetched" in reason
    assert any("step10 was skipped" in note for note in found.summary.timeline.notes)


def test_tags_and_sub_folders(hub, folders, tmp_path):
    hub.tags = {"global_step5": COMMITS[0], "global_step7": COMMITS[10]}
    hub.revisions = {"main": (COMMITS[0], folders / "0"), "other": (COMMITS[10], folders / "10")}
    found = _measure(tmp_path)
    assert found.summary.timeline.steps == [5, 7]
    hub.tags, hub.revisions = {}, {"main": ("f" * 40, tmp_path / "nested")}
    for step in STEPS[:2]:
        place = tmp_path / "nested" / f"step-{step:04}"
        place.mkdir(parents=True)
        for path in (folders / str(step)).iterdir():
            (place / path.name).write_bytes(path.read_bytes())
    found = timeline("org/model", cache=tmp_path / "nested-cache", threads=1, **LOOKING)
    assert found.summary.timeline.steps == [0, 10]
    assert not found.summary.timeline.broken


def test_a_connection_that_breaks_is_told_in_a_sentence(tmp_path):
    from huggingface_hub.errors import HfHubHTTPError

    class Broken:
        def ls(self, *args, **options):
            raise HfHubHTTPError.__bases__[0]("connection reset")

    one = Checkpoint("step1", 1, "org/model", "c0ffee")
    with pytest.raises(InputError, match="cannot be fetched: connection reset"):
        fetch_first_blocks(one, 1, tmp_path, fs=Broken())
