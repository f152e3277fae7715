"""Is the sink used, or present and not needed: loss and KL as more and more of it is removed.

Attention on P0 and dependence on it are two things: a model may sink heavily and lose nothing when
the sink is gone, or lose everything. So for each condition and dose, on the same text positions:

    ce   change of the cross-entropy of the next token, nats, against the intact model
    kl   KL(intact ‖ changed) of the next-token distribution, nats
    left late share that the sinking heads still give to P0

for predictions made at positions 1 and later (P0's own prediction knows one token only).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sinkscope.intervene.cost import divergences, logit_batches, losses
from sinkscope.intervene.edits import Edit, Heads, Neurons
from sinkscope.intervene.readout import over_heads
from sinkscope.mixing.conditions import INTACT, Condition, run
from sinkscope.observe.sites import Sites
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts

DOSES = (0.25, 0.5, 0.75, 1.0)


@dataclass
class Cost:
    """What a condition costs, for each prompt [n].

    ce, kl   [n] nats, as above
    left     [n] late share left on the key acted on, mean over the heads asked for
    removed  [n] mass that late queries lost there, mean over the same heads
    """

    condition: Condition
    ce: np.ndarray
    kl: np.ndarray
    left: np.ndarray
    removed: np.ndarray


def costs(
    subject: Subject,
    prompts: Prompts,
    conditions: Sequence[Condition],
    heads: Sequence[tuple[int, int]] = (),
    *,
    sites: Sites | None = None,
    progress: Callable[[int, int], None] | None = None,
    first: int = 1,
) -> list[Cost]:
    """Cost of each condition on these prompts, averaged over its draws where it has several.

    The intact pass is made once for each batch.

    heads  (block, head) over which `left` and `removed` are averaged; all where none is named
    first  the loss counts predictions made at this position and later
    """
    parts: list[list[tuple[np.ndarray, ...]]] = [[] for _ in conditions]
    done_rows = 0
    for batch in logit_batches(subject, prompts):
        rows = list(range(done_rows, done_rows + len(batch)))
        done_rows += len(batch)
        intact = run(subject, batch, INTACT, logits=True).logits
        assert intact is not None
        base = losses(intact, batch, first)
        for at, condition in enumerate(conditions):
            draws = []
            for each in condition.each():
                done = run(subject, batch, each, logits=True, sites=sites, rows=rows)
                assert done.logits is not None
                ce = losses(done.logits, batch, first) - base
                kl = divergences(intact, done.logits, batch, first)
                shares = (over_heads(x.numpy(), heads) for x in (done.shares(), done.removed()))
                draws.append((ce.numpy(), kl.numpy(), *shares))
            parts[at].append(tuple(np.mean(column, 0) for column in zip(*draws)))
        if progress:
            progress(done_rows, len(prompts))
    return [
        Cost(condition, *(np.concatenate(column) for column in zip(*part)))
        for condition, part in zip(conditions, parts)
    ]


def doses(condition: Condition) -> list[Condition]:
    """A condition at rising doses; of a circuit cut, rising parts of its edits' units."""
    if condition.removals:
        return [condition.removing(dose=dose) for dose in DOSES]
    found: list[Condition] = []
    for dose in DOSES:
        edits = tuple(_part(edit, dose) for edit in condition.edits)
        if not found or edits != found[-1].edits:
            found.append(dataclasses.replace(condition, edits=edits))
    return found


def _part(edit: Edit, dose: float) -> Edit:
    """The first units of an edit of neurons or heads, largest writers first."""
    units = units_of(edit)
    count = max(1, round(dose * len(units)))
    if isinstance(edit, Neurons):
        return dataclasses.replace(edit, neurons=units[:count])
    return dataclasses.replace(edit, heads=units[:count]) if isinstance(edit, Heads) else edit


def units_of(edit: Edit) -> tuple[int, ...]:
    """The neurons or heads that an edit switches off."""
    if isinstance(edit, Neurons):
        return edit.neurons
    return edit.heads if isinstance(edit, Heads) else ()
