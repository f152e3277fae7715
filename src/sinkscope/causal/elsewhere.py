"""A sink at other positions than zero: is it their position ids that make it?

The ids of each such position p and of an ordinary one q are exchanged, tokens and order stay. If at
least half of the attention leaves p, and comes to q, the sink is that of the id.
"""

from __future__ import annotations

from collections.abc import Sequence

from sinkscope.detect.decision import Sinks
from sinkscope.errors import InputError, Unsupported
from sinkscope.intervene.edits import PositionIds
from sinkscope.intervene.engine import Engine
from sinkscope.stats import paired_change
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts

HALF = 0.5


def follow_their_ids(
    subject: Subject, prompts: Prompts, sinks: Sinks, blocks: Sequence[int], seed: int = 0
) -> bool:
    """Whether the sink at each of these positions goes where its position id goes.

    blocks  the block of each layer of `sinks`
    """
    heads = [(blocks[layer], int(head)) for layer, head in zip(*sinks.elsewhere.nonzero())]
    ordinary = max(sinks.positions) + 3
    if not heads or ordinary >= int(prompts.lengths.min()) // 2:
        return False
    try:
        engine = Engine(subject, prompts, heads=heads, positions=(*sinks.positions, ordinary))
        return all(_follows(engine, heads, at, ordinary, seed) for at in sinks.positions)
    except (InputError, Unsupported):
        return False  # no position ids to exchange


def _follows(
    engine: Engine, heads: Sequence[tuple[int, int]], at: int, ordinary: int, seed: int
) -> bool:
    edited = engine.run([PositionIds(swap=(at, ordinary))], want_logits=False)
    held = engine.intact.on(heads, at)
    gone = paired_change(held, edited.on(heads, at), held, seed)
    come = paired_change(edited.on(heads, ordinary), engine.intact.on(heads, ordinary), held, seed)
    return all(one.low is not None and one.low > HALF for one in (gone, come))
