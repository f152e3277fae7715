"""The two areas by which the MIB benchmark sums up a curve of faithfulness over circuit size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

PARTS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)  # of all units; then all of them


def areas(faithfulness: Sequence[float]) -> tuple[float, float]:
    """CPR and CMD of faithfulness f(k) at the PARTS k of all units.

        f(k) = (m(C_k) − m(∅)) / (m(M) − m(∅)),    CPR = ∫ f(k) dk,    CMD = ∫ |1 − f(k)| dk

    with m the mean late share of the reading heads, C_k the first k of the ranking, ∅ nothing and M
    everything kept (Mueller et al., arXiv 2504.13151). Both by the trapezoid rule on a linear axis
    from k = 0.001 to 1, where f is 1, as the benchmark's code has it; 0.999 and 0 are a perfect
    circuit of any size. CPR rewards a set that keeps more than the model has, CMD counts that as a
    departure.
    """
    from scipy.integrate import trapezoid

    k = np.array([*PARTS, 1.0])
    f = np.array([*faithfulness, 1.0])
    return float(trapezoid(f, k)), float(trapezoid(np.abs(1 - f), k))
