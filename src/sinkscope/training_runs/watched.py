"""A model that is being trained, looked at from outside: its wrappers, its shards, its states."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from sinkscope.errors import InputError, Unsupported


def unwrapped(model: nn.Module) -> nn.Module:
    """The transformers model inside torch.compile, DDP or Lightning-like wrappers."""
    inner: Any = model
    while not hasattr(inner, "config"):
        for name in ("_orig_mod", "module", "model"):
            if isinstance(getattr(inner, name, None), nn.Module):
                inner = getattr(inner, name)
                break
        else:
            raise InputError(f"no transformers model was found in {type(model).__name__}.")
    return getattr(inner, "_orig_mod", inner)


def refuse_parts(model: nn.Module) -> None:
    """Refuse weights of which each process holds a part that a pass here would not put together.

    FSDP2 gathers them where the model is called from its root; ZeRO-3 and FSDP1 do so only under
    their own engine, and under tensor parallelism every process sees other heads.
    """
    in_fsdp = _in_fsdp(model)
    for module in model.modules():
        if type(module).__name__ == "FullyShardedDataParallel":
            raise Unsupported(
                "weights under FSDP1 cannot be watched: shard with fully_shard (FSDP2), or save "
                "checkpoints and follow them with timeline."
            )
        gathers = type(module).__name__.startswith("FSDP")
        for parameter in module.parameters(recurse=False):
            if hasattr(parameter, "ds_id") and parameter.numel() == 0:
                raise Unsupported(
                    "weights under ZeRO-3 cannot be watched: save checkpoints and follow them with "
                    "timeline, or train with ZeRO-2."
                )
            mesh = getattr(parameter, "device_mesh", None)
            names = getattr(mesh, "mesh_dim_names", None) or ()
            if mesh is not None and ("tp" in names or not (gathers or in_fsdp)):
                raise Unsupported(
                    "weights under tensor parallelism cannot be watched, since every process sees "
                    "other heads: save checkpoints and follow them with timeline."
                )


def _in_fsdp(model: nn.Module) -> bool:
    return any(type(module).__name__.startswith("FSDP") for module in model.modules())


def called_whole(model: nn.Module) -> nn.Module:
    """A sharded model (FSDP2) in a shell through which it is always called from its root.

    The root gathers the embeddings; the decoder alone would meet their shards. The shell passes for
    a class of the model's own file, where its attention is looked up.
    """
    if not _in_fsdp(model):
        return model

    def init(self: nn.Module) -> None:
        nn.Module.__init__(self)
        self.sharded = model
        self.config = model.config

    members = {
        "__init__": init,
        # FSDP2 puts a class of its own before the model's
        "__module__": type(model).__mro__[2].__module__,
        "forward": lambda self, **inputs: self.sharded(**inputs),
        "get_input_embeddings": lambda self: self.sharded.get_input_embeddings(),
    }
    return type(type(model).__name__, (nn.Module,), members)()


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """No gradients, no autocast, no compiled code; random states and shards are put back."""
    devices = {p.device for p in model.parameters() if p.device.type not in ("cpu", "meta")}
    kinds = {device.type for device in devices} | {"cpu"}
    with ExitStack() as stack:
        stack.callback(reshard, sharded_modules(model))
        stack.enter_context(torch.random.fork_rng(devices=[]))
        for device in devices:
            if device.type == "cuda":
                stack.enter_context(torch.random.fork_rng(devices=[device]))
        stack.enter_context(torch.no_grad())
        for kind in kinds:
            stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


def sharded_modules(model: nn.Module) -> list[Any]:
    """Modules of FSDP2 whose weights lie in shards now."""
    return [
        module
        for module in model.modules()
        if type(module).__name__.startswith("FSDP")
        and all(hasattr(p, "full_tensor") for p in module.parameters())
    ]


def reshard(modules: list[Any]) -> None:
    """Give gathered weights back: after a pass without a backward the root would keep them."""
    for module in modules:
        module.reshard()
