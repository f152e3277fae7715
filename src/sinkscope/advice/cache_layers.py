"""Which layers a cache of few bits should leave alone.

The cache of each block alone is rounded, on texts of one document; the blocks whose rounding moves
the predictions most (KL) are candidates. Whether leaving them alone helps is then tried on all
other documents, beside as many other blocks drawn at random: a layer that looks bad by chance on
the texts it was chosen on does not look so on others.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch

from sinkscope.advice.bench import FEWEST, Bench
from sinkscope.intervene.edits import RoundCache
from sinkscope.mixing.dose import Cost
from sinkscope.schema.advise import AdviceRow

ROWS = 2  # texts of that document on which candidates are looked for, at most
PART = 8  # one block in so many is left alone, at least one


@dataclass(frozen=True)
class Spared:
    """A rounding with some layers left alone, on texts of documents they were not chosen on.

    bench   these texts
    plain   what the rounding costs there; without, drawn: with the layers, or others, left alone
    """

    layers: list[int]
    name: str
    bench: Bench
    plain: Cost
    without: Cost
    drawn: Cost

    @property
    def helps(self) -> bool:
        """Whether the rounding is fine without the layers, and clearly better than with them."""
        better = self.bench.helps(self.plain, self.without, self.drawn)
        return better and self.bench.affordable(self.without) is True

    @property
    def rows(self) -> list[AdviceRow]:
        """The evidence."""
        of, texts = f"of blocks {', '.join(map(str, self.layers))}", self.bench.texts.lower()
        return [
            self.bench.row(f"{self.name}, but {of} ({texts})", self.without),
            self.bench.row(f"{self.name}, but of as many others ({texts})", self.drawn, True),
            self.bench.row(f"{self.name}, of all blocks ({texts})", self.plain, True),
        ]


def left_alone(bench: Bench, name: str, rounding: RoundCache) -> Spared | str:
    """The candidates and what the rounding costs without them, or why none was looked for.

    name  of the rounding
    """
    blocks = [at for at, kind in enumerate(bench.layers) if kind not in ("none", "linear")]
    if len(blocks) < 2:
        return "there is one layer with a cache"
    if bench.count <= FEWEST:
        return f"that takes {FEWEST + 1} documents, one to choose them on"
    documents = bench.units if bench.units is not None else np.arange(len(bench.prompts))
    names, counts = np.unique(documents, return_counts=True)
    its = documents == names[counts.argmin()]  # the shortest, so that most texts are left
    seen, unseen = _on(bench, np.flatnonzero(its)[:ROWS]), _on(bench, np.flatnonzero(~its))
    alone = {
        str(block): dataclasses.replace(
            rounding, without=tuple(other for other in blocks if other != block)
        )
        for block in blocks
    }
    moved = [float(cost.kl.mean()) for cost in seen.cost(alone).values()]
    count = max(1, len(blocks) // PART)
    chosen = sorted(blocks[at] for at in np.argsort(moved)[::-1][:count])
    rest = [block for block in blocks if block not in chosen]
    order = np.random.default_rng(bench.settings.seed).permutation(len(rest))[:count]
    drawn = sorted(rest[at] for at in order)
    tried = {
        end: dataclasses.replace(rounding, without=tuple(each))
        for end, each in (("plain", ()), ("without", chosen), ("drawn", drawn))
    }
    return Spared(chosen, name, unseen, **unseen.cost(tried))


def _on(bench: Bench, rows: np.ndarray) -> Bench:
    """The same on some of the texts."""
    return dataclasses.replace(
        bench,
        prompts=bench.prompts.take(torch.from_numpy(rows)),
        scan_data=bench.scan_data.isel(sequence=rows),
    )
