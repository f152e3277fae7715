"""A loaded model is tried once, on two tokens: what its configuration breaks shows here."""

from __future__ import annotations

import math
from typing import Any

import torch

from sinkscope.errors import (
    InputError,
    OutOfResources,
    SinkscopeError,
    Unsupported,
    first_line,
    is_out_of_memory,
)
from sinkscope.subject.anatomy import Anatomy
from sinkscope.subject.at_hand import has_own_class, input_device, is_brought
from sinkscope.subject.weights import quantisation

ORDINARY = 1e4  # weights below do not overflow float32 in any model of ordinary size
LARGEST_WEIGHT = 1e12  # of a weight that means something; squares of larger ones soon overflow


def refuse_double(model: Any) -> None:
    """Raise InputError for a model in float64."""
    if any(parameter.dtype == torch.float64 for parameter in model.parameters()):
        raise InputError(
            "the model is in float64, and transformers takes the softmax in float32 all the same, "
            "where the mask of float64 is infinite; give it in float32, bfloat16 or float16."
        )


def refuse_no_model(model: Any, tokenizer: Any) -> None:
    """Raise InputError for what is neither a transformers model nor its tokenizer."""
    if not hasattr(model, "config") or not hasattr(model, "get_input_embeddings"):
        inner = ": give its .module" if hasattr(model, "module") else ""
        raise InputError(
            f"Subject.from_model wants a transformers model, not a {type(model).__name__}{inner}."
        )
    if tokenizer is not None and not callable(tokenizer):
        raise InputError(
            f"Subject.from_model wants the tokenizer itself, not a {type(tokenizer).__name__}."
        )
    empty = [name for name, each in model.named_parameters() if each.device.type == "meta"]
    if empty and not is_brought(model):
        raise InputError(
            f"the model has no weights to look at: {len(empty)} are on the meta device, such as "
            f"{empty[0]}."
        )
    refuse_double(model)


def logits_of(model: Any, out: Any) -> torch.Tensor:
    """The logits [n, T, V] of what a model gave. Raises InputError where it has no such head."""
    if getattr(getattr(out, "logits", None), "ndim", 0) != 3:
        raise InputError(
            f"{type(model).__name__} has no head over the vocabulary, and a loss is measured here; "
            "scan and trace do without."
        )
    return out.logits


def refuse_no_finite(model: Any, where: str) -> None:
    """Raise InputError where a weight is not finite, or so large that sums over it overflow.

    A number in a file that is beyond the range of the dtype it is read in is infinite here.
    """
    for name, parameter in model.named_parameters():
        if not _held(parameter):
            continue  # offloaded (and checked when it is read), empty, or packed by a quantiser
        own = _numbers(parameter)
        if not own.numel():
            continue
        low, high = (float(end) for end in torch.aminmax(own))
        largest = max(-low, high)
        if not largest <= torch.finfo(torch.float32).max:
            most = torch.finfo(parameter.dtype).max
            half = parameter.dtype == torch.float16
            then = "; where it is the latter, use --dtype bfloat16" if half else ""
            raise InputError(
                f"{where}: weight {name} holds NaN, infinity or numbers beyond {most:.2g}, the "
                f"most of {str(parameter.dtype).removeprefix('torch.')}{then}."
            )
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
    lengths: set[int] = set()

    def watch(module: Any, args: Any, output: Any) -> None:
        first = output[0] if isinstance(output, tuple) else output
        outputs.append(not torch.is_tensor(first) or bool(torch.isfinite(first).all()))
        if torch.is_tensor(first) and first.dim() == 3:
            lengths.add(first.shape[1])

    handles = [block.register_forward_hook(watch) for block in anatomy.modules(model)]
    ids = torch.zeros(1, 2, dtype=torch.long, device=input_device(model))
    try:
        with torch.no_grad():
            model(input_ids=ids, use_cache=False)
    except Exception as error:
        raise _failure(model, where, error) from error
    finally:
        for handle in handles:
            handle.remove()
    if lengths - {2} and not anatomy.several_streams:
        raise Unsupported(
            f"{where}: a block carries {max(lengths)} positions for two tokens, so that position "
            "zero is not one of them."
        )
    if model.dtype != torch.float16 and not all(outputs):
        raise InputError(
            f"{where}: what block {outputs.index(False)} gives {why_not_finite(model)}"
        )


def _failure(model: Any, where: str, error: Exception) -> SinkscopeError:
    """What is told where a model does not run."""
    if isinstance(error, (ImportError, NotImplementedError)):
        return Unsupported(f"{where} cannot be run here: {first_line(error)}")
    if is_out_of_memory(error):
        return OutOfResources(f"{where} does not run in the memory there is.")
    said = f"({type(error).__name__}: {first_line(error)})"
    if method := quantisation(model.config):
        dtype = str(model.dtype).removeprefix("torch.")
        return Unsupported(
            f"{where} is quantised ({method}), and its weights cannot be run here in {dtype} {said}"
        )
    dtypes = {str(p.dtype)[6:] for p in model.parameters() if p.is_floating_point()}
    if len(dtypes) > 1:
        return InputError(
            f"{where}: its weights are of several dtypes ({', '.join(sorted(dtypes))}), and so it "
            "does not run: give all the same, as model.to(dtype) does."
        )
    return InputError(f"{where}: the model that config.json describes cannot be run {said}")


def why_not_finite(model: Any) -> str:
    """The end of a sentence on what is not finite: by a weight that is not, or their largest."""
    largest = 0.0
    for name, weight in model.named_parameters():
        if not _held(weight):
            continue
        size = float(_numbers(weight).abs().max())
        if not math.isfinite(size):
            return f"is not finite: weight {name} holds NaN or infinity."
        largest = max(largest, size)
    if largest < ORDINARY:
        return (
            f"is not finite, though no weight is beyond {largest:.2g}: a number in config.json "
            "does not suit them, such as the epsilon of a norm or the base of the rotary positions."
        )
    return f"is not finite: its weights reach {largest:.2g}, which is too large to add up."


def _held(weight: torch.Tensor) -> bool:
    return weight.device.type != "meta" and weight.numel() > 0 and weight.dtype.is_floating_point


def _numbers(weight: torch.Tensor) -> torch.Tensor:
    """What of a weight is in this process, unpacked."""
    own = weight.detach()
    own = own.to_local() if hasattr(own, "to_local") else own  # spread over processes
    return (own.dequantize() if has_own_class(own) else own).float()
