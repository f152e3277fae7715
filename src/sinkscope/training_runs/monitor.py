"""Watch the circuit while a model trains.

    monitor = SinkMonitor(model, every=100, first_blocks=3)
    for step, batch in enumerate(batches, 1):
        ...
        for name, value in monitor.observe(step).items():
            writer.add_scalar(name, value, step)

An observation is one forward pass of a few short prompts. Every block's norm at position zero is
looked at, so that the monitor cannot look past the sink; the keys are the same at every step, with
NaN where there is nothing to say yet. It leaves the model, its training mode and every random state
as they were, so a run is the same bit for bit with and without it. Compiled code is not run (nor
made stale), activation checkpointing is off while the model is in evaluation mode, and autocast is
left aside: it is the weights that are measured.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from sinkscope.circuit.concentration import FIRST, concentration
from sinkscope.errors import InputError, NotFinite
from sinkscope.observe.p0_stream import first_tokens
from sinkscope.ranks import rank
from sinkscope.stats import nan_mean
from sinkscope.subject.anatomy import find_anatomy
from sinkscope.subject.fitting import refuse_unfit
from sinkscope.subject.load import Subject
from sinkscope.subject.probe import refuse_double
from sinkscope.subject.prompts import Prompts
from sinkscope.training_runs import signals
from sinkscope.training_runs.alarms import Alarm, Watch
from sinkscope.training_runs.checkpoint_metrics import CheckpointMetrics, light
from sinkscope.training_runs.course import standing
from sinkscope.training_runs.settling import HOLD, calm_now
from sinkscope.training_runs.view import View, within
from sinkscope.training_runs.watched import called_whole, refuse_parts, undisturbed, unwrapped

PROMPTS, LENGTH = 4, 64  # enough for the mean over heads; a step of training sees far more
FIRST_TOKENS = 32
# The untrained network itself gives P0 a few per cent more than uniform attention would.
OVER_UNIFORM = 1.5

NAMES = (
    *("sink/late_share", "sink/null", "sink/rate", "sink/norm_ratio", "sink/distance"),
    *("sink/emergence_block", "sink/cosine", "sink/turn", "sink/head_jaccard"),
    *("sink/settled", "sink/seconds"),
)


@dataclass
class Past:
    """What was observed so far, as far as the settling signal asks for it: an entry a checkpoint.

    directions  [d] each, the sink direction
    """

    steps: list[int] = field(default_factory=list)
    curves: dict[str, list[float]] = field(
        default_factory=lambda: {"sink": [], "concentration_2": [], "log_norm": []}
    )
    directions: list[np.ndarray] = field(default_factory=list)
    above: list[bool] = field(default_factory=list)
    calm: list[bool] = field(default_factory=list)
    heads: list[np.ndarray] = field(default_factory=list)

    def add(
        self,
        step: int,
        share: float,
        above: bool,
        c2: float,
        log_norm: float,
        found: CheckpointMetrics,
    ) -> None:
        """Add an observation."""
        if self.steps and step <= self.steps[-1]:
            raise InputError(f"step {step} was observed after step {self.steps[-1]}.")
        self.steps.append(step)
        for name, value in (("sink", share), ("concentration_2", c2), ("log_norm", log_norm)):
            self.curves[name].append(float(np.nan_to_num(value)))
        self.directions.append(found.direction)
        self.heads.append(np.nan_to_num(found.late.mean(0)).flatten())
        self.above.append(above)
        self.calm.append(self._calm())

    def _calm(self) -> bool:
        curves = {name: np.array(values) for name, values in self.curves.items()}
        curves["heads"] = np.array(self.heads)
        stands = standing(np.array(self.above))
        return calm_now(self.steps, curves, np.array(self.directions), stands, self.calm)

    @property
    def settled(self) -> bool:
        """Whether the signal is given now."""
        return len(self.calm) >= HOLD and all(self.calm[-HOLD:])


@dataclass
class SinkMonitor:
    """Measures the light set of a model in training, every `every` steps.

    model         the model that is trained: a transformers causal LM, also compiled, under DDP, or
                  sharded by FSDP2
    every         steps between observations; 0 is observed too
    first_blocks  blocks that are looked at; None: all
    prompts       token ids [n, T] to look at; by default random ids, the same at every observation
    metrics       names of the numbers that are wanted; None: all that there are
    on_alarm      called with every Alarm: collapse, blow-up, settled
    seed          of the random ids

    Raises InputError for a metric that there is not, and at an observation for weights of which
    every process holds a part that cannot be put together here (see `refuse_parts`).

    Under torch.distributed every rank must call `observe`, since sharded weights are gathered by
    all; the first rank gets the numbers, the others an empty dict.
    """

    model: nn.Module = field(repr=False)
    every: int = 100
    first_blocks: int | None = None
    prompts: torch.Tensor | None = field(default=None, repr=False)
    metrics: Sequence[str] | None = None
    on_alarm: Callable[[Alarm], None] | None = None
    seed: int = 0
    _past: Past = field(default_factory=Past, repr=False, init=False)
    _before: CheckpointMetrics | None = field(default=None, repr=False, init=False)
    _watch: Watch = field(default_factory=Watch, repr=False, init=False)

    def __post_init__(self) -> None:
        if not isinstance(self.every, int) or self.every < 1:
            raise InputError("every must be a whole number, at least 1.")
        inner: Any = called_whole(unwrapped(self.model))
        anatomy = find_anatomy(inner)
        refuse_double(inner)
        identity = {"id": "in training", "parameters": 0}
        self._subject = Subject(inner, None, anatomy, identity)
        blocks = len(anatomy.blocks)
        # without a bound u is taken half-way: the last blocks may take the sink's norm back
        horizon, point = blocks, max(1, blocks // 2)
        if self.first_blocks is not None:
            horizon = point = min(self.first_blocks, blocks)
        ids = self._ids(inner)
        prompts = Prompts(ids, torch.full((len(ids),), ids.shape[1]), "ids", "without")
        first = first_tokens(self._subject, prompts, self.seed)[:FIRST_TOKENS]
        self._view = View(prompts, first, horizon, point, parts=False)
        self._watch.where = within(horizon, blocks)
        unknown = sorted(set(self.metrics or ()) - set(self._names()))
        if unknown:
            raise InputError(f"{unknown[0]!r} is no metric here: {', '.join(self._names())}.")

    def _names(self) -> list[str]:
        """Every key of an observation."""
        blocks = [f"sink/norm_ratio/{i}" for i in range(self._view.horizon)]
        return [*NAMES, *(f"sink/concentration_{k}" for k in FIRST), *blocks]

    def _ids(self, inner: Any) -> torch.Tensor:
        ids = self.prompts
        if ids is None:
            generator = torch.Generator().manual_seed(self.seed)
            size = inner.config.get_text_config(decoder=True).vocab_size
            ids = torch.randint(size, (PROMPTS, LENGTH), generator=generator)
        plain = isinstance(ids, torch.Tensor) and not ids.is_floating_point()
        if not plain or ids.dim() != 2 or ids.shape[1] < 8 or not len(ids):
            raise InputError("prompts must be token ids [n, T] of at least eight tokens each.")
        return ids.cpu()

    def observe(self, step: int) -> dict[str, float]:
        """Measure if it is time to: a flat dict of numbers, empty otherwise and on other ranks.

        Raises Unsupported where attention or the residual stream cannot be read.
        """
        if step % self.every:
            return {}
        start = time.perf_counter()
        refuse_parts(self.model)
        self._refuse_another()
        metrics = dict.fromkeys(self._names(), math.nan) | {"sink/settled": 0.0}
        with undisturbed(self.model):
            try:
                found = light(self._subject, self._view)
            except NotFinite:  # the alarms say so; the training is not ended by being watched
                found = None
        if found is not None:
            metrics |= self._metrics(step, found)
        metrics["sink/seconds"] = time.perf_counter() - start
        if rank() != 0:
            return {}
        for alarm in self._watch.look(step, metrics):
            if self.on_alarm is not None:
                self.on_alarm(alarm)
        wanted = self._names() if self.metrics is None else self.metrics
        return {name: metrics[name] for name in wanted}

    def _refuse_another(self) -> None:
        """Raise InputError where blocks or tokens are gone that the model had at the start."""
        try:
            self._subject.anatomy.modules(self._subject.model)
        except AttributeError as error:
            raise InputError(
                f"the model has changed since the monitor was made ({error}): make another."
            ) from None
        refuse_unfit(self._subject, self._view.prompts.input_ids, None)

    def _metrics(self, step: int, found: CheckpointMetrics) -> dict[str, float]:
        point = self._view.point
        share = float(signals.sink_share(found).mean())
        c = concentration(found.write.mean(0))
        log_norm = float(found.log_ratio[:, point].mean())
        uniform = float(nan_mean(found.uniform))
        null = max(signals.random_target_p99(found), OVER_UNIFORM * uniform)
        before, self._before = self._before, found
        metrics = {
            "sink/late_share": share,
            "sink/null": null,
            "sink/rate": signals.sink_rate(found),
            "sink/norm_ratio": float(np.exp(log_norm)),
            "sink/distance": signals.distance(found, point),
            "sink/emergence_block": float(signals.emergence_block(found, point)),
            "sink/cosine": float(found.cosine[point]),
            **{f"sink/concentration_{k}": float(each) for k, each in zip(FIRST, c)},
        }
        if before is not None:
            heads = [signals.rows(np.argwhere(each.sinks)) for each in (found, before)]
            metrics["sink/turn"] = signals.turn(found, before)
            metrics["sink/head_jaccard"] = signals.jaccard(*heads)
        self._past.add(step, share, bool(found.sinks.any()), float(c[1]), log_norm, found)
        metrics["sink/settled"] = float(self._past.settled)
        ratios = np.exp(found.log_ratio[:, 1:].mean(0))
        metrics |= {f"sink/norm_ratio/{i}": float(each) for i, each in enumerate(ratios)}
        return metrics
