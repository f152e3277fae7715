"""S4: keep only the circuit's writes at position zero, and the other way round, by circuit size.

Units are ranked: the traced writers first, then the others by what they do through P0's key
(`causal.path_scores`), those that were not scored by the logits of `circuit.ranking`. Sets of the
first units are kept alone, and taken away alone, at the sizes of the MIB benchmark and between
them, all through P0's key (`intervene.p0_path`), where a set costs next to nothing.
The circuit that is reported is the smallest set with the traced units, within SPARSE of all, that
keeps FAITHFUL of the sink while everything else alone keeps at most COMPLETE. Full passes confirm
it, its complement and one random set; where they do not, the set is doubled, a few times at most.

P0's embedding is the input of all its writes and stays in every set, as the input node of MIB does,
unless the trace says that the embedding itself sets P0 apart: then it is a unit like others.

Where P0's key is not at hand, or the units lie inside experts, a few sizes are run in full.
The size is chosen on the prompts that it is reported for, so other prompts may need another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch

from sinkscope.causal.areas import PARTS, areas
from sinkscope.causal.families.kept_sets import KeptSets, SizeScore, relative
from sinkscope.causal.families.necessity import ranked_neurons
from sinkscope.causal.path_scores import path_scores
from sinkscope.causal.testing import CausalBench
from sinkscope.causal.thresholds import ALPHA, KEPT, SPARSE, SPECIFIC
from sinkscope.circuit.unit import EMBEDDING, HEAD, SHARED, Unit, of_kind
from sinkscope.errors import Missing, Unsupported
from sinkscope.intervene.edits.base import Edit
from sinkscope.result import Measured
from sinkscope.stats import sign_flip_p

SCORED = 128  # units beside the traced ones that are scored through P0's key
CONFIRMED = 3  # sets that are run in full, at most
FEW_SIZES = 5  # sizes tried by full passes within SPARSE, evenly on a log scale
FEW_DRAWS = 5  # random sets by full passes, at most
BY_PATH, BY_LOGITS, BY_TRACE = "path", "logits", "trace"


@dataclass(frozen=True, eq=False)
class Kept:
    """S4: what is left of the sink when P0 keeps only the circuit's writes.

    faithfulness, completeness  sink kept by the circuit alone, and by everything else alone,
                                relative to intact, in all (full passes)
    key         the same two through P0's key alone; None where that path is not at hand
    random      mean faithfulness of random sets of as many units, on the path of `key`; draws [m]
    random_one  of one of them, in full
    p           one-sided, circuit against random sets, on the path of `key`
    units       of the circuit, with their scores in nats where they were scored
    others      scores of units that were scored and are not in it
    total       all units there are; traced: how many of the circuit's the trace lists
    faithful    units of the smallest set tried that is faithful; needed: that holds; or None
    sizes       all sets that were tried, by size
    cpr, cmd    areas of the curve (`causal.areas`); None where only a few sizes were tried
    ranking     what decided the order: path, logits or trace
    edits       of the two full passes
    """

    faithfulness: Measured
    completeness: Measured
    key: tuple[Measured, Measured] | None
    random: Measured | None
    random_one: Measured | None
    draws: np.ndarray | None
    p: float | None
    units: dict[Unit, float | None]
    others: dict[Unit, float]
    total: int
    traced: int
    faithful: int | None
    needed: int | None
    sizes: list[SizeScore]
    cpr: float | None
    cmd: float | None
    ranking: str
    edits: tuple[list[Edit], list[Edit]]

    @property
    def enough(self) -> bool:
        """Whether the circuit alone keeps the sink, and more of it than random sets do."""
        value = self.faithfulness.value
        random = self.random.value if self.random is not None else None
        if value is None or random is None or self.p is None:
            return False
        return value >= KEPT and self.p < ALPHA and random <= SPECIFIC * value

    @property
    def components(self) -> int:
        """How many units the circuit has."""
        return len(self.units)

    @property
    def share(self) -> float:
        """Their part of all units."""
        return self.components / self.total


@dataclass(frozen=True)
class Ranked:
    """All units in the order in which the circuit is grown, the first `traced` of them traced."""

    order: list[Unit]
    traced: int
    scores: dict[Unit, float]
    by: str


def keep_circuit(lab: CausalBench) -> Kept | None:
    """S4: only the circuit's writes at P0 are kept, at their intact values; all else is the mean.

    None where a sublayer does not show its units; the reason is left in the notes.
    """
    traced = traced_units(lab)
    if not traced:
        lab.notes.append("S4: the trace names no unit that writes before the sink heads.")
        return None
    sets = KeptSets(lab, embedding=any(unit.kind == EMBEDDING for unit in traced))
    ranked = _ranked(lab, sets, traced)
    try:
        return _kept(lab, sets, ranked)
    except Unsupported as refusal:
        lab.notes.append(f"S4: {refusal}")
        return None


def _kept(lab: CausalBench, sets: KeptSets, ranked: Ranked) -> Kept:
    total, first = len(sets.room), ranked.traced
    cap = max(first, int(SPARSE * total))
    sizes = _by_key(sets, ranked, cap)
    if sizes is None:
        sizes = _in_full(sets, ranked, cap)
    inside = [size for size in sizes if first <= size.components <= cap]
    chosen = next((size for size in inside if size.holds), inside[-1])
    full = _confirmed(sets, ranked, chosen, cap)
    units = ranked.order[: full.components]
    draws = [_random_units(lab, sets, frozenset(units), draw) for draw in range(lab.draws)]
    by_key = sets.path is not None
    random = sets.kept([(draw, False) for draw in (draws if by_key else draws[:FEW_DRAWS])])
    on_key = sets.score(frozenset(units)) if by_key else None
    alone = full if on_key is None else on_key
    one = relative(lab, sets.full(draws[0], few=True), lab.intact_sink) if draws else None
    cpr, cmd = _areas(sizes, total) if by_key else (None, None)
    return Kept(
        faithfulness=full.faithfulness,
        completeness=full.completeness,
        key=None if on_key is None else (on_key.faithfulness, on_key.completeness),
        random=relative(lab, random.mean(0), sets.intact) if draws else None,
        random_one=one,
        draws=random.mean(1) / sets.intact.mean() if draws else None,
        p=sign_flip_p(alone.kept - random.mean(0)) if draws else None,
        units={unit: ranked.scores.get(unit) for unit in units},
        others={unit: score for unit, score in ranked.scores.items() if unit not in units},
        total=total,
        traced=first,
        faithful=_first(sizes, lambda size: size.faithful),
        needed=_first(sizes, lambda size: size.holds and size.components >= first),
        sizes=sizes,
        cpr=cpr,
        cmd=cmd,
        ranking=ranked.by,
        edits=(sets.edits(frozenset(units)), sets.edits(frozenset(units), True)),
    )


def traced_units(lab: CausalBench) -> list[Unit]:
    """Heads and neurons of the trace before the last reading block; the embedding as block −1."""
    others = of_kind(lab.circuit.writers, HEAD) + of_kind(lab.circuit.writers, SHARED)
    found = [*ranked_neurons(lab), *(unit for unit in others if unit.block < lab.last_read)]
    if lab.circuit.emergence_block == -1:
        found.append(Unit(-1, EMBEDDING, 0))
    return found


def _ranked(lab: CausalBench, sets: KeptSets, traced: list[Unit]) -> Ranked:
    """The traced units, then those that were scored, then the rest as the logits rank them."""
    ranking = lab.circuit.ranking
    if isinstance(ranking, Missing):
        lab.notes.append(f"S4: only the traced units are kept, since {ranking.reason}.")
        return Ranked(traced, len(traced), {}, BY_TRACE)
    known = set(traced)
    more = [unit for unit in ranking if unit not in known and unit.block < lab.last_read]
    scores: dict[Unit, float] = {}
    by = BY_LOGITS
    if sets.path is not None:
        try:
            candidates = [*traced[:SCORED], *more[:SCORED]]
            scores, by = path_scores(sets.path, lab.heads, traced, candidates), BY_PATH
        except Unsupported as refusal:
            reason = str(refusal)[0].lower() + str(refusal)[1:].rstrip(".")
            lab.notes.append(f"S4: units are ranked by their logits alone, since {reason}.")

    def sorted_by_score(units: Iterable[Unit]) -> list[Unit]:
        found = sorted((u for u in units if u in scores), key=lambda u: -scores[u])
        return found + [u for u in units if u not in scores]

    takes = [unit for unit in more if scores.get(unit, 0.0) < 0]
    gives = sorted_by_score([unit for unit in more if scores.get(unit, 0.0) >= 0])
    order = [*sorted_by_score(traced), *gives, *takes]
    known.update(order)
    order += [unit for unit in sets.room if unit not in known]
    return Ranked(order, len(traced), scores, by)


def _by_key(sets: KeptSets, ranked: Ranked, cap: int) -> list[SizeScore] | None:
    """Every size through P0's key, and the smallest that will do; None where it is not at hand."""
    if sets.path is None:
        return None
    first, total = ranked.traced, len(sets.room)
    counts = {0, first, cap, *_mib_sizes(total)}
    found: dict[int, SizeScore] = {}

    def score(some: Iterable[int]) -> None:
        new = sorted({count for count in some if count <= len(ranked.order)} - found.keys())
        tried = sets.scores([frozenset(ranked.order[:count]) for count in new])
        found.update(zip(new, tried, strict=True))

    try:
        score(counts)
    except Unsupported as refusal:
        sets.leave_key(str(refusal))
        return None
    for does in (lambda size: size.faithful, lambda size: size.holds and size.components >= first):
        _bisect(found, score, does)
    return [found[count] for count in sorted(found)]


