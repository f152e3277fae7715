"""The adapters beside the packages that they are for: real runs, read back."""

from __future__ import annotations

import time
import types

import pytest
import torch

from sinkscope.subject.tiny import tiny_model
from sinkscope.training_runs import receivers
from sinkscope.training_runs.callbacks import lightning_callback

METRICS = {"sink/late_share": 0.5, "sink/norm_ratio": 2.0}


def _fit(lightning, calls):
    """Losses and final weights of a short Lightning run; two batches make a step."""

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = tiny_model("llama")
            for layer in self.model.model.layers:
                layer.self_attn.attention_dropout = 0.1
            self.losses = []

        def training_step(self, batch, index):
            loss = self.model(input_ids=batch, labels=batch, use_cache=False).loss
            self.losses.append(loss.item())
            return loss

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=1e-3)

    lightning.seed_everything(0, verbose=False)
    module = Module().train()
    rows = torch.utils.data.DataLoader(torch.randint(100, (24, 16)), batch_size=2, shuffle=True)
    lightning.Trainer(
        accelerator="cpu",
        max_steps=4,
        accumulate_grad_batches=2,
        callbacks=calls,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(module, rows)
    return module.losses, [p.detach().clone() for p in module.parameters()]


@pytest.mark.filterwarnings("ignore")
def test_a_lightning_run_is_watched_and_stays_the_same():
    lightning = pytest.importorskip("lightning.pytorch")
    seen = []
    callback = lightning_callback([lambda *call: seen.append(call)], every=2, first_blocks=1)
    assert isinstance(callback, lightning.Callback)
    plain, watched = _fit(lightning, []), _fit(lightning, [callback])
    assert [step for step, _ in seen] == [0, 2, 4]
    assert seen[0][1]["sink/late_share"] > 0
    assert len(plain[0]) == 8
    assert plain[0] == watched[0]
    assert all(torch.equal(a, b) for a, b in zip(plain[1], watched[1], strict=True))


def test_tensorboard_is_written_at_once(tmp_path):
    name = "tensorboard.backend.event_processing.event_accumulator"
    reading = pytest.importorskip(name)
    receive = receivers.tensorboard(tmp_path)
    receive(100, METRICS)
    receive(200, METRICS)
    events = reading.EventAccumulator(str(tmp_path)).Reload()  # the writer was never closed
    assert sorted(events.Tags()["scalars"]) == sorted(METRICS)
    assert [(e.step, e.value) for e in events.Scalars("sink/late_share")] == [
        (100, 0.5),
        (200, 0.5),
    ]


def test_a_tensorboard_writer_is_flushed_after_every_observation():
    """The file may be complete without it, where its thread happens to be quick."""
    done = []
    writer = types.SimpleNamespace(
        add_scalar=lambda name, value, step: done.append(name), flush=lambda: done.append("flush")
    )
    receive = receivers.tensorboard(writer)
    receive(100, METRICS)
    receive(200, METRICS)
    assert done == [*METRICS, "flush"] * 2


def test_trackio_run_on_this_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    trackio = pytest.importorskip("trackio")
    trackio.init(project="watched", name="run", embed=False, auto_log_gpu=False)
    receive = receivers.trackio()
    receive(100, METRICS)
    receive(200, METRICS)
    trackio.finish()
    rows = trackio.sqlite_storage.SQLiteStorage.get_logs("watched", "run")
    rows = [row for row in rows if "sink/late_share" in row]
    assert [(row["step"], row["sink/late_share"]) for row in rows] == [(100, 0.5), (200, 0.5)]


def test_wandb_run_offline(tmp_path, monkeypatch):
    for name, value in (("MODE", "offline"), ("DIR", str(tmp_path)), ("SILENT", "true")):
        monkeypatch.setenv(f"WANDB_{name}", value)
    wandb = pytest.importorskip("wandb")
    run = wandb.init(project="watched")
    receive = receivers.wandb()
    receive(100, METRICS)
    receive(200, METRICS | {"sink/late_share": 0.75})
    assert run.step == 200
    run.finish()
    [written] = tmp_path.rglob("run-*.wandb")
    for _ in range(300):  # it is written by a process of its own
        content = written.read_bytes()
        if b"0.75" in content:
            break
        time.sleep(0.1)
    assert b"sink/norm_ratio" in content
    assert content.index(b"0.5") < content.rindex(b"0.75")
