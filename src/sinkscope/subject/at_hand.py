"""Weights that are not at hand: on disk, spread over processes, or packed."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from sinkscope.errors import Unsupported
from sinkscope.subject.spread import is_spread, whole

BRING = "bring"  # attribute of a block that is read when it runs: reads its weights


# Of maps without a weight of their own (GPTQ), and of those that round what passes through them,
# whether or not their weight is unpacked meanwhile (compressed-tensors).
MARKS = ("qweight", "quantization_scheme")


def is_packed(module: nn.Module) -> bool:
    """Whether a linear map is more than a weight at hand: one in 8 or 4 bits, or rounding."""
    weight = getattr(module, "weight", None)
    if not hasattr(module, "in_features"):
        return False
    if any(getattr(module, mark, None) is not None for mark in MARKS):
        return True
    if weight is None:
        return False
    if not isinstance(weight, torch.Tensor) or has_own_class(weight):
        return True
    return not weight.is_floating_point() or weight.dtype.itemsize == 1


def has_own_class(weight: torch.Tensor) -> bool:
    """Whether a weight is of a quantiser's class, which says that it is float and holds less."""
    return type(weight) not in (torch.Tensor, nn.Parameter) and not hasattr(weight, "device_mesh")


def plain_weight(module: nn.Module, name: str = "weight") -> torch.Tensor:
    """Weight of a linear map as it computes with it, detached: a packed one as [out, in].

    What a packed map gives for the unit vectors, less what it gives for zero, is its weight.
    """
    if not is_packed(module):
        return getattr(module, name).detach()
    held = [*module.parameters(), *module.buffers()]
    device = held[0].device if held else torch.device("cpu")
    units = torch.eye(int(module.in_features), device=device, dtype=_computes_in(module))  # type: ignore[arg-type]
    with torch.no_grad():
        given = module(torch.cat([units, units[:1] * 0]))
        return (given[:-1] - given[-1:]).T.float()


def _computes_in(module: nn.Module) -> torch.dtype:
    """The dtype that a packed map takes: that of its weight, bias or scales; else float32."""
    held = [getattr(module, "weight", None), *module.parameters(), *module.buffers()]
    plain = (t.dtype for t in held if isinstance(t, torch.Tensor) and t.is_floating_point())
    return next((dtype for dtype in plain if dtype.itemsize > 1), torch.float32)


NO_GRADIENTS = "its linear maps give no gradients: they were quantised after training"


def no_gradients(model: nn.Module) -> str:
    """NO_GRADIENTS where packed maps give none, or others than their weights; else "".

    Some kernels of packed maps leave the graph without an error, for single rows or always. Of
    each class of maps and weights one is tried.
    """
    return "" if all(map(_gives_gradients, _packed_kinds(model))) else NO_GRADIENTS


def _packed_kinds(model: nn.Module) -> Iterable[nn.Module]:
    """One packed map of each class of maps and weights."""
    packed: dict[tuple[type, type], nn.Module] = {}
    for module in model.modules():
        if is_packed(module):
            packed.setdefault((type(module), type(getattr(module, "weight", None))), module)
    return packed.values()


def rounds_input(model: nn.Module) -> bool:
    """Whether a packed map rounds what it is given to half precision, in whatever dtype that is."""
    for packed in _packed_kinds(model):
        held = next(iter([*packed.parameters(), *packed.buffers()]), torch.zeros(0))
        if held.device.type == "meta" or not held.numel():
            continue
        one = torch.ones(1, int(packed.in_features), device=held.device)  # type: ignore[arg-type]
        with torch.no_grad():
            if torch.equal(packed(one), packed(one * (1 + 2**-12))):
                return True
    return False


def _gives_gradients(packed: nn.Module) -> bool:
    """Whether the gradient of what a packed map gives is its weight, for one row and for two."""
    weight, generator = plain_weight(packed), torch.Generator().manual_seed(0)
    for rows in (1, 2):
        x = torch.randn(rows, weight.shape[1], generator=generator)
        x = x.to(weight.device, _computes_in(packed)).requires_grad_()
        with torch.enable_grad():
            y = packed(x)
            if not y.requires_grad:
                return False
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that a kernel has no derivative is seen here
                (found,) = torch.autograd.grad(y.sum(), x, allow_unused=True)
        wanted = weight.sum(0).expand(rows, -1)
        if found is None or not (found - wanted).norm() <= 0.05 * wanted.norm():  # also of NaN
            return False
    return True


def is_brought(model: Any) -> bool:
    """Whether weights are read from disk when they are needed, by accelerate or by `streamed`."""
    marks = ("_hf_hook", "rows_on", BRING)
    return any(hasattr(module, mark) for module in model.modules() for mark in marks)


def input_device(model: Any) -> torch.device:
    """Device of the input embeddings, or that on which they run where they lie on disk."""
    embedding = model.get_input_embeddings()
    if embedding.weight.device.type != "meta":
        return embedding.weight.device
    hook = getattr(embedding, "_hf_hook", None)
    return torch.device(hook.execution_device) if hook else embedding.rows_on


def bring(block: nn.Module) -> None:
    """Read a block's weights now, where it would read them when it runs."""
    if (read := getattr(block, BRING, None)) is not None:
        read()


def reader_of(blocks: Sequence[nn.Module]) -> Any:
    """The `BlockReader` that reads these blocks from disk; None where they are at hand."""
    read = getattr(blocks[0], BRING, None)
    return None if read is None else read.func.__self__


@contextmanager
def weights_of(block: nn.Module) -> Iterator[None]:
    """Have the weights of a block at hand outside a pass, wherever they lie."""
    with ExitStack() as stack:
        bring(block)
        if is_spread(block):
            stack.enter_context(_together(block))
        elif not hasattr(block, BRING) and _on_disk(block):
            from accelerate.utils import align_module_device  # which put them there

            for module in block.modules():
                stack.enter_context(align_module_device(module))
        yield


@contextmanager
def _together(block: nn.Module) -> Iterator[None]:
    """The block with its spread weights put together, for the time being."""
    held = [(module._parameters, dict(module._parameters)) for module in block.modules()]
    try:
        for parameters, own in held:
            for name, parameter in own.items():
                if parameter is not None:
                    parameters[name] = nn.Parameter(whole(parameter.detach()), requires_grad=False)
        yield
    finally:
        for parameters, own in held:
            parameters.update(own)


def lies_elsewhere(block: nn.Module) -> bool:
    """Whether a block's weights are not those that an edit of them would reach."""
    packed = any(is_packed(module) for module in block.modules())
    return packed or hasattr(block, BRING) or _on_disk(block) or is_spread(block)


def refuse_edit(block: nn.Module, what: str) -> None:
    """Raise Unsupported where a change of a block's weights would be lost, or reach a part only."""
    if why := against_edit(block):
        raise Unsupported(f"the weights of {what} {why}.")


def against_edit(block: nn.Module, running: bool = False) -> str:
    """Why a change of a block's weights would be lost, or reach a part only; "" where it would not.

    running  it is made and taken back while the block runs, when what is read for it is at hand
    """
    brought = hasattr(block, BRING)
    if not running if brought else _on_disk(block):
        return "lie on disk, and an edit of them would be lost"
    if any(is_packed(module) for module in block.modules()):
        return "are packed, and an edit would not be exact"
    return "are spread over processes, and are not edited" if is_spread(block) else ""


def _on_disk(block: nn.Module) -> bool:
    return any(parameter.device.type == "meta" for parameter in block.parameters())