def _bisect(
    found: dict[int, SizeScore],
    score: Callable[[Iterable[int]], None],
    does: Callable[[SizeScore], bool],
) -> None:
    """Score sizes between the smallest that does and the one below it, until they are neighbours.

    Faithfulness need not grow with size; then this finds a size that does where one below does not.
    """
    high = next((count for count in sorted(found) if does(found[count])), None)
    if high is None:
        return
    low = max((count for count in found if count < high), default=high)
    while high - low > 1:
        middle = (low + high) // 2
        score([middle])
        low, high = (low, middle) if does(found[middle]) else (middle, high)


def _in_full(sets: KeptSets, ranked: Ranked, cap: int) -> list[SizeScore]:
    """The traced set, then larger ones up to the cap, until one holds."""
    sizes: list[SizeScore] = []
    for count in sorted({*np.geomspace(ranked.traced, cap, FEW_SIZES).astype(int).tolist()}):
        sizes.append(sets.score(frozenset(ranked.order[:count])))
        if sizes[-1].holds or count >= len(ranked.order):
            break
    return sizes


def _confirmed(sets: KeptSets, ranked: Ranked, chosen: SizeScore, cap: int) -> SizeScore:
    """The chosen set in full; doubled while it holds through P0's key and does not in full.

    A few prompts tell how far it is doubled, and all of them are taken for the set that is left.
    """
    count = chosen.components
    for _ in range(CONFIRMED - 1):
        larger = min(2 * count, cap, len(ranked.order))
        if not chosen.holds or sets.path is None or larger == count:
            break
        if sets.confirmed(frozenset(ranked.order[:count]), few=True).holds:
            break
        count = larger
    return sets.confirmed(frozenset(ranked.order[:count]))


