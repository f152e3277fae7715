"""Watching a run must not change it, whatever the run is made of."""

from __future__ import annotations

import copy
import json
import sys
import types
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from sinkscope.errors import InputError, Unsupported
from sinkscope.observe.registry import hooks
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts
from sinkscope.subject.tiny import tiny_model
from sinkscope.training_runs import callbacks, receivers, signals
from sinkscope.training_runs.alarms import Watch
from sinkscope.training_runs.checkpoint_metrics import light
from sinkscope.training_runs.monitor import OVER_UNIFORM, Past, SinkMonitor, unwrapped
from sinkscope.training_runs.view import View

STEPS = 6


def _model():
    model = tiny_model("llama")
    model.config.attention_dropout = 0.1  # so that the random state matters
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.1
    return model.train()


def _train(model, watch=None, step_context=None, prepare=lambda model: model):
    """Losses, final weights and the random state after a few steps."""
    torch.manual_seed(0)
    prepared = prepare(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    monitor = watch(prepared) if watch else None
    for step in range(STEPS):
        if monitor:
            monitor(step)
        ids = torch.randint(100, (2, 16))
        with torch.autocast("cpu", torch.bfloat16, enabled=step_context == "autocast"):
            loss = prepared(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, [p.detach().clone() for p in model.parameters()], torch.rand(3)


def _every(seen):
    def watch(model):
        monitor = SinkMonitor(model, every=2, first_blocks=2)
        return lambda step: seen.append(monitor.observe(step))

    return watch


def _draw(*_):
    torch.rand(3)


def _same(a, b):
    assert a[0] == b[0]
    assert all(torch.equal(x, y) for x, y in zip(a[1], b[1], strict=True))
    assert torch.equal(a[2], b[2])


@pytest.mark.parametrize(
    "kind",
    ["plain", "autocast", "checkpointing", "compiled", "compiled in place", "compiled blocks"],
)
def test_a_watched_run_is_the_same_bit_for_bit(kind):
    def prepare(model):
        if kind == "checkpointing":
            model.gradient_checkpointing_enable()
        if kind == "compiled":
            return torch.compile(model, backend="aot_eager")
        if kind == "compiled in place":
            model.compile(backend="aot_eager")
        if kind == "compiled blocks":
            for layer in model.model.layers:
                layer.compile(backend="aot_eager")
        return model

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    plain = _train(_model(), None, kind, prepare)
    compiled = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    seen = []
    watched = _train(_model(), _every(seen), kind, prepare)
    _same(plain, watched)
    assert [bool(metrics) for metrics in seen] == [True, False] * (STEPS // 2)
    if kind.startswith("compiled"):
        assert compiled
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == compiled


def test_numbers_are_those_of_the_light_set():
    model = _model()
    monitor = SinkMonitor(model, every=1, first_blocks=2)
    metrics = monitor.observe(0)
    found = light(Subject.from_model(copy.deepcopy(model)), monitor._view)
    assert metrics["sink/late_share"] == pytest.approx(np.nanmean(found.late))
    assert metrics["sink/norm_ratio"] == pytest.approx(np.exp(found.log_ratio[:, 2].mean()))
    assert np.isnan(metrics["sink/turn"])
    again = monitor.observe(1)
    assert again["sink/turn"] == pytest.approx(0, abs=1e-6)
    assert all(type(value) is float for value in again.values())
    # no head sinks in either, so there is nothing to agree on
    assert [name for name in again if not np.isfinite(again[name])] == ["sink/head_jaccard"]
    assert model.training


def test_every_blocks_norm_is_looked_at_and_the_keys_stay_the_same():
    """A sink that is written behind the first blocks cannot hide; three steps, the same keys."""
    model = _model()
    with torch.no_grad():
        model.model.layers[2].mlp.down_proj.weight *= 200.0
    monitor = SinkMonitor(model, every=1)
    seen = [monitor.observe(step) for step in range(3)]
    assert seen[0].keys() == seen[1].keys() == seen[2].keys()
    found = light(Subject.from_model(copy.deepcopy(model)), monitor._view)
    ratios = [seen[0][f"sink/norm_ratio/{block}"] for block in range(4)]
    assert ratios == pytest.approx(np.exp(found.log_ratio[:, 1:].mean(0)).tolist())
    few = SinkMonitor(model, every=1, first_blocks=2).observe(0)
    assert [few[f"sink/norm_ratio/{b}"] for b in range(2)] == pytest.approx(ratios[:2], abs=1e-6)


def test_a_metric_that_cannot_be_had_is_refused():
    monitor = SinkMonitor(_model(), every=1, metrics=("sink/late_share", "sink/turn"))
    assert set(monitor.observe(0)) == {"sink/late_share", "sink/turn"}
    with pytest.raises(InputError, match="'sink/learned' is no metric here: sink/late_share, "):
        SinkMonitor(_model(), metrics=("sink/learned",))


def test_weights_that_overflow_are_an_alarm_and_do_not_end_the_training():
    model, said = _model(), []
    monitor = SinkMonitor(model, every=1, on_alarm=said.append)
    monitor.observe(0)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.fill_(torch.nan)
    assert np.isnan(monitor.observe(1)["sink/late_share"])
    assert {alarm.kind for alarm in said} == {"collapse", "blow-up"}


@pytest.mark.parametrize("kind", ["ZeRO-3", "FSDP1", "tensor parallelism"])
def test_parts_of_weights_that_cannot_be_put_together_are_refused(kind):
    """The marks that the frameworks leave; the real ones run in test_timeline_distributed."""
    model = _model()
    weight = model.model.layers[1].mlp.up_proj.weight
    if kind == "ZeRO-3":
        weight.ds_id, weight.data = 3, torch.empty(0)
    elif kind == "FSDP1":
        kinds = (type(model.model.layers[1]),)
        model.model.layers[1].__class__ = type("FullyShardedDataParallel", kinds, {})
    else:
        weight.device_mesh = types.SimpleNamespace(mesh_dim_names=("tp",))
    with pytest.raises(Unsupported, match=f"{kind}.* cannot be watched"):
        SinkMonitor(model, every=1).observe(0)


def test_the_null_is_that_of_random_targets_and_of_uniform_attention():
    monitor = SinkMonitor(_model(), every=1, first_blocks=2)
    found = light(monitor._subject, monitor._view)
    nulls = signals.random_target_p99(found), OVER_UNIFORM * found.uniform.mean()
    assert monitor.observe(0)["sink/null"] == pytest.approx(max(nulls))
    assert max(nulls) > 0


def test_numbers_do_not_depend_on_autocast_around_them():
    plain = SinkMonitor(_model()).observe(0)
    with torch.autocast("cpu", torch.bfloat16):
        inside = SinkMonitor(_model()).observe(0)
    del plain["sink/seconds"], inside["sink/seconds"]
    assert inside == plain


def test_a_model_that_draws_at_random_while_it_is_looked_at_disturbs_nothing():
    model = _model()
    handle = model.model.layers[0].register_forward_hook(_draw)
    with hooks([handle]):
        before = torch.get_rng_state()
        SinkMonitor(model).observe(0)
        assert torch.equal(torch.get_rng_state(), before)


def test_own_prompts_and_bad_settings(ids):
    model = _model()
    assert SinkMonitor(model, prompts=ids).observe(0)
    with pytest.raises(InputError, match="eight tokens"):
        SinkMonitor(model, prompts=ids[0])
    with pytest.raises(InputError, match="every"):
        SinkMonitor(model, every=0)
    with pytest.raises(InputError, match="no transformers model"):
        SinkMonitor(nn.Linear(2, 2))
    monitor = SinkMonitor(model)
    monitor.observe(100)
    with pytest.raises(InputError, match="after step 100"):
        monitor.observe(100)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"every": "x"}, "every must be"),
        ({"prompts": [[1] * 9]}, "must be token ids"),
        ({"prompts": torch.rand(2, 9)}, "must be token ids"),
    ],
)
def test_settings_of_another_type_are_told(options, said):
    with pytest.raises(InputError, match=said):
        SinkMonitor(_model(), **options)


