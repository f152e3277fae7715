"""One model and one set of prompts, on which the rows of a replication are measured."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from sinkscope.errors import InputError
from sinkscope.intervene.edits.base import Context, Edit
from sinkscope.intervene.engine import Engine
from sinkscope.intervene.readout import Readout
from sinkscope.observe.attention import observe
from sinkscope.observe.reads import Want
from sinkscope.observe.residual import residual_hooks
from sinkscope.observe.sites import Sites, find_sites
from sinkscope.result import Measured
from sinkscope.stats import bootstrap, ratio_of_means
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts, build_prompts


@dataclass
class Observation:
    """One pass, seen whole.

    alpha   [n, L, H, key] attention that a key receives, mean over the queries t ≥ key that are
            valid (Gu et al.), for the keys asked for; NaN where a block has no softmax attention
    stream  per read point: what `reduce` made of the stream, [n, point]
    """

    alpha: np.ndarray
    stream: np.ndarray | None


@dataclass
class Bench:
    """What rows measure on. `position` is the ordinary position of controls."""

    subject: Subject
    prompts: Prompts
    options: dict
    seed: int = 0
    position: int = 5
    _looks: dict = field(default_factory=dict)
    _reads: dict = field(default_factory=dict)
    _engines: dict = field(default_factory=dict)

    @cached_property
    def sites(self) -> Sites:
        """Where blocks write."""
        return find_sites(self.subject, self.prompts)

    @property
    def depth(self) -> int:
        """Blocks."""
        return len(self.subject.anatomy.blocks)

    def engine(self, *positions: int) -> Engine:
        """An engine that looks at P0 and these positions."""
        if positions not in self._engines:
            self._engines[positions] = Engine(
                self.subject, self.prompts, self.sites, positions=(0, *positions)
            )
        return self._engines[positions]

    def run(self, edits: Sequence[Edit] = (), *positions: int) -> Readout:
        """An edited pass; the same one is run once."""
        engine = self.engine(*positions)
        if not edits:
            return engine.intact
        key = (tuple(edits), positions)
        if key not in self._reads:
            self._reads[key] = engine.run(list(edits))
        return self._reads[key]

    def other(self, **changes) -> Bench:
        """The same model on other prompts: `changes` are options of `build_prompts`."""
        options = self.options | changes
        return Bench(self.subject, build_prompts(self.subject, **options), options, self.seed)

    def look(
        self, edits: Sequence[Edit] = (), keys: Sequence[int] = (0,), reduce=None
    ) -> Observation:
        """A pass with edits of weights and modules, from which whole columns can be read.

        reduce  function of the stream [T, d] of one prompt, giving one number
        """
        if any(edit.acts_on_attention for edit in edits):
            raise InputError("this reading takes no edits of the attention call.")
        key = (tuple(edits), tuple(keys), reduce)
        if key not in self._looks:
            parts = [self._look(part, edits, keys, reduce) for part in self.prompts.batches()]
            alpha = np.concatenate([a for a, _ in parts])
            stream = None if reduce is None else np.concatenate([s for _, s in parts])
            self._looks[key] = Observation(alpha, stream)
        return self._looks[key]

    def _look(self, prompts: Prompts, edits, keys, reduce):
        context = Context(self.subject, prompts, self.sites if edits else None)
        reduced: dict[int, list[float]] = {}

        def stream(point: int, hidden: torch.Tensor) -> None:
            if reduce is not None:
                rows = zip(hidden.detach().float(), prompts.lengths.tolist())
                reduced[point] = [reduce(row[:length]) for row, length in rows]

        def make():
            own = [handle for edit in edits for handle in edit.hooks(context)]
            return own + residual_hooks(self.subject, stream)()

        with ExitStack() as stack:
            for edit in edits:
                stack.enter_context(edit.weights(context))
            reads, _, _ = observe(self.subject, prompts, Want(), "auto", make)
        heads = max(read.p0.shape[1] for read in reads)
        alpha = np.full((len(prompts), self.depth, heads, len(keys)), np.nan)
        for read in reads:
            assert read.received is not None
            received = read.received.float().cpu()
            for i, at in enumerate(keys):
                count = (prompts.lengths - at).clamp_min(1).unsqueeze(1)
                alpha[:, read.block, : received.shape[1], i] = received[:, :, at] / count
        points = [reduced[point] for point in sorted(reduced)]
        return alpha, np.asarray(points).T


def spread(values: np.ndarray, seed: int = 0, percent: bool = False) -> Measured:
    """Mean of values [n] over prompts with its interval, in percent if asked."""
    return bootstrap(np.asarray(values, dtype=np.float64) * (100.0 if percent else 1.0), seed)


def part_of(values: np.ndarray, base: np.ndarray, seed: int = 0) -> Measured:
    """Mean of values [n] over that of base [n], in percent, prompts resampled together."""
    return ratio_of_means(100.0 * values, base, seed)


def rate(alpha: np.ndarray, eps: float) -> np.ndarray:
    """Share of heads whose key receives more than eps, for each prompt: [n] from [n, L, H]."""
    seen = np.isfinite(alpha)
    return ((alpha > eps) & seen).sum((1, 2)) / np.maximum(seen.sum((1, 2)), 1)
