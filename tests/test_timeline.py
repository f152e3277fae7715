"""`timeline` from a run folder to its result, over a series whose answer is known."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from sinkscope.errors import InputError
from sinkscope.known.constructed import build_in_memory, draw_spec
from sinkscope.result import load_result
from sinkscope.training_runs import judging
from sinkscope.training_runs.logs import training_log
from sinkscope.training_runs.sources import find_runs
from sinkscope.training_runs.timeline import timeline

EMERGED = 40  # the first step at which the circuit is there
STEPS = (0, 10, 20, 30, EMERGED, 60, 90, 130, 180, 240)
SMALL = {"kind": "random", "n": 3, "length": 48, "untrained": True}


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    """A constructed circuit whose writing neurons are silent before EMERGED; with a log."""
    folder = tmp_path_factory.mktemp("runs") / "planted"
    spec = draw_spec("p0-two-block", 5, family="llama", noise=0.05, vocab=258)
    model, tokenizer, truth = build_in_memory(spec)
    whole = {name: p.detach().clone() for name, p in model.named_parameters()}
    block = truth.amplifying_blocks[0]
    down = f"model.layers.{block}.mlp.down_proj.weight"
    neurons = [n[-1] for n in truth.writing_neurons]
    lines = []
    for step in STEPS:
        with torch.no_grad():
            weight = dict(model.named_parameters())[down]
            weight.copy_(whole[down])
            if step < EMERGED:
                weight[:, neurons] = 0
        model.save_pretrained(folder / f"checkpoint-{step}")
        tokenizer.save_pretrained(folder / f"checkpoint-{step}")
        lines.append({"step": step, "loss": 5 - step / 100, "gradient_norm": 1.0})
    (folder / "log.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\nbroken {")
    return folder, truth


@pytest.fixture(scope="module")
def result(series, tmp_path_factory):
    return timeline(series[0], cache=tmp_path_factory.mktemp("cache"), threads=1, **SMALL)


def test_finds_what_was_planted(series, result):
    found = result.summary.timeline
    assert found.steps == list(STEPS)
    assert found.emergence_step == EMERGED
    assert found.emergence["sink"]["before"] == 30
    assert 30 <= found.emergence["sink"]["low"] < found.emergence["sink"]["high"] <= EMERGED
    assert found.emergence["norm"]["step"] == EMERGED
    assert found.emergence["direction"]["step"] == 0  # told apart from the start, not amplified
    assert [stage["start"] for stage in found.stages] == [0, EMERGED]
    assert found.concentration["2"].value > 0.9
    assert found.concentration["1"].value < 0.5
    assert found.emergence_block == series[1].amplifying_blocks[0]
    assert found.looked_at["first_blocks"] <= found.looked_at["blocks"]
    assert found.broken == {}


def test_arrays_are_labelled(result):
    data = result.data["timeline/planted"].to_dataset()
    assert data["late"].dims == ("step", "layer", "head")
    assert data["step"].values.tolist() == list(STEPS)
    assert data["training_loss"].values[0] == 5
    turn = data["turn"].values
    assert np.isnan(turn[0])
    assert turn[STEPS.index(EMERGED)] > 0.1
    assert turn[-1] == pytest.approx(0, abs=1e-5)
    assert data["neuron_jaccard"].values[-1] == 1
    assert all(v.attrs["long_name"] for v in data.data_vars.values())


def test_result_is_kept_and_shown(result, tmp_path):
    result.save(tmp_path / "run")
    again = load_result(tmp_path / "run")
    assert again.to_json() == result.to_json()
    text = result.table()
    assert "emerged" in text
    assert "planted" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert result.plot() is not None


def test_parallel_and_resumed_results_are_the_same_bytes(series, result, tmp_path):
    cache = tmp_path / "cache"
    other = timeline(series[0], cache=cache, threads=1, workers=2, **SMALL)
    assert other.to_json() == result.to_json()
    for file in sorted(cache.glob("*.safetensors"))[:4]:
        file.unlink()
    assert timeline(series[0], cache=cache, threads=1, **SMALL).to_json() == result.to_json()


def test_several_runs_and_all_blocks(series, tmp_path):
    found = timeline([series[0], series[0]], cache=tmp_path, threads=1, first_blocks="all", **SMALL)
    runs = found.summary.timeline.runs
    assert list(runs) == ["planted", "planted-2"]
    assert runs["planted"].looked_at["whole_models"]
    assert runs["planted"].loss > 0
    assert "loss" in found.data["timeline/planted-2"]
    with pytest.raises(InputError, match="--first-blocks"):
        timeline(series[0], cache=tmp_path, first_blocks="some", **SMALL)


def test_logs_of_a_trainer(series, tmp_path):
    run = find_runs([series[0]])[0]
    assert training_log(run)["gradient_norm"].tolist() == [1.0] * len(STEPS)
    for step in (5, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
    history = [{"step": s, "loss": 10.0 - s, "grad_norm": 2.0} for s in range(1, 11)]
    history += [{"step": 10, "eval_loss": 0.5}, {"train_runtime": 3}]
    state = json.dumps({"log_history": history})
    (tmp_path / "checkpoint-10" / "trainer_state.json").write_text(state)
    found = training_log(find_runs([tmp_path])[0])
    assert found["training_loss"].tolist() == [7.0, 4.5]
    assert found["validation_loss"][1] == 0.5
    assert np.isnan(found["validation_loss"][0])


def test_judging_knows_a_good_signal_from_a_bad_one():
    g = np.random.default_rng(0)
    runs = {}
    for name in "abcd":
        remaining = np.sort(g.uniform(0, 3, 20))[::-1] - 0.0
        runs[name] = {
            "remaining": remaining,
            "concentration_2": 1 - remaining / 4,
            "sink": g.normal(size=20),
            "loss": remaining + g.normal(0, 0.5, 20),
            "log_step": np.arange(20.0),
        }
    found = {row.name: row for row in judging.judge(runs)}
    assert found["concentration_2"].alone == pytest.approx(1.0)
    assert found["concentration_2"].rank == pytest.approx(-1.0)
    assert found["concentration_2"].added > 0.01
    assert found["sink"].alone < 0.1
    assert abs(found["sink"].added) < 0.05
    assert found["loss"].added is None
    assert judging.judge({k: runs[k] for k in "ab"}) == []


def test_a_run_is_judged_by_the_others_alone():
    """In one run of three the signal rises where it falls in the others."""
    falling = np.linspace(3.0, 0.0, 12)
    runs = {
        name: {"remaining": falling, "sink": sign * falling, "loss": falling}
        for name, sign in (("a", 1.0), ("b", 1.0), ("turned", -1.0))
    }
    (row,) = (row for row in judging.judge(runs) if row.name == "sink")
    seen = falling[:-1]
    wrong = 1.0 - ((seen + seen) ** 2).sum() / ((seen - seen.mean()) ** 2).sum()
    assert row.runs["turned"] == pytest.approx(wrong)
