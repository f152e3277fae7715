"""Stage 1: can position zero be recognised, and from where on.

The recognition point is the first read point from which any of the measures of
`circuit.separation` stays at 0.99 for two blocks: a scalar suffices where there is one, and a probe
finds what no scalar shows. Negatives are states of other positions of the prompts. Positives are
the one-token states of the same token ids: what position zero would hold if each prompt were
rotated until that token came first, since position zero sees nothing but itself.

Positions that hold the sink together with position zero (delimiters, repeats of a token) look like
it once they are amplified as well. Where it is told from the others nowhere, they are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from sinkscope.circuit.separation import MEASURES, Rows, separability
from sinkscope.circuit.streams import stream_hooks, width_of
from sinkscope.detect.attention import MIN_QUERIES, OVER_UNIFORM
from sinkscope.observe.attention import observe
from sinkscope.observe.layout import layout_of
from sinkscope.observe.p0_stream import BATCH, one_token_pass
from sinkscope.observe.reads import Want
from sinkscope.observe.sites import Sites
from sinkscope.observe.together import in_step, together
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts

APART = 0.99  # AUROC from which P0 counts as recognised
STAYS = 2  # blocks over which it must stay there (less only at the end)
LEAST = 40  # other positions for any measure
LEAST_TOKENS = 20  # different token ids for a probe; and other positions, one for each channel
POSITIONS, PER_CHANNEL = 1024, 2  # other positions taken: so many, or so many for each channel
TEXTS = 16  # prompts that they are drawn from, or as many as hold so many positions
STATE_BYTES = 1 << 30  # of states held at a time; more read points take another pass
Measure = Callable[[torch.Tensor, torch.Tensor], dict[str, float]]


@dataclass(frozen=True)
class Recognition:
    """Separability by read point, and the point from which P0 is recognised.

    curves        measure -> [points] AUROC at each of `sites.points`; NaN not measured
    point         name of the recognition point, None where there is none
    measures      the measures that tell P0 apart there
    positions     other positions that were taken, from `texts` prompts, with `tokens` different ids
    sinks         other positions that were left out, since they hold the sink too
    reason        why nothing was measured
    probe_reason  why the linear probes were not
    """

    curves: dict[str, np.ndarray] = field(default_factory=dict)
    point: str | None = None
    measures: tuple[str, ...] = ()
    positions: int = 0
    texts: int = 0
    tokens: int = 0
    sinks: int = 0
    reason: str = ""
    probe_reason: str = ""


def recognition(subject: Subject, sites: Sites, prompts: Prompts, seed: int) -> Recognition:
    """Separability of position zero on a sample of the other positions of these prompts."""
    prompts = _looked_at(subject, prompts)
    return _told(subject, sites, prompts, others_of(prompts), seed)


def recognition_beside(
    subject: Subject, sites: Sites, prompts: Prompts, seed: int, heads: np.ndarray
) -> Recognition:
    """The same without positions that hold the sink of these heads [blocks, heads] as well."""
    prompts = _looked_at(subject, prompts)
    ordinary, sinks = _ordinary(subject, prompts, heads)
    return replace(_told(subject, sites, prompts, ordinary, seed), sinks=sinks)


def _looked_at(subject: Subject, prompts: Prompts) -> Prompts:
    """The prompts that other positions are drawn from."""
    prompts = _without_constant(prompts)
    most = _most(subject)
    return prompts.take(slice(0, max(TEXTS, -(-most // (prompts.length - 1)))))


def _most(subject: Subject) -> int:
    return max(POSITIONS, PER_CHANNEL * width_of(subject))


def _told(
    subject: Subject, sites: Sites, prompts: Prompts, others: torch.Tensor, seed: int
) -> Recognition:
    """Separability from a sample of the `others` [n, T]."""
    channels = width_of(subject)
    row, column = _sample(others, _most(subject), seed)
    ids, token = prompts.input_ids[row, column].unique(return_inverse=True)
    taken = Recognition(positions=len(row), texts=len(row.unique()), tokens=len(ids))
    rows = Rows.grouped(token, row).to(subject.device)
    if len(row) < LEAST:
        return replace(taken, reason=f"{len(row)} other positions are fewer than {LEAST}")
    if not rows.folds:
        reason = f"{taken.texts} texts with {len(ids)} token ids leave none to hold out"
        return replace(taken, reason=reason)
    if len(row) < channels:
        taken = replace(
            taken, probe_reason=f"{len(row)} other positions are too few for {channels} channels"
        )
    elif len(ids) < LEAST_TOKENS:
        reason = f"{len(ids)} different token ids are fewer than {LEAST_TOKENS}"
        taken = replace(taken, probe_reason=reason)

    def measure(here: torch.Tensor, there: torch.Tensor) -> dict[str, float]:
        both = here.to(subject.device), there.to(subject.device)
        return separability(*both, rows, probes=not taken.probe_reason)

    states = _States((len(ids), len(row)), channels, measure)
    most_points = len(
        sites.points
    )  # where passes run in step, one point's states are held at a time
    if not in_step(subject):
        most_points = max(1, STATE_BYTES // (4 * channels * (len(row) + len(ids))))
    for first in range(0, len(sites.points), most_points):
        points = range(first, min(first + most_points, len(sites.points)))
        _collect(subject, sites, prompts, (row, column, ids), points, states)
    found = [states.found[point] for point in range(len(sites.points))]
    curves = {name: np.array([values[name] for values in found]) for name in MEASURES}
    taken = replace(taken, curves=curves)
    point = first_that_stays(np.fmax.reduce(list(curves.values())) >= APART, sites)
    if point is None:
        return taken
    measures = tuple(name for name in MEASURES if curves[name][point] >= APART)
    return replace(taken, point=sites.points[point], measures=measures)


def first_that_stays(apart: np.ndarray, sites: Sites) -> int | None:
    """Number of the first point from which apart [points] holds for two blocks, or to the end."""
    inputs = sites.inputs
    for number in np.flatnonzero(apart):
        block = int(np.searchsorted(inputs, number, side="right")) - 1
        if apart[number : inputs[min(block + STAYS, len(inputs) - 1)] + 1].all():
            return int(number)
    return None


def _without_constant(prompts: Prompts) -> Prompts:
    """The prompts less a first token that all of them share, such as BOS.

    The later positions have seen it and a token alone has not, which would tell them apart.
    """
    first = prompts.input_ids[:, 0]
    if not prompts.right_padded or prompts.length < 3 or bool((first != first[0]).any()):
        return prompts
    return Prompts(prompts.input_ids[:, 1:], prompts.lengths - 1, prompts.kind, "without")


def others_of(prompts: Prompts) -> torch.Tensor:
    """Which positions of the prompts are real ones and not position zero: [n, T]."""
    layout = layout_of(prompts, torch.device("cpu"))
    return layout.valid & ~layout.is_p0


def _sample(others: torch.Tensor, most: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Row and column of at most `most` of the others [n, T], drawn over all prompts, in order."""
    places = others.nonzero()
    generator = torch.Generator().manual_seed(seed)
    picked = torch.randperm(len(places), generator=generator)[:most].sort().values
    row, column = places[picked].T
    return row, column


