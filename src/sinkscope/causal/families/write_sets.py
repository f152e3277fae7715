"""N3s: where no single write of P0 holds half of the sink, a smallest set of writes that does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sinkscope.causal.confirm import decide
from sinkscope.causal.evidence import Planned, Test
from sinkscope.causal.testing import CausalBench
from sinkscope.causal.thresholds import NECESSARY
from sinkscope.intervene.edits import SetWrite
from sinkscope.intervene.edits.base import Context, Edit
from sinkscope.intervene.engine import Engine
from sinkscope.observe.sites import write_hooks
from sinkscope.subject.prompts import Prompts

LARGEST_SET = 4  # writes removed together before the search for a necessary set gives up


def write_sets(lab: CausalBench) -> list[Test]:
    """A smallest set of P0's writes that holds half of the sink.

    Found on one-token streams, where a pass costs next to nothing: the write that adds most along
    the sink direction is taken away, then the one that adds most in what is left, so that a backup
    that only acts when the first is gone is found too. Once a set holds half of the sink, writes
    that it does not need are put back. The set that is left is run in full.
    """
    if lab.engine.direction is None:
        return []
    small = _one_token(lab)
    chosen: list[tuple[int, str]] = []
    sets: list[Planned] = []
    while len(chosen) < LARGEST_SET:
        added = _added_along(lab, small, chosen)
        best = max(added, key=lambda one: added[one], default=None)
        if best is None or added[best] <= 0:
            break
        chosen.append(best)
        if len(chosen) > 1:  # alone it is in N1 or N3
            sets.append(_planned(lab, chosen))
            if _holds(lab, sets[-1]):
                sets += _smaller_sets(lab, chosen)
                break
    return decide(lab, sets, lambda sizes: [len(sizes) - 1])


def _smaller_sets(lab: CausalBench, chosen: list[tuple[int, str]]) -> list[Planned]:
    sets: list[Planned] = []
    for one in list(chosen):
        rest = [other for other in chosen if other != one]
        if len(rest) < 2:
            break
        plan = _planned(lab, rest)
        if _holds(lab, plan):
            sets.append(plan)
            chosen = rest
    return sets


def _holds(lab: CausalBench, plan: Planned) -> bool:
    """Whether the sink loses half without these writes: through P0's key, or else in all."""
    effect = lab.key_effects([plan.edits])[0]
    if effect is None:
        effect = lab.sink_effect(lab.run(plan.edits))
    return -float(np.nanmean(effect)) >= NECESSARY


def _planned(lab: CausalBench, writes: list[tuple[int, str]]) -> Planned:
    def edits(position: int) -> list[SetWrite]:
        return [SetWrite(block, kind, position, "mean") for block, kind in sorted(writes)]

    return lab.at_p0("N3s", edits, arrow="stage 2 -> stage 4", dose=float(len(writes)))


def _one_token(lab: CausalBench) -> Engine:
    """The first two tokens of each prompt: P0's stream is the same, at next to no cost."""
    engine = lab.engine
    ids = engine.prompts.input_ids[:, :2]
    lengths = torch.full((len(ids),), 2)
    prompts = Prompts(ids, lengths, engine.prompts.kind, engine.prompts.bos)
    return Engine(engine.subject, prompts, engine.sites, direction=engine.direction)


@dataclass(frozen=True)
class _Listen(Edit):
    """Changes nothing: adds up what every sublayer writes at P0 along a direction."""

    added: Any = None
    order = 2

    def hooks(self, context: Context) -> list[Any]:
        assert context.sites is not None
        assert context.direction is not None
        sites, u = context.sites, context.direction.float()

        def consume(block: int, index: int, delta: torch.Tensor) -> None:
            key = block, sites.blocks[block][index].kind
            along = float((delta[:, 0].float() @ u.to(delta.device)).sum())
            self.added[key] = self.added.get(key, 0.0) + along

        return write_hooks(context.subject, sites, consume)()


def _added_along(
    lab: CausalBench, small: Engine, without: list[tuple[int, str]]
) -> dict[tuple[int, str], float]:
    """What P0's other writes before the last reading block add along u, with these set to zero."""
    added: dict[tuple[int, str], float] = {}
    edits = [SetWrite(block, kind) for block, kind in without]
    small.run([*edits, _Listen(added)], want_logits=False)
    return {
        key: along
        for key, along in added.items()
        if key not in without and key[0] < lab.last_read and key[1] in ("attention", "mlp")
    }
