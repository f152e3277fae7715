"""Which layers a cache of few bits should leave alone.

The cache of each block alone is rounded, on a few texts; the blocks whose rounding moves the
predictions most (KL) are candidates. Whether leaving them alone helps is then tried on all texts,
beside as many other blocks drawn at random.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from sinkscope.advice.bench import Bench
from sinkscope.intervene.edits import RoundCache
from sinkscope.mixing.dose import Cost

ROWS = 2  # texts on which candidates are looked for
PART = 8  # one block in so many is left alone, at least one
LEFT, DRAWN = ", the layers it hurts most left alone", ", as many other layers left alone"


def left_alone(bench: Bench, name: str, rounding: RoundCache) -> tuple[list[int], dict[str, Cost]]:
    """The candidates, and what the rounding costs without them, and without as many others.

    name  of the rounding; the costs are called so with LEFT and DRAWN added
    """
    blocks = [at for at, kind in enumerate(bench.layers) if kind not in ("none", "linear")]
    if len(blocks) < 2:
        return [], {}
    few = dataclasses.replace(bench, prompts=bench.prompts.take(slice(0, ROWS)))
    alone = {
        f"{name}, in block {block}": dataclasses.replace(
            rounding, without=tuple(other for other in blocks if other != block)
        )
        for block in blocks
    }
    moved = [float(cost.kl.mean()) for cost in few.cost(alone).values()]
    count = max(1, len(blocks) // PART)
    chosen = sorted(blocks[at] for at in np.argsort(moved)[::-1][:count])
    rest = [block for block in blocks if block not in chosen]
    order = np.random.default_rng(bench.settings.seed).permutation(len(rest))[:count]
    drawn = sorted(rest[at] for at in order)
    return chosen, bench.cost(
        {
            name + end: dataclasses.replace(rounding, without=tuple(each))
            for end, each in ((LEFT, chosen), (DRAWN, drawn))
        }
    )
