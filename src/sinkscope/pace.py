"""How far a command is, how long it still takes, and what a budget of minutes leaves room for.

Work is counted in plain passes over the prompts: of `scan` and `trace` in passes over all of them,
of `verify` and of the advice in passes over those that they are run on. The numbers of WORK and
ADVICE are rough, measured on a model of thirty blocks; they only share the time out, and no result
depends on them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

WORK = {"scan": 1.8, "nulls": 1.2, "trace": 1.2, "circuit": 1.4, "vocabulary": 0.5, "verify": 34.0}
WRITING = 0.03  # the report, of all work before it: it does not grow with the model
ADVICE = {  # question -> its work, and how often its prompts go through the model
    "bos": (5.3, 5.0),
    "streaming": (24.0, 15.0),
    "quantisation": (62.0, 43.0),
    "fp16": (2.2, 1.5),
    "repeats": (11.0, 9.5),
    "heads": (4.9, 3.5),
    "first-words": (9.4, 8.0),
    "remedies": (8.0, 6.0),
}
ADVISED = 8  # prompts that the advice of a run takes
STAGES = {  # of each command, in the order in which they come
    "scan": ("scan", "nulls"),
    "trace": ("trace", "circuit", "vocabulary"),
    "verify": ("trace", "circuit", "vocabulary", "verify"),
    "run": ("trace", "scan", "nulls", "circuit", "vocabulary", "verify"),
    "advise": ("scan", "nulls"),
}
# parts of the time of commands whose work is not counted in passes
SHARES = {
    "mix": {"conditions": 3, "spread": 5, "loss": 2, "Jacobian": 14, "lengths": 20, "depth": 4},
    "timeline": {"pilot": 5, "checkpoints": 14},
}
EARLY = 0.05  # of the work: before, its pace says nothing of the rest
STEADY = 0.1  # of the work: what is estimated after less of it is held against what was before
LEAST = 8  # prompts, whatever the budget
Clock = Callable[[], float]


def planned(
    name: str,
    prompts: int,
    rows: int,
    policies: int = 1,
    advise: bool = False,
    writes: bool = False,
    questions: str | None = None,
) -> list[tuple[str, float]]:
    """(stage, work) of a command in order, in plain passes over all prompts; for others nothing.

    rows       prompts that `verify` runs its tests on
    advise     whether the advice of a run comes last; writes: whether a report does
    questions  those of the advice, with commas between; None for all
    """
    share = min(rows, prompts) / max(prompts, 1)
    work = WORK | {"verify": WORK["verify"] * share} | SHARES.get(name, {})
    stages = [(stage, work[stage]) for stage in STAGES.get(name, SHARES.get(name, ()))] * policies
    if advise or name == "advise":
        part = min(ADVISED, prompts) / max(prompts, 1) if advise else 1.0
        asked = list(ADVICE) if questions is None else [q.strip() for q in questions.split(",")]
        stages += [(each, ADVICE[each][0] * part) for each in ADVICE if each in asked]
    written = [("report", WRITING * sum(part for _, part in stages))]
    return stages + written if stages and writes else stages


def stages_of(
    name: str, asked: Mapping[str, Any], times: int | None = None, writes: bool = False
) -> list[tuple[str, float]]:
    """`planned` by the fields of a command's settings.

    times  how often its stages come; None for once a BOS policy
    """
    policies = 2 if asked.get("bos") == "both" else 1
    n, advise = asked["n"], bool(asked.get("advise"))
    return planned(
        name, n, asked.get("rows", n), times or policies, advise, writes, asked.get("questions")
    )


@dataclass
class Pace:
    """How far a command is, from what it reports: label, done, total.

    stages  (first word of the label, work), in the order in which they come; without any, the
            stage that is reported last is all that is known of
    """

    stages: Sequence[tuple[str, float]] = ()
    clock: Clock = time.monotonic
    label: str = ""
    part: float = 0.0  # of the present stage
    _at: int = -1
    _began: float = field(init=False)  # the command, or without stages the present one
    _started: float = field(init=False)  # the first stage
    _whole: float | None = None  # seconds from there to the end
    _estimated: float = 0.0  # part of the work that was done at the last estimate

    def __post_init__(self) -> None:
        self._began = self._started = self.clock()

    def update(self, label: str, done: int, total: int) -> None:
        """Take a report."""
        if label != self.label:
            self._enter(label.split(" ")[0])
        self.label, self.part = label, done / max(total, 1)
        if self.fraction >= EARLY:
            self._estimate((self.clock() - self._started) / self.fraction)

    def _enter(self, stage: str) -> None:
        if not self.stages:
            self._began, self._whole, self._estimated = self.clock(), None, 0.0
        if self._at < 0:
            self._started = self.clock()
        later = range(self._at + 1, len(self.stages))
        self._at = next((i for i in later if self.stages[i][0] == stage), self._at)

    def _estimate(self, whole: float) -> None:
        """Move the estimate toward a new one, the further the more was done since."""
        more = max(0.0, self.fraction - self._estimated)
        known = whole if self._whole is None else self._whole
        self._whole = known + (whole - known) * more / (more + STEADY)
        self._estimated = self.fraction

    @property
    def fraction(self) -> float:
        """Part of the work that is done, 0 to 1."""
        if not self.stages:
            return self.part
        total = sum(work for _, work in self.stages)
        done = sum(work for _, work in self.stages[: max(self._at, 0)])
        now = self.stages[self._at][1] * self.part if self._at >= 0 else 0.0
        return (done + now) / total

    @property
    def left(self) -> float | None:
        """Seconds that it still takes at this pace; None as long as next to nothing is done."""
        if self._whole is None:
            return None
        return max(0.0, self._whole - (self.clock() - self._started))

    def __str__(self) -> str:
        gone = span(self.clock() - self._began)
        if not self.label or (self.stages and self._at < 0):
            return f"{self.label or 'starting'}, {gone}"
        left = rounded(self.left or 0.0)
        ahead = f", about {span(left)} left" if left else ""
        several = len(self.stages) > 1
        step = f"step {self._at + 1} of {len(self.stages)}, " if several else ""
        again = len({stage for stage, _ in self.stages}) < len(self.stages)
        label = self.label if again or not several else self.label.split(" ")[0]
        return f"{step}{label}: {100 * self.fraction:.0f} % in {gone}{ahead}"


def rounded(seconds: float) -> float:
    """An estimate of seconds to the step that its size allows: 5 s, 10 s, 30 s, 5 min."""
    step = next((step for most, step in ((60, 5), (300, 10), (3600, 30)) if seconds < most), 300)
    return step * round(seconds / step)


def span(seconds: float) -> str:
    """Seconds as a reader says them: 40 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s".removesuffix(" 0 s")
    return f"{whole // 3600} h {whole % 3600 // 60} min".removesuffix(" 0 min")


@dataclass
class Budget:
    """Minutes that a command may take; None for as many as it needs."""

    minutes: float | None
    clock: Clock = time.monotonic
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.clock()

    @property
    def left(self) -> float:
        """Seconds that are left, infinity without a budget."""
        if self.minutes is None:
            return float("inf")
        return max(0.0, 60 * self.minutes - (self.clock() - self.started))

    def shared(self, parts: int) -> Budget:
        """What is left, for one of so many parts."""
        return Budget(None if self.minutes is None else self.left / 60 / parts, self.clock)

    def room(self, name: str, prompts: int, rows: int, seconds: float) -> int:
        """How many of these prompts a command has time for, at least LEAST of them.

        rows  prompts that `verify` runs its tests on; seconds  of a plain pass over one prompt
        """
        passes = self.left / seconds
        on_all = sum(work for stage, work in planned(name, 1, 1) if stage != "verify")
        tested = WORK["verify"] if name in ("verify", "run") else 0.0
        some = passes / (on_all + tested)
        if some > rows:
            some = (passes - rows * tested) / on_all
        return min(prompts, max(LEAST, int(min(some, prompts))))

    def __str__(self) -> str:
        return f"the budget of {self.minutes:.3g} minutes"
