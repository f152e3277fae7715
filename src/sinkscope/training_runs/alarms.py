"""What is worth waking somebody for: the sink collapses, the norm blows up, the circuit settles."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

COLLAPSE = 0.5  # of the largest late share so far: a sink loses half of its mass only by a change
LEAST_SHARE = 0.05  # below it there was no sink to lose
BLOW_UP = 3.0  # growth of P0's norm ratio over RECENT observations; emergence itself is slower
RECENT = 3
LEAST_RATIO = 10.0  # an early P0 may well go from 1 to 5 within a few observations


@dataclass(frozen=True)
class Alarm:
    """kind: collapse, blow-up or settled; said in one sentence."""

    kind: str
    step: int
    sentence: str


@dataclass
class Watch:
    """Gives each alarm once, and again only after its cause has gone.

    where  what the alarms speak of, where it is not the whole model
    """

    top: float = 0.0
    ratios: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT + 1))
    active: set[str] = field(default_factory=set)
    where: str = ""

    def look(self, step: int, metrics: dict[str, float]) -> list[Alarm]:
        """The alarms that an observation gives. metrics: what `SinkMonitor.observe` returns."""
        causes = {
            "collapse": self._collapse(metrics.get("sink/late_share", math.nan)),
            "blow-up": self._blow_up(metrics.get("sink/norm_ratio", math.nan)),
            "settled": f"the circuit has settled{self.where}: nothing moved for two thirds of "
            "the training"
            if metrics.get("sink/settled")
            else "",
        }
        new = [
            Alarm(kind, step, f"step {step}: {cause}.")
            for kind, cause in causes.items()
            if cause and kind not in self.active
        ]
        self.active = {kind for kind, cause in causes.items() if cause}
        return new

    def _collapse(self, share: float) -> str:
        if math.isnan(share):
            return "the attention on position zero is not a number"
        self.top = max(self.top, share)
        if self.top > LEAST_SHARE and share < COLLAPSE * self.top:
            return f"the sink collapsed, from a late share of {self.top:.2f} to {share:.2f}"
        return ""

    def _blow_up(self, ratio: float) -> str:
        if math.isnan(ratio):
            return "the norm of position zero is not finite"
        self.ratios.append(ratio)
        least = min(self.ratios)
        if len(self.ratios) > RECENT and ratio > max(BLOW_UP * least, LEAST_RATIO):
            return (
                f"the norm of position zero blew up, from {least:.1f} to {ratio:.1f} times others"
            )
        return ""
