"""Watching a model that several processes train: the first reports, the others keep step."""

from __future__ import annotations

import json
import os

import pytest
import torch
import torch.multiprocessing as processes
from torch.nn.parallel import DistributedDataParallel

from sinkscope.errors import Unsupported
from sinkscope.subject.tiny import tiny_model
from sinkscope.training_runs.monitor import SinkMonitor

WORLD = 2
REFUSED = ("FSDP1", "tensor parallelism")
KINDS = ("ddp", "ddp checkpointing", "fsdp2", "fsdp2 mixed checkpointing")


def _worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    store = torch.distributed.FileStore(f"{folder}/store", WORLD)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=WORLD)
    content = {}
    for kind in KINDS:
        plain, watched = (_train(kind, rank, watch) for watch in (False, True))
        seen = watched.pop("seen")
        same = plain == watched | {"seen": []}
        content[kind] = {"same": same, "seen": seen, "trains": watched["trains"]}
    content["refused"] = {kind: _refused(kind) for kind in REFUSED}
    with open(f"{folder}/{rank}.json", "w", encoding="utf-8") as file:
        json.dump(content, file)
    torch.distributed.destroy_process_group()


def _refused(kind: str) -> str:
    """What the first observation says of weights that it cannot put together."""
    model = tiny_model("llama")
    if kind == "FSDP1":
        from torch.distributed.fsdp import FullyShardedDataParallel

        model = FullyShardedDataParallel(model, device_id=torch.device("cpu"))
    else:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

        mesh = init_device_mesh("cpu", (WORLD,))
        plan = {f"model.layers.{i}.self_attn.q_proj": ColwiseParallel() for i in range(4)}
        parallelize_module(model, mesh, plan)
    try:
        SinkMonitor(model, every=1).observe(0)
    except Unsupported as error:
        return str(error)
    return "watched"


def _prepared(kind: str, model):
    """The model as it is trained, wrapped or sharded."""
    if "checkpointing" in kind:
        model.gradient_checkpointing_enable()
    if kind.startswith("ddp"):
        return DistributedDataParallel(model)
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    half = torch.bfloat16 if "mixed" in kind else None
    policy = MixedPrecisionPolicy(param_dtype=half)
    for layer in model.model.layers:
        fully_shard(layer, mp_policy=policy)
    return fully_shard(model, mp_policy=policy)


def _train(kind: str, rank: int, watched: bool) -> dict:
    """Losses, final weights, random state and training mode; and what was seen."""
    model = tiny_model("llama").train()
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.1  # so that the random state matters
    torch.manual_seed(rank)
    prepared = _prepared(kind, model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    monitor = SinkMonitor(prepared, every=2, first_blocks=2) if watched else None
    losses, seen = [], []
    for step in range(3):
        if monitor is not None:
            seen.append(monitor.observe(step))
        ids = torch.randint(100, (2, 16))
        loss = prepared(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    if monitor is not None:  # what is left behind by the last observation
        monitor.observe(4)
    weights = [getattr(p, "_local_tensor", p).detach() for p in model.parameters()]
    return {
        "losses": losses,
        "weights": [w.double().abs().sum().item() for w in weights],
        "random": torch.rand(3).tolist(),
        "trains": all(module.training for module in prepared.modules()),
        "seen": seen,
    }


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each rank saw; one pair of processes goes through all kinds, since starting costs."""
    folder = tmp_path_factory.mktemp("ranks")
    processes.spawn(_worker, (str(folder),), nprocs=WORLD)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(WORLD)]


@pytest.mark.parametrize("kind", KINDS)
def test_ranks_keep_step(kind, ranks):
    first, second = (rank[kind] for rank in ranks)
    assert first["same"]
    assert second["same"]
    assert first["trains"]
    assert second["trains"]
    assert [bool(metrics) for metrics in first["seen"]] == [True, False, True]
    assert not any(second["seen"])
    alone = SinkMonitor(tiny_model("llama"), every=2, first_blocks=2).observe(0)
    half = 0.03 if "mixed" in kind else 1e-4
    for name in ("sink/late_share", "sink/norm_ratio", "sink/distance"):
        assert first["seen"][0][name] == pytest.approx(alone[name], rel=half)


@pytest.mark.parametrize("kind", REFUSED)
def test_weights_that_cannot_be_put_together_are_refused_on_every_rank(kind, ranks):
    for rank in ranks:
        assert f"under {kind} cannot be watched" in rank["refused"][kind]
