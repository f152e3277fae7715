"""The sink-matched control: methods compared at equal sink rate and at equal loss.

A method that lowers the loss may do so because it trains on a stronger or weaker sink, or beside
it. Each run's curve over training pairs a sink rate with a loss. The point at which a method last
had the sink rate that the control ends with gives its loss *at equal sink rate*; the point at which
it last had the control's final loss gives its sink rate *at equal loss*. "Last", since it is the
best trained model of that kind; for the control itself it is the end of training.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sinkscope.result import Measured
from sinkscope.stats import t_interval

SINK = "sink_rate_0.3"


def last_crossing(x: Sequence[float], y: Sequence[float], at: float) -> float | None:
    """y where the curve (x_i, y_i) last has x = `at`, linear in between; None where it never has.

    >>> last_crossing([0, 2, 1], [5, 3, 4], 1.5)
    3.5
    """
    for i in range(len(x) - 1, -1, -1):
        if x[i] == at:
            return float(y[i])
        if i and (x[i - 1] - at) * (x[i] - at) < 0:
            share = (at - x[i - 1]) / (x[i] - x[i - 1])
            return float(y[i - 1] + share * (y[i] - y[i - 1]))
    return None


@dataclass(frozen=True)
class Matched:
    """One method beside the control, with seeds paired.

    loss: its loss minus the control's where both have the control's final sink rate. sink_rate: its
    sink rate minus the control's where both have the control's final loss. loss_met, sink_rate_met:
    of how many of the `seeds` pairs the curves meet; the others are left out of the mean.
    """

    cell: str
    seeds: int
    loss: Measured
    loss_met: int
    sink_rate: Measured
    sink_rate_met: int


def matched(curves: Sequence[dict[str, Any]], control: str) -> list[Matched]:
    """Every other cell beside the control, over the seeds that both have; none without control."""
    by_cell: dict[str, dict[int, dict[str, Any]]] = {}
    for curve in curves:
        by_cell.setdefault(curve["cell"], {})[curve["seed"]] = curve
    base = by_cell.get(control, {})
    found = []
    for cell, runs in by_cell.items():
        pairs = [(runs[seed], base[seed]) for seed in sorted(runs) if seed in base]
        if cell == control or not pairs:
            continue
        losses = _differences(pairs, SINK, "loss")
        rates = _differences(pairs, "loss", SINK)
        loss, rate = t_interval(losses), t_interval(rates, -1.0, 1.0)
        found.append(Matched(cell, len(pairs), loss, len(losses), rate, len(rates)))
    return found


def _differences(pairs: list, equal: str, other: str) -> list[float]:
    """`other` of a method minus that of the control, where the method had the control's `equal`."""
    met = [
        (last_crossing(method[equal], method[other], base[equal][-1]), base[other][-1])
        for method, base in pairs
    ]
    return [there - here for there, here in met if there is not None]
