"""The sink heads one by one, so that a row can be read on some of them alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sinkscope.causal.evidence import SUFFICIENCY, Test, p_values
from sinkscope.stats import bootstrap, nan_mean


@dataclass(frozen=True, eq=False)
class SinkHeads:
    """The sink heads under test, on the prompts of the tests.

    heads  k pairs (block, head)
    share  [n, k] intact late share of P0
    gap    [k] nats between P0's margin and that of p, P0 left out of p's keys
    """

    heads: tuple[tuple[int, int], ...]
    share: np.ndarray
    gap: np.ndarray

    def scale_of(self, chosen: np.ndarray | slice = slice(None)) -> float:
        """Mean intact share of heads (chosen [k]): what an effect on the sink is relative to."""
        return max(float(nan_mean(nan_mean(self.share[:, chosen], 1))), 1e-9)

    def gap_of(self, chosen: np.ndarray | slice = slice(None)) -> float:
        """Mean gap of heads (chosen [k]), in nats: what an effect on the margin is relative to."""
        return max(float(nan_mean(self.gap[chosen])), 1e-6)

    def unit(self, kind: str) -> float:
        """What the effects by head of a row of this kind are multiples of."""
        return self.gap_of() if kind == SUFFICIENCY else self.scale_of()

    def on(self, test: Test, chosen: np.ndarray) -> Test:
        """The row on some heads alone (chosen [k], boolean), relative to these; not judged yet.

        Changes in all, and by path, are of all heads: the row has none of them.
        """
        if test.by_head is None or chosen.all():
            return test
        own = self.gap_of(chosen) if test.kind == SUFFICIENCY else self.scale_of(chosen)
        factor = self.unit(test.kind) / own
        effect = nan_mean(test.by_head[:, chosen], 1) * factor
        nats = bootstrap(effect * own) if test.kind == SUFFICIENCY else None
        test = replace(test, margin_change=nats, sink_change=None, key_change=None)
        if test.control_by_head is None:
            return replace(test, effect=effect)
        control = nan_mean(test.control_by_head[:, chosen], 1) * factor
        return replace(test, effect=effect, **p_values(test.kind, effect, control))