def _ordinary(subject: Subject, prompts: Prompts, heads: np.ndarray) -> tuple[torch.Tensor, int]:
    """Other positions [n, T] that hold no sink of these heads, and how many hold it.

    A position holds it if the heads give it, in the mean over them and the late queries that see
    it, more than OVER_UNIFORM times what uniform attention would. Those that fewer than MIN_QUERIES
    see are no part of either.
    """
    found = []
    for batch in prompts.batches():
        received, even = torch.zeros(2, *batch.input_ids.shape)
        seen = torch.zeros_like(batch.input_ids)
        for read in observe(subject, batch, Want())[0]:
            mine = np.flatnonzero(heads[read.block])
            assert read.late is not None
            received += read.late[:, mine].sum(1).cpu()
            even += len(mine) * read.visible.late_even.cpu()
            seen = torch.maximum(seen, bool(len(mine)) * read.visible.late_seen.cpu())
        told = others_of(batch) & (seen >= MIN_QUERIES)
        found.append((told, received > OVER_UNIFORM * even))
    told, held = (torch.cat(rows) for rows in zip(*found))
    return told & ~held, int((told & held).sum())


class _States:
    """States of P0 (0) and of the others (1) at read points, measured as soon as all are there.

    counts  of both; found: point -> what `measure` gave of its states [counts, d]
    """

    def __init__(self, counts: tuple[int, int], width: int, measure: Measure) -> None:
        self.counts, self.width, self.measure = counts, width, measure
        self.found: dict[int, dict[str, float]] = {}
        self._held: dict[int, list[torch.Tensor]] = {}
        self._missing: dict[int, int] = {}

    def add(self, point: int, kind: int, first: int, states: torch.Tensor) -> None:
        """Take some of them, [rows, d], from row `first` on."""
        if point not in self._held:
            self._held[point] = [torch.empty(count, self.width) for count in self.counts]
            self._missing[point] = sum(self.counts)
        self._held[point][kind][first : first + len(states)] = states
        self._missing[point] -= len(states)
        if not self._missing[point]:
            self.found[point] = self.measure(*self._held.pop(point))


def _collect(
    subject: Subject,
    sites: Sites,
    prompts: Prompts,
    places: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    points: range,
    states: _States,
) -> None:
    """Passes over all tokens as position zero, and over the prompts.

    places  row and column of the other positions, in order, and the token ids put at P0
    """
    row, column, ids = places

    def at_p0(first: int) -> None:
        def keep(point: int, hidden: torch.Tensor) -> None:
            if point in points:
                states.add(point, 0, first, hidden[:, 0])

        one_token_pass(subject, ids[first : first + BATCH], stream_hooks(subject, sites, keep))

    def elsewhere(batch: Prompts, first: int, at: tuple[torch.Tensor, torch.Tensor]) -> None:
        def keep(point: int, hidden: torch.Tensor) -> None:
            if point in points:
                states.add(point, 1, first, hidden[tuple(i.to(hidden.device) for i in at)])

        hooks = stream_hooks(subject, sites, keep)
        observe(subject, batch, Want(received=False), extra_hooks=hooks)

    with together(subject) as start:
        passes = [start(at_p0, first) for first in range(0, len(ids), BATCH)]
        begin = 0
        for batch in prompts.batches():
            mine = ((row >= begin) & (row < begin + len(batch))).nonzero().flatten()
            if len(mine):
                at = (row[mine] - begin, column[mine])
                passes.append(start(elsewhere, batch, int(mine[0]), at))
            begin += len(batch)
        for done in passes:
            done()