def _areas(sizes: list[SizeScore], total: int) -> tuple[float | None, float | None]:
    """CPR and CMD over the sizes of MIB; None where the ranking does not reach that far."""
    kept = {size.components: size.faithfulness.value for size in sizes}
    nothing, *values = (kept.get(count) for count in (0, *_mib_sizes(total)))
    known = [value for value in values if value is not None]
    if nothing is None or nothing >= 1 or len(known) < len(values):
        return None, None
    return areas([(value - nothing) / (1 - nothing) for value in known])


def _mib_sizes(total: int) -> list[int]:
    return [int(part * total) for part in PARTS]


def _first(sizes: list[SizeScore], does: Callable[[SizeScore], bool]) -> int | None:
    return next((size.components for size in sizes if does(size)), None)


def _random_units(
    lab: CausalBench, sets: KeptSets, units: frozenset[Unit], draw: int
) -> frozenset[Unit]:
    """As many units of each kind, from anywhere before the last reading block, none of ours."""
    generator = torch.Generator().manual_seed(1000 * lab.seed + draw)
    found: list[Unit] = []
    for kind, pool in sets.free(units).items():
        order = torch.randperm(len(pool), generator=generator).tolist()
        found += [pool[i] for i in order[: len(of_kind(units, kind))]]
    return frozenset(found)
