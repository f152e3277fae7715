"""Stages of training: stretches in which all signals go straight on, their number by the data.

The joint curve (all signals, each divided by its own noise) is cut into segments, in each of which
every signal is a straight line over the index of the checkpoints. For each number of segments the
best cut is exact (dynamic programming); the number from 1 to 5 is the one of least

    BIC = Σ (residual / noise)² + (2·signals·segments + segments − 1) · log(signals · checkpoints).

Three stages are a finding, not an input.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sinkscope.training_runs.emergence import noise

MOST = 5  # stages
SHORTEST = 3  # checkpoints in a stage: fewer cannot be told from noise
# A wiggle of less than this share of a signal's range is no stage of training, however well it
# can be measured; without a floor curves without noise would be cut ever finer.
LEAST_NOISE = 0.03


@dataclass(frozen=True)
class Stages:
    """Where the joint curve was cut.

    starts  index of the first checkpoint of each stage; the first is 0. The last stage may have
            fewer than SHORTEST where what changes does so at the end
    bic     BIC of 1, 2, .. stages; the least one was chosen
    """

    starts: tuple[int, ...]
    bic: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.starts)


def find_stages(signals: np.ndarray) -> Stages:
    """Cut a joint curve into stages.

    signals [checkpoint, signal], finite; a signal that never moves is left out. Fewer than two
    times SHORTEST checkpoints are one stage.
    """
    curve = standardised(np.asarray(signals, float))
    count, width = curve.shape
    if width == 0 or count < 2 * SHORTEST:
        return Stages((0,), (0.0,))
    cost = segment_costs(curve)
    most = min(MOST, count // SHORTEST)
    fits = best_cuts(cost, most)
    bic = [
        total + (2 * width * (k + 1) + k) * np.log(width * count)
        for k, (total, _) in enumerate(fits)
    ]
    starts = fits[int(np.argmin(bic))][1]
    price = 2 * width * np.log(width * count)
    return Stages(_late_change(cost, starts, price), tuple(float(b) for b in bic))


def _late_change(cost: np.ndarray, starts: tuple[int, ...], price: float) -> tuple[int, ...]:
    """The same stages, the last begun later where the change lies in its last two checkpoints.

    It is then shorter than SHORTEST: the stage before fits what goes before the change better, by
    more than the BIC's price of a stage.
    """
    count = len(cost) - 1
    if len(starts) < 2 or starts[-1] != count - SHORTEST:
        return starts
    before, last = starts[-2:]
    whole = cost[before, last] + cost[last, count]
    later = [at for at in range(last + 1, count) if whole - cost[before, at] > price]
    return (*starts[:-1], later[-1]) if later else starts


def standardised(signals: np.ndarray) -> np.ndarray:
    """Signals [c, signal] around their means in units of their noise: [c, moving].

    Signals that never move are dropped.
    """
    columns = []
    for column in signals.T:
        spread = float(column.max() - column.min())
        if spread > 1e-9:
            columns.append((column - column.mean()) / max(noise(column), LEAST_NOISE * spread))
    return np.stack(columns, 1) if columns else np.zeros((len(signals), 0))


def segment_costs(curve: np.ndarray) -> np.ndarray:
    """Residual sum of squares of a straight line through curve[i:j], over all signals: [c+1, c+1].

    Entry (i, j) is infinite where fewer than SHORTEST checkpoints lie between.
    """
    count = len(curve)
    x = np.arange(count, dtype=float) - (count - 1) / 2
    zero = np.zeros((1, curve.shape[1]))
    sum_y = np.concatenate([zero, curve.cumsum(0)])
    sum_xy = np.concatenate([zero, (x[:, None] * curve).cumsum(0)])
    sum_yy = np.concatenate([[0.0], (curve**2).sum(1).cumsum()])
    sum_x = np.concatenate([[0.0], x.cumsum()])
    sum_xx = np.concatenate([[0.0], (x**2).cumsum()])
    cost = np.full((count + 1, count + 1), np.inf)
    for start in range(count - SHORTEST + 1):
        stop = np.arange(start + SHORTEST, count + 1)
        n = (stop - start).astype(float)
        mean_x = (sum_x[stop] - sum_x[start]) / n
        y = sum_y[stop] - sum_y[start]
        xx = sum_xx[stop] - sum_xx[start] - n * mean_x**2
        xy = sum_xy[stop] - sum_xy[start] - mean_x[:, None] * y
        explained = (y**2).sum(1) / n + (xy**2).sum(1) / xx
        cost[start, stop] = np.maximum(sum_yy[stop] - sum_yy[start] - explained, 0.0)
    return cost


def best_cuts(cost: np.ndarray, most: int) -> list[tuple[float, tuple[int, ...]]]:
    """For 1 .. `most` segments: the least total cost, and where the segments start.

    cost [c+1, c+1] as `segment_costs` gives it. What cannot be cut so is left out.
    """
    count = len(cost) - 1
    best, back = [cost[0]], [np.zeros(count + 1, dtype=int)]
    for _ in range(1, most):
        totals = best[-1][:, None] + cost  # best way to reach i, then one segment i..j
        back.append(totals.argmin(0))
        best.append(totals.min(0))
    found = []
    for k in range(most):
        starts, stop = [], count
        for step in range(k, -1, -1):
            stop = int(back[step][stop])
            starts.append(stop)
        found.append((float(best[k][count]), tuple(reversed(starts))))
    return [fit for fit in found if np.isfinite(fit[0])]
