"""Sweeps: the same bytes however they are run, whatever is killed meanwhile."""

from __future__ import annotations

import os
import random
import signal

import pytest
import torch
from sweep_kill import kill_and_resume, snapshot

from sinkscope.errors import InputError, OutOfResources
from sinkscope.frame import silent
from sinkscope.settings import CheckpointSettings
from sinkscope.subject.load import load
from sinkscope.subject.tiny import tiny_model
from sinkscope.training_runs import measured, pilot_cache
from sinkscope.training_runs.checkpoint import Checkpoint, TrainingRun
from sinkscope.training_runs.measured import measure_checkpoints
from sinkscope.training_runs.pilot import Pilot, TimelineSettings, run_pilot, view_hash
from sinkscope.training_runs.sources import find_runs
from sinkscope.training_runs.store import Store, decode, encode
from sinkscope.training_runs.task import Task
from sinkscope.workers.pool import results_of

COUNT = 6
ONE_THREAD = CheckpointSettings(threads=1)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> TrainingRun:
    folder = tmp_path_factory.mktemp("series")
    for step in range(COUNT):
        tiny_model("llama", seed=step).save_pretrained(folder / f"checkpoint-{step * 10}")
    return find_runs([folder])[0]


@pytest.fixture(scope="module")
def pilot(run) -> Pilot:
    looking = TimelineSettings(kind="random", n=2, length=32, first_blocks=2, untrained=False)
    return run_pilot(load(run.checkpoints[-1].place), looking)


@pytest.fixture(scope="module")
def serial(run, pilot, tmp_path_factory) -> dict[str, bytes]:
    store = Store(tmp_path_factory.mktemp("serial"))
    found = measure_checkpoints(run, pilot, store, settings=ONE_THREAD)
    assert not found.broken
    assert all(light is not None for light in found.metrics)
    return snapshot(store)


def test_pilot_survives_json(pilot):
    again = Pilot.from_json(pilot.to_json())
    assert view_hash(again.view) == view_hash(pilot.view)
    assert again.to_json() == pilot.to_json()


def test_a_pilot_is_of_what_its_text_holds(run, tmp_path):
    text = tmp_path / "a.txt"
    keys = set()
    for content in ("one", "two", "one"):
        text.write_text(content)
        settings = TimelineSettings(text=str(text))
        keys.add(pilot_cache._pilot_key(run, run.checkpoints[-1], settings))
    assert len(keys) == 2


def test_a_pilot_for_which_memory_is_lacking_looks_at_no_fewer_blocks(run, tmp_path, monkeypatch):
    looking = TimelineSettings(kind="random", n=2, length=32, untrained=False)

    def lacking(*given):
        raise OutOfResources("no memory")

    monkeypatch.setattr(pilot_cache, "blocks_read", lacking)
    with pytest.raises(OutOfResources, match="no memory"):
        pilot_cache.cached_pilot(run, looking, Store(tmp_path), 10.0, silent)


def test_what_is_stored_is_not_measured_again(run, pilot, tmp_path, monkeypatch, serial):
    store = Store(tmp_path)
    first = measure_checkpoints(run, pilot, store, settings=ONE_THREAD)
    assert snapshot(store) == serial
    monkeypatch.setattr(measured, "measure", None)
    again = measure_checkpoints(run, pilot, store, settings=ONE_THREAD)
    assert [encode(a) for a in again.metrics] == [encode(a) for a in first.metrics]


def test_changed_checkpoint_is_measured_again(run, pilot, tmp_path, serial):
    store = Store(tmp_path / "store")
    measure_checkpoints(run, pilot, store, settings=ONE_THREAD)
    for step in (0, 10):
        tiny_model("llama", seed=99 + step).save_pretrained(tmp_path / f"checkpoint-{step}")
    other = find_runs([tmp_path / "checkpoint-0", tmp_path / "checkpoint-10"])[0]
    measure_checkpoints(other, pilot, store, settings=ONE_THREAD)
    assert len(snapshot(store)) == COUNT + 2


