"""Where checkpoints come from."""

from __future__ import annotations

from types import SimpleNamespace

import huggingface_hub
import pytest

from sinkscope.errors import InputError
from sinkscope.training_runs.sources import find_runs


def _model(path):
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    return path


def test_run_folder(tmp_path):
    for step in (100, 20, 3):
        _model(tmp_path / "run" / f"checkpoint-{step}")
    (tmp_path / "run" / "logs").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")  # the final model lies beside
    (run,) = find_runs([tmp_path / "run"])
    assert (run.name, run.unit) == ("run", "step")
    assert [c.step for c in run.checkpoints] == [3, 20, 100]
    assert run.checkpoints[0].place.endswith("checkpoint-3")


def test_checkpoint_without_a_model_is_kept_so_that_it_can_be_reported(tmp_path):
    _model(tmp_path / "checkpoint-1")
    (tmp_path / "checkpoint-2").mkdir()
    _model(tmp_path / "checkpoint-3" / "actor" / "hf")
    (run,) = find_runs([tmp_path])
    assert [c.step for c in run.checkpoints] == [1, 2, 3]
    assert run.checkpoints[2].place.endswith("hf")


def test_list_of_folders(tmp_path):
    names = ["b/step30", "a/step4"]
    paths = [_model(tmp_path / name) for name in names]
    (run,) = find_runs(paths)
    assert [c.step for c in run.checkpoints] == [4, 30]
    assert [c.name for c in run.checkpoints] == ["step4", "step30"]
    paths = [_model(tmp_path / name) for name in ("warm", "cold")]
    (run,) = find_runs(paths)
    assert (run.unit, [c.name for c in run.checkpoints]) == ("index", ["warm", "cold"])


def test_several_runs(tmp_path):
    for parent in ("x/run", "y/run"):
        for step in (1, 2):
            _model(tmp_path / parent / f"step{step}")
    runs = find_runs([tmp_path / "x/run", tmp_path / "y/run"])
    assert [r.name for r in runs] == ["run", "run-2"]


def test_revisions_and_pattern(tmp_path):
    for name in ("r3", "r1", "r2"):
        _model(tmp_path / name)
    (run,) = find_runs([tmp_path], pattern=r"r(\d)")
    assert [c.name for c in run.checkpoints] == ["r1", "r2", "r3"]
    (run,) = find_runs([tmp_path], revisions=["r3", "r1"])
    assert [(c.name, c.step) for c in run.checkpoints] == [("r3", 0), ("r1", 1)]
    with pytest.raises(InputError, match="no folder 'r9'"):
        find_runs([tmp_path], revisions=["r1", "r9"])


def test_what_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no checkpoints"):
        find_runs([tmp_path])
    _model(tmp_path / "step1")
    with pytest.raises(InputError, match="one checkpoint only"):
        find_runs([tmp_path])
    with pytest.raises(InputError, match="step1 is one checkpoint; a timeline needs two"):
        find_runs([tmp_path / "step1"])
    _model(tmp_path / "checkpoint-1")
    with pytest.raises(InputError, match="both step 1"):
        find_runs([tmp_path])
    with pytest.raises(InputError, match="neither a folder nor"):
        find_runs(["no such thing"])
    with pytest.raises(InputError, match="--offline"):
        find_runs(["org/name"], offline=True)
    with pytest.raises(InputError, match="no bundled series 'nothing'"):
        find_runs(["bundled:nothing"])


def test_an_install_without_the_series_says_how_to_have_it(tmp_path, monkeypatch):
    monkeypatch.setattr("sinkscope.training_runs.sources.SERIES", tmp_path)
    with pytest.raises(InputError, match=r"pip install 'sinkscope\[series\]'"):
        find_runs(["bundled"])


def _hub(monkeypatch, branches, tags=None, files=()):
    def refs(self, repo):
        def entries(named):
            return [SimpleNamespace(name=n, target_commit=c) for n, c in (named or {}).items()]

        return SimpleNamespace(branches=entries(branches), tags=entries(tags))

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_refs", refs)
    monkeypatch.setattr(
        huggingface_hub.HfApi, "list_repo_files", lambda self, repo, revision: list(files)
    )


def test_hub_branches_and_tags(monkeypatch):
    branches = {"main": "f", "step2": "b", "step16": "c", "step0": "a"}
    _hub(monkeypatch, branches, {"global_step16": "c", "v1": "f"})
    (run,) = find_runs(["org/name"])
    assert [(c.step, c.commit) for c in run.checkpoints] == [(0, "a"), (2, "b"), (16, "c")]
    assert "1 names were left out" in run.notes[0]
    (run,) = find_runs(["org/name"], revisions=["step0", "main"])
    assert [c.commit for c in run.checkpoints] == ["a", "f"]
    with pytest.raises(InputError, match="no branch or tag 'step9'"):
        find_runs(["org/name"], revisions=["step0", "step9"])


def test_hub_tokens_stages_and_branches(monkeypatch):
    names = [
        "stage1-step1000-tokens5B",
        "step3000-tokens13B",
        "stage2-ingredient1-step1000-tokens5B",
        "stage2-ingredient2-step1000-tokens5B",
    ]
    _hub(monkeypatch, {name: name for name in names})
    (run,) = find_runs(["org/name"])
    assert [c.step for c in run.checkpoints] == [1000, 3000, 4000]
    assert run.checkpoints[1].tokens == 13 * 10**9
    assert "parallel branches" in run.notes[0]


def test_hub_folders(monkeypatch):
    _hub(monkeypatch, {"main": "f"}, files=["step-10/config.json", "step-2/config.json", "README"])
    (run,) = find_runs(["org/name"])
    assert [(c.step, c.subfolder, c.commit) for c in run.checkpoints] == [
        (2, "step-2", "f"),
        (10, "step-10", "f"),
    ]
    _hub(monkeypatch, {"main": "f"}, files=["README"])
    with pytest.raises(InputError, match="no revision or sub-folder"):
        find_runs(["org/name"])


def test_hub_that_does_not_answer(monkeypatch):
    def refuse(self, repo):
        raise OSError("no route")

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_refs", refuse)
    with pytest.raises(InputError, match="cannot be reached on the Hub: no route"):
        find_runs(["org/name"])
