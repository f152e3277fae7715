"""Intervals and streaming moments: the prompt is the unit of every interval."""

from __future__ import annotations

import numpy as np

from sinkscope.result import Measured

RESAMPLES = 2000


def bootstrap(values: np.ndarray, seed: int = 0) -> Measured:
    """Mean over prompts with its 95 % percentile bootstrap interval (2,000 resamples).

    values [n]; NaN entries are prompts for which the figure is not defined. With fewer than two
    prompts there is no interval.
    """
    values = np.asarray(values, dtype=np.float64)
    values = values[np.isfinite(values)]
    if values.size == 0:
        return Measured(value=None)
    mean = float(values.mean())
    if values.size < 2:
        return Measured(value=mean)
    generator = np.random.default_rng(seed)
    picks = generator.integers(values.size, size=(RESAMPLES, values.size))
    low, high = np.percentile(values[picks].mean(1), [2.5, 97.5])
    # rounding in the resampled means must not put the mean outside its own interval
    return Measured(value=mean, low=min(float(low), mean), high=max(float(high), mean))


class Moments:
    """Streaming mean and variance (Chan et al. 1983): nothing grows with the number of rows."""

    def __init__(self) -> None:
        self.count = 0
        self._mean: np.ndarray | None = None
        self._m2: np.ndarray | None = None

    def add(self, rows: np.ndarray) -> None:
        """Add rows [n, ...]."""
        rows = np.asarray(rows, dtype=np.float64)
        if rows.shape[0] == 0:
            return
        mean = rows.mean(0)
        m2 = ((rows - mean) ** 2).sum(0)
        if self._mean is None or self._m2 is None:
            self.count, self._mean, self._m2 = rows.shape[0], mean, m2
            return
        total = self.count + rows.shape[0]
        delta = mean - self._mean
        self._m2 = self._m2 + m2 + delta**2 * (self.count * rows.shape[0] / total)
        self._mean = self._mean + delta * (rows.shape[0] / total)
        self.count = total

    @property
    def mean(self) -> np.ndarray:
        """Mean over all rows so far."""
        if self._mean is None:
            raise ValueError("no rows were added")
        return self._mean

    @property
    def variance(self) -> np.ndarray:
        """Unbiased variance over all rows so far (zero for a single row)."""
        if self._m2 is None:
            raise ValueError("no rows were added")
        return self._m2 / max(self.count - 1, 1)
