"""Tensor parallel models, whole from outside: weights stay spread, activations are put together.

transformers splits the rows of one linear map and the columns of the next over the processes, so
that between the two each process holds its own heads and neurons only. Here the output of the first
is gathered and the input of the second cut again: attention and every hook then see all heads and
all neurons, the same in every process, and nothing else has to know of the processes. The price is
that attention itself is computed in each of them.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from sinkscope.errors import InputError, Unsupported

# Styles of a plan after which a module's input and output are whole already.
WHOLE = (
    "embedding", "colwise_gather", "colwise_rep", "rowwise_split", "rowwise_rep", "replicate",
    "moe_tp_experts",
)  # fmt: skip
_NO_PLAN = "This transformers has no plan to spread a {!r} model over processes."
Way = Callable[[torch.Tensor, Any], torch.Tensor]
MADE = "_whole_from_outside"  # attribute of a model: it was made so


def is_spread(model: nn.Module) -> bool:
    """Whether weights of a model are spread over processes."""
    return any(hasattr(parameter, "device_mesh") for parameter in model.parameters())


def spreading() -> dict[str, Any]:
    """What transformers is told so that it spreads a model over the processes of torchrun.

    Raises InputError where there are none, Unsupported where it spreads models in another way.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        raise InputError(
            "Tensor parallelism needs several processes: start it by torchrun --nproc-per-node 2 "
            "-m -- sinkscope scan MODEL --tensor-parallel"
        )
    try:
        import transformers.distributed.tensor_parallel  # noqa: F401  the way that is known here
        from transformers.distributed import DistributedConfig
    except ImportError:
        raise Unsupported(
            "this transformers spreads models over processes in a way that cannot be read; "
            "install a newer one."
        ) from None
    return {"distributed_config": DistributedConfig(tp_plan="auto")}


def make_whole(model: Any) -> None:
    """Gather what comes out of split maps and cut what goes into them, once and for good.

    Raises Unsupported where weights are spread in another way.
    """
    if hasattr(model, MADE):
        return
    if not is_spread(model):
        raise Unsupported(_NO_PLAN.format(model.config.model_type))
    plan = getattr(model, "tp_plan", None) or {}
    for name, module in model.named_modules():
        split = {n: p for n, p in module.named_parameters(recurse=False) if _is_split(p)}
        if not split:
            continue
        style = plan.get(re.sub(r"\d+", "*", name), "")
        if style.startswith(WHOLE):
            continue
        if style not in ("colwise", "rowwise") or not isinstance(module, nn.Linear):
            raise Unsupported(
                f"{model.config.model_type} cannot be read while it is spread over processes: "
                f"{name} is split as {style or 'no plan says'}."
            )
        _wrap(module, style, next(iter(split.values())))
    setattr(model, MADE, True)


def _wrap(module: nn.Linear, style: str, weight: Any) -> None:
    group, inner = weight.device_mesh.get_group(), module.forward
    size = module.out_features if style == "colwise" else module.in_features
    if size % group.size():
        raise Unsupported(f"{size} rows do not divide over {group.size()} processes.")

    def gathering(x: torch.Tensor) -> torch.Tensor:
        return _Exchange.apply(inner(x), group, _gathered, _own)

    def parting(x: torch.Tensor) -> torch.Tensor:
        return inner(_Exchange.apply(x, group, _own, _gathered))

    module.forward = gathering if style == "colwise" else parting  # type: ignore[method-assign, assignment]


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of a spread model put together; any other as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def spread_as(tensor: torch.Tensor, parameter: Any) -> torch.Tensor:
    """A whole tensor, the same in all processes, of a parameter's dtype and spread as it is."""
    tensor = tensor.to(parameter.device, parameter.dtype)
    if not hasattr(parameter, "device_mesh"):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    mesh, places = parameter.device_mesh, parameter.placements
    return distribute_tensor(tensor, mesh, places, src_data_rank=None)


def clock_of(model: nn.Module) -> Callable[[], float]:
    """A clock, in seconds; of a spread model that of the first process, in all of them."""
    if not is_spread(model):
        return time.monotonic

    device = next(model.parameters()).device  # of the group's backend: NCCL takes no other

    def agreed() -> float:
        now = torch.tensor(time.monotonic(), dtype=torch.float64, device=device)
        torch.distributed.broadcast(now, 0)
        return float(now)

    return agreed


def _is_split(parameter: Any) -> bool:
    return any(place.is_shard() for place in getattr(parameter, "placements", ()))


def _gathered(x: torch.Tensor, group: Any) -> torch.Tensor:
    x = x.contiguous()
    parts = [torch.empty_like(x) for _ in range(group.size())]
    torch.distributed.all_gather(parts, x, group=group)
    return torch.cat(parts, -1)


def _own(x: torch.Tensor, group: Any) -> torch.Tensor:
    return x.chunk(group.size(), -1)[torch.distributed.get_rank(group)].contiguous()


class _Exchange(torch.autograd.Function):
    """Put together or cut in the forward pass, the other way round in the backward one."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: Any, there: Way, back: Way) -> torch.Tensor:
        ctx.group, ctx.back = group, back
        return there(x, group)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        return ctx.back(grad, ctx.group), None, None, None
