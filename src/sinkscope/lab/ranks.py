"""Several processes that train one model, as torchrun starts them; by itself a process is rank 0.

Every process draws the same batch and takes its share of the rows, so that a step is the step of
one process to rounding, and one state serves all when a run is resumed.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel

from sinkscope.errors import InputError
from sinkscope.ranks import rank

LAUNCHED = "WORLD_SIZE"  # set by torchrun


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Join the processes that torchrun started, and leave them at the end; alone, do nothing."""
    if LAUNCHED not in os.environ:
        yield
        return
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()


def world() -> int:
    """How many processes there are."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def first() -> bool:
    """Whether this process is the one that logs and writes."""
    return rank() == 0


def wait() -> None:
    """Until all processes have come here."""
    if world() > 1:
        distributed.barrier()


def share(batch: Tensor) -> Tensor:
    """This process' rows of a batch [n, ..]: every world-th, [n / world, ..].

    Errors: InputError where the rows cannot be shared evenly.
    """
    if len(batch) % world():
        raise InputError(
            f"A step has {len(batch)} windows, which {world()} processes cannot share evenly."
        )
    return batch[rank() :: world()]


def mean(value: float) -> float:
    """The mean of a number over all processes."""
    if world() == 1:
        return value
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    total = torch.tensor(value, dtype=torch.float64, device=device)
    distributed.all_reduce(total)
    return total.item() / world()


def parallel(model: PreTrainedModel) -> Any:
    """The model, with its gradients averaged over all processes."""
    if world() == 1:
        return model
    return DistributedDataParallel(model)
