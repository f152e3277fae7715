"""A loaded model is tried once, on two tokens: what its configuration breaks shows here."""

from __future__ import annotations

from typing import Any

import torch

from sinkscope.errors import InputError, OutOfResources, Unsupported, is_out_of_memory
from sinkscope.subject.anatomy import Anatomy

LARGEST_WEIGHT = 1e12  # of a weight that means something; squares of larger ones soon overflow


def refuse_no_finite(model: Any, where: str) -> None:
    """Raise InputError where a weight is not finite, or so large that sums over it overflow."""
    for name, parameter in model.named_parameters():
        if parameter.device.type == "meta" or not parameter.numel():
            continue  # offloaded by device_map; checked when it is read
        if not parameter.dtype.is_floating_point:
            continue  # packed by a quantiser
        low, high = (float(end) for end in torch.aminmax(parameter.detach().float()))
        largest = max(-low, high)
        if not largest <= torch.finfo(torch.float32).max:
            raise InputError(f"{where}: weight {name} holds NaN or infinity.")
        if largest > LARGEST_WEIGHT:
            raise InputError(
                f"{where}: weight {name} reaches {largest:.0e}, so that sums over what it gives "
                "overflow."
            )


def try_out(model: Any, anatomy: Anatomy, where: str) -> None:
    """Run two tokens. Raises InputError, Unsupported or OutOfResources where that fails.

    In float32 and bfloat16 also where a block gives what is not finite, with the block's number.
    """
    outputs: list[bool] = []

    def watch(module: Any, args: Any, output: Any) -> None:
        first = output[0] if isinstance(output, tuple) else output
        outputs.append(not torch.is_tensor(first) or bool(torch.isfinite(first).all()))

    handles = [block.register_forward_hook(watch) for block in anatomy.modules(model)]
    embedding = model.get_input_embeddings()
    hook = getattr(embedding, "_hf_hook", None)
    offloaded = embedding.weight.device.type == "meta"
    device = hook.execution_device if offloaded and hook else embedding.weight.device
    ids = torch.zeros(1, 2, dtype=torch.long, device=device)
    try:
        with torch.no_grad():
            model(input_ids=ids, use_cache=False)
    except (ImportError, NotImplementedError) as error:
        raise Unsupported(f"{where} cannot be run here: {_line(error)}") from None
    except Exception as error:
        if is_out_of_memory(error):
            raise OutOfResources(f"{where} does not run in the memory there is.") from None
        raise InputError(
            f"{where}: the model that config.json describes cannot be run "
            f"({type(error).__name__}: {_line(error)})"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    if model.dtype != torch.float16 and not all(outputs):
        raise InputError(
            f"{where}: what block {outputs.index(False)} gives is not finite; its weights are too "
            "large."
        )


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0].rstrip(".") + "."