def test_damaged_file_is_measured_again(run, pilot, tmp_path, serial):
    store = Store(tmp_path)
    measure_checkpoints(run, pilot, store, settings=ONE_THREAD)
    name = sorted(serial)[0]
    (tmp_path / name).write_bytes(serial[name][:100])
    measure_checkpoints(run, pilot, store, settings=ONE_THREAD)
    assert snapshot(store) == serial


def test_broken_checkpoints_are_reported_and_skipped(pilot, tmp_path):
    for step in range(4):
        tiny_model("llama", seed=step).save_pretrained(tmp_path / "run" / f"checkpoint-{step}")
    weights = "model.safetensors"
    (tmp_path / "run/checkpoint-0" / weights).write_bytes(b"12345678 no header")
    whole = (tmp_path / "run/checkpoint-1" / weights).read_bytes()
    (tmp_path / "run/checkpoint-1" / weights).write_bytes(whole[: len(whole) // 2])
    model = tiny_model("llama", seed=2)
    with torch.no_grad():
        model.model.embed_tokens.weight[0, 0] = torch.nan
    model.save_pretrained(tmp_path / "run/checkpoint-2")
    found = measure_checkpoints(
        find_runs([tmp_path / "run"])[0], pilot, Store(tmp_path / "s"), settings=ONE_THREAD
    )
    assert sorted(found.broken) == ["checkpoint-0", "checkpoint-1", "checkpoint-2"]
    assert "corrupt" in found.broken["checkpoint-0"]
    assert "cut short" in found.broken["checkpoint-1"]
    assert "NaN" in found.broken["checkpoint-2"]
    assert [light is not None for light in found.metrics] == [False, False, False, True]
    (tmp_path / "run/checkpoint-3" / weights).unlink()
    with pytest.raises(InputError, match="no checkpoint of run could be measured"):
        measure_checkpoints(
            find_runs([tmp_path / "run"])[0], pilot, Store(tmp_path / "t"), settings=ONE_THREAD
        )


def test_processes_give_the_same_bytes(run, pilot, tmp_path, serial):
    found = measure_checkpoints(
        run, pilot, Store(tmp_path), settings=CheckpointSettings(workers=2, threads=1)
    )
    assert not found.broken
    assert snapshot(Store(tmp_path)) == serial


def test_a_task_that_kills_its_worker_is_reported():
    tasks = [Task(i, Checkpoint(str(i), i, ""), None, "", "", 1, 0) for i in range(4)]
    found = sorted(results_of(iter(tasks), _die_or_answer, 2))
    assert [index for index, content, _ in found if content is None] == [1]
    assert "died three times" in found[1][2]
    assert [content for _, content, _ in found] == [b"0", None, b"2", b"3"]


def _die_or_answer(task):
    if task.index == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return task.index, str(task.index).encode(), ""


def test_killed_sweeps_go_on(run, pilot, tmp_path, serial):
    moments = random.Random(0)
    kills = [kill_and_resume(run, pilot, tmp_path / str(i), moments.random()) for i in range(3)]
    assert all(found == serial for found in kills)


def test_ray_with_a_worker_killed(run, pilot, tmp_path, serial, monkeypatch):
    ray = pytest.importorskip("ray")
    killed = tmp_path / "killed"

    def killed_once(task):  # the worker that takes the third checkpoint dies with it, once
        if task.index == 2 and not killed.exists():
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        from sinkscope.training_runs.task import measure

        return measure(task)

    monkeypatch.setattr(measured, "measure", killed_once)
    ray.init(
        address="local",
        num_cpus=3,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    try:
        found = measure_checkpoints(
            run,
            pilot,
            Store(tmp_path / "store"),
            settings=CheckpointSettings(workers="ray", threads=1),
        )
    finally:
        ray.shutdown()
    assert killed.exists()
    assert not found.broken
    assert snapshot(Store(tmp_path / "store")) == serial


def test_workers_that_make_no_sense(run, pilot, tmp_path):
    for workers in ("many", 0):
        with pytest.raises(InputError, match="--workers"):
            measure_checkpoints(
                run, pilot, Store(tmp_path), settings=CheckpointSettings(workers=workers)
            )


def test_stored_bytes_say_everything(serial):
    for content in serial.values():
        assert encode(decode(content)) == content
