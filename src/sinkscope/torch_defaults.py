"""Torch as it is by default, whatever a program around a command has set."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def torch_defaults() -> Iterator[None]:
    """New tensors are float32 and on the CPU, and no operation is cast by autocast."""
    torch = sys.modules.get("torch")
    if torch is None:  # then nobody has set anything
        yield
        return
    dtype = torch.get_default_dtype()
    with contextlib.ExitStack() as stack:
        stack.callback(torch.set_default_dtype, dtype)
        torch.set_default_dtype(torch.float32)
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield
