"""Is there a sink, and where: the one rule, its thresholds and their reasons.

Position zero comes first. A head sinks there if its late queries put more than SINK on it, more
than three times what uniform attention would, and more than the 99th percentile of random keys that
the same queries see (`nulls.random_target_p99`). Where no head passes SINK on the mean, heads count
that pass it in part of the prompts, oftener than chance would have it; where there is none of them
either, two heads or more that pass WEAK in nearly all of them; and last, heads that pass SINK in a
prompt or two, where no other key does. Only then is it asked whether the
model sinks elsewhere: on a learned logit, at other positions, at tokens wherever they stand.
Positions and tokens must pass in both halves of the prompts, so that none is chosen and judged on
the same ones. Beside a sink at position zero the same is asked of the other heads (`beside_p0`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from sinkscope.detect.attention import (
    LEAST,
    MIN_QUERIES,
    OVER_UNIFORM,
    SINK,
    WEAK,
    AttentionStats,
)
from sinkscope.detect.nulls import random_target_p99
from sinkscope.detect.token_mass import TokenMass
from sinkscope.stats import nan_mean

FEW = 0.01  # of the heads that see P0; below that the sink is one of a few heads
PART = 0.9  # of the prompts; below that the sink is one of part of the prompts
ALONE = 3.0  # times the hits of any other key, that P0 has where a few prompts may hold a sink
CHANCE = 1e-5  # over all heads, that random keys would pass in as many prompts
LEARNED = 0.3  # mass on a learned logit from which a head sinks there (Gu et al.)
ELSEWHERE = 0.5  # mass on a few kinds of token: each stands at many places, so the larger part

KINDS = ("p0", "learned", "positions", "tokens", "none", "not visible")


@dataclass(frozen=True)
class Sinks:
    """Where a model sinks on some prompts.

    kind       one of KINDS
    words      what must be said beside it: weak, few heads, part of the prompts
    heads      [layer, head] heads that sink at P0; none unless `kind` is p0
    elsewhere  [layer, head] heads that sink where `kind` says, if that is not P0
    of         how many heads have late queries that see P0
    prompts    [sequence] whether P0 sinks in it
    positions  positions that hold the sink, P0 among them
    tokens     token ids that hold it, most mass first
    """

    kind: str
    heads: np.ndarray
    elsewhere: np.ndarray
    of: int
    prompts: np.ndarray
    words: tuple[str, ...] = ()
    positions: tuple[int, ...] = ()
    tokens: tuple[int, ...] = ()

    @property
    def at_p0(self) -> bool:
        """Whether the model sinks at P0."""
        return self.kind == "p0"

    @property
    def answer(self) -> bool | None:
        """The same; None where no late query sees P0, so that it cannot be said."""
        return self.at_p0 if self.of else None


def sinks_of(stats: AttentionStats) -> Sinks:
    """Where a model sinks, from the statistics of some prompts."""
    late = nan_mean(stats.late)
    found = _Found(stats, late, stats.uniform[1][:, None], np.ones(late.shape, dtype=bool))
    heads, words = found.at_p0()
    none = np.zeros_like(heads)
    of = int(np.isfinite(late).sum())
    prompts = np.zeros(len(stats.late), dtype=bool)
    if heads.any():
        bound = SINK if "weak" not in words else WEAK
        share = nan_mean(np.where(heads, stats.late, np.nan), (1, 2))
        uniform = nan_mean(np.where(heads, found.uniform, np.nan), (0, 1))
        prompts = share > max(bound / 2, OVER_UNIFORM * uniform)
        if prompts.mean() < PART and "part of the prompts" not in words:
            words = (*words, "part of the prompts")
        return Sinks(
            "p0", heads, none, of, prompts, (*words, *_few(heads, of)), found.beside(heads)
        )
    for kind, look in found.elsewhere:
        elsewhere, which = look()
        if elsewhere.any():
            places = {kind: which} if which else {}
            few = _few(elsewhere, elsewhere.size)
            return Sinks(kind, none, elsewhere, of, prompts, few, **places)
    return Sinks("none" if of else "not visible", none, none, of, prompts)


@dataclass(frozen=True)
class Beside:
    """A sink that other heads have beside that at P0: its kind, heads [layer, head], and places."""

    kind: str
    heads: np.ndarray
    places: tuple[int, ...] = ()


def beside_p0(stats: AttentionStats, sinks: Sinks) -> list[Beside]:
    """Where heads that do not sink at P0 sink, in a model whose other heads do."""
    if not sinks.at_p0:
        return []
    found = _Found(stats, nan_mean(stats.late), stats.uniform[1][:, None], ~sinks.heads)
    beside = []
    for kind, look in found.elsewhere:
        heads, places = look()
        found.asked = found.asked & ~heads
        if heads.any():
            beside.append(Beside(kind, heads, places))
    return beside


def _few(heads: np.ndarray, of: int) -> tuple[str, ...]:
    return ("few heads",) if heads.sum() < FEW * of else ()


@dataclass
class _Found:
    """The readings that the rule is applied to.

    late     [layer, head] late share of P0, mean over prompts
    uniform  [layer, 1] under uniform attention
    asked    [layer, head] heads that are asked whether they sink elsewhere
    curves   [2, layer, head, position] late share by position in each half of the prompts
    """

    stats: AttentionStats
    late: np.ndarray
    uniform: np.ndarray
    asked: np.ndarray
    curves: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.curves = self.stats.late_curves

    @property
    def elsewhere(self) -> tuple[tuple[str, Callable[[], tuple[np.ndarray, tuple[int, ...]]]], ...]:
        """Where else heads may sink, in the order in which it is asked: heads, and places."""
        return ("learned", self.learned), ("positions", self.positions), ("tokens", self.tokens)

    def at_p0(self) -> tuple[np.ndarray, tuple[str, ...]]:
        """Heads [layer, head] that sink at P0, and what must be said beside it."""
        with np.errstate(invalid="ignore"):
            over = (self.late > OVER_UNIFORM * self.uniform) & (
                self.late > random_target_p99(self.stats)
            )
            strong, weak = (over & (self.late > bound) for bound in (SINK, WEAK))
        if strong.any():
            return strong, ()
        part = self.in_part() & over
        if part.any():
            return part, ("part of the prompts",)
        # one such head, or a mean that a few prompts make, is what any peaked head may show
        even = (self.stats.late > np.maximum(WEAK / 2, OVER_UNIFORM * self.uniform)).mean(0)
        weak &= even >= PART
        if weak.sum() > 1:
            return weak, ("weak",)
        rare = self.in_a_few()
        return rare, ("part of the prompts",) if rare.any() else ()

    def in_part(self) -> np.ndarray:
        """Heads [layer, head] that pass SINK at P0 in more prompts than chance would allow."""
        passed, rare = self._often(SINK)
        return (passed[..., 0] > 1) & rare[..., 0] & (OVER_UNIFORM * self.uniform < SINK)

    def in_a_few(self) -> np.ndarray:
        """Heads [layer, head] that pass SINK at P0 in too few prompts to tell from chance.

        Two or more, and P0 holds ALONE times the hits of all heads on any other key of the first
        half: random keys are alike, so that P0 would be the first of them once in as many.
        """
        passed, _ = self._often(SINK)
        heads = passed[..., 0] > 0
        total = passed.sum((0, 1))
        alone = total[0] >= ALONE * max(1.0, total[1:].max(initial=0.0)) and heads.sum() > 1
        return heads & (OVER_UNIFORM * self.uniform < SINK) & alone

    def _often(self, bound: float) -> tuple[np.ndarray, np.ndarray]:
        """In how many prompts each key passes a bound, and whether that is no chance.

        [layer, head, position] each. Chance is the share of prompts in which the head's other keys
        pass (those that pass in half of them or more are no random keys), at least that of all
        heads' keys; the binomial tail is adjusted for the number of heads and keys (Bonferroni).
        """
        from scipy.stats import binom

        hits = self.stats.late_hits(bound)
        prompts = np.isfinite(self.stats.late).sum(0)[..., None]
        known = np.isfinite(hits)
        passed = np.rint(np.nan_to_num(hits) * prompts)
        others = known & (hits < 0.5)
        others[..., 0] = False
        tried, hit = (others * prompts).sum(-1), (passed * others).sum(-1)
        everywhere = (hit.sum() + 1) / max(tried.sum(), 1)
        chance = np.maximum(hit / np.maximum(tried, 1), min(everywhere, 1))[..., None]
        return passed, known & (binom.sf(passed - 1, prompts, chance) * known.sum() < CHANCE)

    def beside(self, heads: np.ndarray) -> tuple[int, ...]:
        """Positions that hold the sink of heads [layer, head]: P0, and any with more than WEAK.

        Those of the first half by their late share in both halves of the prompts; those behind,
        which late queries see one after the other, by alpha, while enough queries do.
        """
        curve = nan_mean(np.where(heads[..., None], self.curves, np.nan), (1, 2)).min(0)
        behind = nan_mean(np.where(heads[..., None], self.stats.curve, np.nan), (0, 1))
        behind[max(0, len(behind) + 1 - MIN_QUERIES) :] = np.nan
        curve = np.append(curve, np.full(len(behind) - len(curve), np.nan))
        even = np.cumsum(1 / np.arange(len(behind), 0, -1)) / np.arange(1, len(behind) + 1)
        uniform = nan_mean(np.where(heads, self.uniform, np.nan), (0, 1))
        uniform = OVER_UNIFORM * np.where(
            np.isfinite(curve), uniform, np.maximum(uniform, even[::-1])
        )
        with np.errstate(invalid="ignore"):
            held = np.where(np.isfinite(curve), curve, behind) > np.maximum(WEAK, uniform)
        return (0, *(int(k) for k in np.flatnonzero(held) if k))

    def learned(self) -> tuple[np.ndarray, tuple[int, ...]]:
        """Heads [layer, head] that sink on a learned logit, and no places."""
        learned = self.stats.mean("learned")
        heads = np.zeros_like(self.late, dtype=bool)
        if learned is not None:
            np.greater(learned, LEARNED, out=heads, where=np.isfinite(learned) & self.asked)
        return heads, ()

    def positions(self) -> tuple[np.ndarray, tuple[int, ...]]:
        """Heads [layer, head] that sink at a run of positions whatever stands there; the places."""
        uniform = OVER_UNIFORM * self.uniform[..., None]
        with np.errstate(invalid="ignore"):
            chosen = (self.curves > np.maximum(uniform, LEAST)).all(0) & self._often(LEAST)[1]
        chosen &= self.asked[..., None]
        chosen[..., 0] &= self.asked.all()  # beside a sink at P0, elsewhere is not there
        held = _run_sums(np.where(chosen, np.nan_to_num(self.curves).min(0), 0.0))
        run = held > np.maximum(SINK, uniform)
        heads = np.asarray(run.any(-1))
        return heads, tuple(int(k) for k in np.flatnonzero(run[heads].any(0)))

    def tokens(self) -> tuple[np.ndarray, tuple[int, ...]]:
        """Heads [layer, head] that sink at a few kinds of token wherever they stand, and their ids.

        What a head puts on them is held against the queries that can see one of them.
        """
        mass = self.stats.tokens
        heads = np.zeros_like(self.late, dtype=bool)
        if mass is None or not len(mass.tokens):
            return heads, ()
        shares, even = mass.shares()
        chosen = (shares > OVER_UNIFORM * even[:, :, None]) & (shares > LEAST)
        chosen &= self.asked[..., None]
        held = np.zeros(len(mass.tokens))
        for layer, head in np.argwhere(chosen.any((0, 3))):
            parts = [
                _held(mass, shares[1 - half, layer, head], chosen[half, layer, head], 1 - half)
                for half in (0, 1)
            ]
            if min(parts) > ELSEWHERE:
                heads[layer, head] = True
                held += np.where(chosen[:, layer, head].any(0), shares[:, layer, head].mean(0), 0)
        order = np.argsort(-held, kind="stable")[:3]
        return heads, tuple(int(mass.tokens[i]) for i in order if held[i] > 0)


def _run_sums(held: np.ndarray) -> np.ndarray:
    """At each position the sum over the run of positions around it that hold something."""
    sums = np.zeros_like(held)
    for places in (slice(None), slice(None, None, -1)):  # from the left, then from the right
        total = np.zeros(held.shape[:-1])
        for k in range(held.shape[-1])[places]:
            total = np.where(held[..., k] > 0, total + held[..., k], 0.0)
            sums[..., k] += total
    return np.where(held > 0, sums - held, 0.0)


def _held(mass: TokenMass, share: np.ndarray, chosen: np.ndarray, half: int) -> float:
    """What one half of the prompts puts on tokens that were chosen on the other."""
    if not chosen.any():
        return 0.0
    return float(share[chosen].sum() / max(mass.seen(chosen, half), LEAST))