def test_a_monitor_is_of_one_model_of_a_dtype_that_is_measured():
    with pytest.raises(InputError, match="in float64"):
        SinkMonitor(_model().double())
    with pytest.raises(InputError, match="token id 500 lies outside"):
        SinkMonitor(_model(), prompts=torch.full((2, 9), 500)).observe(0)
    model = _model()
    monitor = SinkMonitor(model, every=1)
    monitor.observe(1)
    model.model.layers = model.model.layers[:2]
    with pytest.raises(InputError, match="has changed since the monitor was made"):
        monitor.observe(2)


def test_only_the_first_blocks_run():
    model = _model()
    monitor = SinkMonitor(model, first_blocks=1)
    calls = []
    handles = [
        layer.register_forward_hook(lambda *_, i=i: calls.append(i))
        for i, layer in enumerate(model.model.layers)
    ]
    with hooks(handles):
        monitor.observe(0)
    assert set(calls) == {0}


def test_wrappers():
    model = _model()

    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = torch.compile(model, backend="eager")

    assert unwrapped(Holder()) is model
    assert unwrapped(torch.compile(model, backend="eager")) is model
    assert unwrapped(model) is model


def test_settled_is_announced_online():
    said = []
    model = _model()
    monitor = SinkMonitor(model, every=1, first_blocks=1, on_alarm=said.append)
    add = monitor._past.add  # a tiny random model is taken to have a sink
    monitor._past.add = lambda step, share, above, *rest: add(step, share, True, *rest)
    for step in range(1, 14):
        metrics = monitor.observe(step)
    assert metrics["sink/settled"] == 1.0
    assert [alarm.kind for alarm in said] == ["settled"]
    assert "the circuit has settled in the first of 4 blocks: " in said[0].sentence


