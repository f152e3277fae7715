"""Blocks before the first edit give what they gave in the intact pass, and are not run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

# raised where a later block needs something that an earlier one leaves behind
NEEDED_EARLIER = (RuntimeError, KeyError, TypeError, AttributeError, ValueError, IndexError)


@contextmanager
def skipped(blocks: Sequence[nn.Module], outputs: dict[int, Any]) -> Iterator[None]:
    """Let blocks give their stored outputs instead of running."""
    saved = [(block, block.__dict__.get("forward")) for block in blocks]
    try:
        for index, block in enumerate(blocks):
            given = outputs[index]
            block.forward = lambda *_, given=given, **__: given  # type: ignore[method-assign]
        yield
    finally:
        for block, forward in saved:
            if forward is None:
                block.__dict__.pop("forward", None)
            else:
                block.forward = forward


def keep_outputs(blocks: Sequence[nn.Module], outputs: dict[int, Any]) -> list[Any]:
    """Hooks that keep what every block gives."""

    def keep(index: int) -> Callable:
        def hook(module, args, output):
            outputs[index] = output

        return hook

    return [block.register_forward_hook(keep(i)) for i, block in enumerate(blocks)]
