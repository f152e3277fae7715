"""Adapters that call a SinkMonitor from a trainer.

    Trainer(..., callbacks=[trainer_callback(every=100, receivers=[json_lines("sink.jsonl")])])
    lightning.Trainer(callbacks=[lightning_callback(every=100, receivers=[..])])

Keywords beside `receivers` go to SinkMonitor. In a loop of one's own no adapter is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from sinkscope.errors import InputError
from sinkscope.training_runs.monitor import SinkMonitor
from sinkscope.training_runs.receivers import Receiver


class _Watching:
    """What the adapters share: a monitor made when training begins, and its receivers."""

    def __init__(self, receivers: Sequence[Receiver] = (), **settings: Any) -> None:
        super().__init__()
        self.receivers, self.settings = tuple(receivers), settings
        self.monitor: SinkMonitor | None = None

    def begin(self, model: Any) -> None:
        """Make the monitor, once."""
        if self.monitor is None:
            self.monitor = SinkMonitor(model, **self.settings)

    def look(self, step: int) -> None:
        """Observe, and pass on what was seen."""
        assert self.monitor is not None
        metrics = self.monitor.observe(step)
        for receive in self.receivers if metrics else ():
            receive(step, metrics)


def trainer_callback(receivers: Sequence[Receiver] = (), **settings: Any) -> Any:
    """A transformers TrainerCallback."""
    from transformers import TrainerCallback

    class SinkCallback(_Watching, TrainerCallback):
        """Observes at the beginning and after optimizer steps."""

        def on_train_begin(self, args, state, control, model=None, **kwargs):
            self.begin(model)
            if state.global_step == 0:
                self.look(0)

        def on_step_end(self, args, state, control, **kwargs):
            self.look(state.global_step)

    return SinkCallback(receivers, **settings)


def lightning_callback(receivers: Sequence[Receiver] = (), **settings: Any) -> Any:
    """A Lightning Callback, for a module that holds a transformers model as `model` or `module`."""
    for name in ("lightning.pytorch", "pytorch_lightning"):
        try:
            base: Any = import_module(name).Callback
            break
        except ImportError:
            continue
    else:
        raise InputError("Lightning is not installed: pip install lightning.")

    class SinkCallback(_Watching, base):
        """Observes at the beginning and after batches on which the optimizer stepped."""

        seen = -1

        def on_train_start(self, trainer, pl_module):
            self.begin(pl_module)
            self._look(trainer.global_step)

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            self._look(trainer.global_step)

        def _look(self, step: int) -> None:
            if step != self.seen:  # batches that are accumulated share a step
                self.seen = step
                self.look(step)

    return SinkCallback(receivers, **settings)
