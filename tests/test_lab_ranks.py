"""Several processes that train one model: they keep step, and the first alone writes."""

import json
import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as processes

from sinkscope.errors import InputError
from sinkscope.lab import ranks, state, train
from sinkscope.lab.data import prepare
from sinkscope.lab.recipe import TrainingRecipe
from sinkscope.lab.studies import results
from sinkscope.lab.studies.plan import Experiment, StudyPlan, StudySize
from sinkscope.lab.studies.runs import run_plan

WORLD = 2
RECIPE = TrainingRecipe(
    data="bigram-backcopy", vocabulary=40, blocks=1, width=16, heads=2, hidden=16, context=16,
    lengths=(8, 16), tokens_per_step=64, steps=6, warmup=2, checkpoints=(0, 4, 6),
)  # fmt: skip


TEXT = replace(RECIPE, data="text", tokenizer="own", vocabulary=300, checkpoints=())


def plan():
    size = StudySize(seeds=1, windows=6, length=8, every=3, base={})
    experiment = Experiment("?", "nobody", "", ("with", "without"), {"smoke": size})
    cells = {"one": replace(RECIPE, checkpoints=()), "text": TEXT}
    return StudyPlan("two", experiment, "smoke", 1, cells)


def worker(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(WORLD))
    out, train.SAVE_EVERY = Path(folder), 2
    data, written = prepare(RECIPE, None), []
    state.save_state, keep = spied(state.save_state, written), state.save_state
    train.save_state = state.save_state
    with ranks.joined("cpu"):
        stops = iter([False, False, rank == 0])  # the first process' word counts for both
        with pytest.raises(train.Stopped):
            train.train(RECIPE, data, out / "run", stop=lambda: next(stops))
        model = train.train(RECIPE, data, out / "run", resume=True)
        run_plan(plan(), out / "plan")
        with pytest.raises(InputError, match="cannot share evenly"):
            ranks.share(torch.zeros(3, 1))
        assert ranks.share(torch.arange(4)).tolist() == [rank, rank + 2]
        assert ranks.mean(float(rank)) == 0.5
    weights = torch.cat([p.detach().flatten() for p in model.parameters()]).tolist()
    found = {"weights": weights, "kept": len(written)}
    (out / f"{rank}.json").write_text(json.dumps(found), encoding="utf-8")
    state.save_state = keep


def spied(function, calls):
    def call(*arguments):
        calls.append(arguments[0])
        return function(*arguments)

    return call


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def test_two_processes_train_as_one_and_one_of_them_writes(tmp_path):
    processes.spawn(worker, (free_port(), str(tmp_path)), nprocs=WORLD)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(WORLD))
    assert first["weights"] == second["weights"]
    assert first["kept"] > 3
    assert second["kept"] == 0

    alone = train.train(RECIPE, prepare(RECIPE, None), tmp_path / "alone")
    weights = torch.cat([p.detach().flatten() for p in alone.parameters()])
    assert torch.allclose(weights, torch.tensor(first["weights"]), atol=1e-5)
    logs = [results.read_lines(tmp_path / name / "log.jsonl") for name in ("run", "alone")]
    assert [row["step"] for row in logs[0]] == [row["step"] for row in logs[1]] == list(range(7))
    assert [row["loss"] for row in logs[0][1:]] == pytest.approx(
        [row["loss"] for row in logs[1][1:]], abs=1e-5
    )
    assert {p.name for p in (tmp_path / "run").iterdir()} == {
        p.name for p in (tmp_path / "alone").iterdir()
    }

    run_plan(plan(), tmp_path / "plan-alone")
    both = [results.read_results(tmp_path / name).lines for name in ("plan", "plan-alone")]
    expected = [(cell, 0, bos) for cell in ("one", "text") for bos in ("with", "without")]
    assert [results.key_of(line) for line in both[0]] == expected
    assert [p.name for p in (tmp_path / "plan" / "text").iterdir()] == ["own-300-texts"]
    for one, other in zip(*both):
        assert one["figures"]["loss"] == pytest.approx(other["figures"]["loss"], abs=1e-3)