def test_heads_that_hand_over_have_not_settled_while_the_model_trains():
    """All else stands still, and so does the sum over heads."""
    past, still = Past(), np.eye(4)[0]
    for step in range(1, 14):
        part = np.log(step) / np.log(13)
        late = np.tile([[[0.8 * (1 - part), 0.8 * part]]], (3, 1, 1))
        past.add(step, 0.4, True, 0.5, 1.0, SimpleNamespace(direction=still, late=late))
    assert not any(past.calm)


def test_alarms():
    watch = Watch()

    def look(step, share, ratio, **more):
        metrics = {"sink/late_share": share, "sink/norm_ratio": ratio, **more}
        return [alarm.kind for alarm in watch.look(step, metrics)]

    assert look(0, 0.03, 1.0) == []
    assert look(1, 0.4, 8.0) == []
    assert look(2, 0.4, 9.0) == []
    assert look(3, 0.15, 9.0) == ["collapse"]
    assert look(4, 0.15, 9.0) == []
    assert look(5, 0.4, 9.0) == []
    assert look(6, 0.1, 40.0) == ["collapse", "blow-up"]
    assert look(7, 0.4, 41.0) == []
    assert [a.kind for a in watch.look(8, {"sink/norm_ratio": 1.0})] == ["collapse"]


def test_receivers(tmp_path, monkeypatch):
    metrics = {"sink/late_share": 0.5}
    lines = receivers.json_lines(tmp_path / "logs" / "sink.jsonl")
    lines(1, metrics)
    lines(2, metrics)
    read = [json.loads(x) for x in (tmp_path / "logs" / "sink.jsonl").read_text().splitlines()]
    assert read == [{"step": 1, **metrics}, {"step": 2, **metrics}]
    seen = []
    writer = types.SimpleNamespace(add_scalar=lambda *call: seen.append(call), flush=list)
    receivers.tensorboard(writer)(3, metrics)
    assert seen == [("sink/late_share", 0.5, 3)]
    log = types.SimpleNamespace(log=lambda metrics, step: seen.append((metrics, step)))
    receivers.wandb(log)(4, metrics)
    monkeypatch.setitem(sys.modules, "trackio", log)
    receivers.trackio()(5, metrics)
    assert seen[1:] == [(metrics, 4), (metrics, 5)]
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match="wandb is not installed"):
        receivers.wandb()


def test_trainer_gives_the_same_losses(tmp_path):
    from transformers import Trainer, TrainingArguments

    rows = [{"input_ids": r, "labels": r} for r in torch.randint(100, (24, 16)).tolist()]

    def run(name, calls):
        arguments = TrainingArguments(
            output_dir=str(tmp_path / name),
            max_steps=4,
            logging_steps=1,
            report_to=[],
            per_device_train_batch_size=2,
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
            seed=1,
        )
        trainer = Trainer(_model(), arguments, train_dataset=rows, callbacks=calls)
        trainer.train()
        return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    seen = []
    callback = callbacks.trainer_callback(
        [lambda *call: seen.append(call)], every=2, first_blocks=1
    )
    assert run("plain", []) == run("watched", [callback])
    assert [step for step, _ in seen] == [0, 2, 4]
    assert seen[0][1]["sink/late_share"] > 0


def test_lightning_that_is_missing(monkeypatch):
    for name in ("lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match="Lightning is not installed"):
        callbacks.lightning_callback()


def test_view_is_the_documented_one():
    monitor = SinkMonitor(_model(), first_blocks=3)
    assert isinstance(monitor._view, View)
    assert isinstance(monitor._view.prompts, Prompts)
    assert (monitor._view.horizon, monitor._view.point) == (3, 3)
