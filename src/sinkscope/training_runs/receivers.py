"""Where observations go: each receiver is a function of (step, flat dict of numbers)."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sinkscope.errors import InputError

Receiver = Callable[[int, dict[str, float]], None]


def json_lines(path: str | Path) -> Receiver:
    """Append one JSON object a line, with its step; each line is flushed as it is written."""
    target = Path(path)

    def receive(step: int, metrics: dict[str, float]) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("a", encoding="utf-8") as file:
            known = {k: v if math.isfinite(v) else None for k, v in metrics.items()}
            file.write(json.dumps({"step": step, **known}) + "\n")

    return receive


def tensorboard(writer: Any) -> Receiver:
    """A SummaryWriter, or a folder for one."""
    if isinstance(writer, (str, Path)):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise InputError("TensorBoard is not installed: pip install tensorboard.") from None
        writer = SummaryWriter(str(writer))

    def receive(step: int, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            writer.add_scalar(name, value, step)
        writer.flush()  # nobody may close a writer that was made here

    return receive


def wandb(run: Any = None) -> Receiver:
    """A W&B run, by default the current one."""
    return _run(run, "wandb")


def trackio(run: Any = None) -> Receiver:
    """A trackio run, by default the current one."""
    return _run(run, "trackio")


def _run(run: Any, module: str) -> Receiver:
    """Anything with log(metrics, step=step)."""
    if run is None:
        from importlib import import_module

        try:
            run = import_module(module)
        except ImportError:
            raise InputError(f"{module} is not installed: pip install {module}.") from None

    def receive(step: int, metrics: dict[str, float]) -> None:
        run.log(metrics, step=step)

    return receive
