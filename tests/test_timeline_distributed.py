"""Watching a model that several processes train: the first reports, the others keep step."""

from __future__ import annotations

import json
import os

import pytest
import torch
import torch.multiprocessing as processes
from torch.nn.parallel import DistributedDataParallel

from sinkscope.subject.tiny import tiny_model
from sinkscope.timeline.monitor import SinkMonitor

WORLD = 2


def _worker(rank: int, kind: str, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    store = torch.distributed.FileStore(f"{folder}/store", WORLD)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=WORLD)
    losses = {watched: _train(kind, rank, watched) for watched in (False, True)}
    content = {"losses": [losses[False][0], losses[True][0]], "seen": losses[True][1]}
    with open(f"{folder}/{rank}.json", "w", encoding="utf-8") as file:
        json.dump(content, file)
    torch.distributed.destroy_process_group()


def _train(kind: str, rank: int, watched: bool) -> tuple[list[float], list[dict]]:
    model = tiny_model("llama").train()
    inner = model
    if kind == "ddp":
        model = DistributedDataParallel(model)
    else:
        from torch.distributed.fsdp import fully_shard

        for layer in model.model.layers:
            fully_shard(layer)
        fully_shard(model)
    optimizer = torch.optim.AdamW(inner.parameters(), lr=1e-3)
    monitor = SinkMonitor(model, every=2, first_blocks=2) if watched else None
    generator = torch.Generator().manual_seed(rank)
    losses, seen = [], []
    for step in range(3):
        if monitor is not None:
            seen.append(monitor.observe(step))
        ids = torch.randint(100, (2, 16), generator=generator)
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, seen


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_ranks_keep_step(kind, tmp_path):
    processes.spawn(_worker, (kind, str(tmp_path)), nprocs=WORLD)
    first, second = (json.loads((tmp_path / f"{r}.json").read_text()) for r in range(WORLD))
    assert first["losses"][0] == first["losses"][1]
    assert second["losses"][0] == second["losses"][1]
    assert [bool(metrics) for metrics in first["seen"]] == [True, False, True]
    assert not any(second["seen"])
    alone = SinkMonitor(tiny_model("llama"), every=2, first_blocks=2).observe(0)
    for name in ("sink/late_share", "sink/norm_ratio", "sink/distance"):
        assert first["seen"][0][name] == pytest.approx(alone[name], rel=1e-4)
