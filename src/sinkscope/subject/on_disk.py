"""Weights that lie on disk until they are used: a block of a streamed or an offloaded model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from torch import nn

from sinkscope.errors import Unsupported

BRING = "bring"  # attribute of a block that is read when it runs: reads its weights


@contextmanager
def weights_of(block: nn.Module) -> Iterator[None]:
    """Have the weights of a block at hand outside a pass, wherever they lie."""
    with ExitStack() as stack:
        if (bring := getattr(block, BRING, None)) is not None:
            bring()
        elif lies_on_disk(block):
            from accelerate.utils import align_module_device  # which put them there

            for module in block.modules():
                stack.enter_context(align_module_device(module))
        yield


def lies_on_disk(block: nn.Module) -> bool:
    """Whether a block's weights are brought in for each of its calls and then let go."""
    return hasattr(block, BRING) or any(p.device.type == "meta" for p in block.parameters())


def refuse_edit(block: nn.Module, what: str) -> None:
    """Raise Unsupported where a change of a block's weights would be lost when it runs."""
    if lies_on_disk(block):
        raise Unsupported(f"the weights of {what} lie on disk, and an edit of them would be lost.")
