"""What single heads read of position zero: their margins for any stream that it might have held.

With x in place of P0's stream at the input of its block, the mean late margin of a head is

    m(x) = mean_t q_t · k(x) · scale − mean_t logsumexp_{j>0} s_tj

with the model's own norm and key map; nothing is frozen (path patching through P0's key). The read
curve of a head of block b gives P0 its own writes up to x_l only, and those of another position,
drawn at random, behind it:

    c_l = m(x_0^l + x_t^b − x_t^l),   c_{−1} = m(x_t^b)

It rises where P0 is given what that head reads, whatever else makes it long. The block whose write
crosses half of the rise is the head's own emergence block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from scipy.special import expit

from sinkscope.circuit.induction import queries_of
from sinkscope.circuit.keys import p0_keys
from sinkscope.circuit.observed import Observed
from sinkscope.circuit.phases import EMBEDDING, HALF, Phase
from sinkscope.observe.scores import capped
from sinkscope.observe.sites import Sites
from sinkscope.observe.together import together
from sinkscope.subject.load import Subject

ROWS = 16  # prompts over which margins are averaged
Heads = Sequence[tuple[int, int]]
# (block, P0's stream at its input [variants · n, 1, d]) -> what it is to read
Edit = Callable[[int, torch.Tensor], torch.Tensor]


class HeadReads:
    """Margins of some heads on P0.

    heads   [(block, head)] whose queries and keys were seen
    tokens  [n] first tokens of the prompts that are looked at
    p0      [n, L+1, d] P0's stream at x0..xL; others: that of a random other position each
    intact  [n, heads] margins as they are
    curve   [heads, L+2] read curves from l = −1 on, median over prompts; flat behind a head's block
    block   [heads] each head's own emergence block, −1 the embedding
    draws   [heads] whether P0's own stream draws the head: another position's in its place takes
            half of its share. One that prefers a distance reads nothing that P0 is given
    """

    def __init__(
        self,
        subject: Subject,
        sites: Sites,
        observed: Observed,
        heads: Heads,
        here: torch.Tensor,
        blocks: Sequence[int] = (),
    ) -> None:
        """here [n or 1, points, d]: P0's stream for the prompts' first tokens, 1 where they share
        one. blocks: those that `without_block` will be asked for."""
        self.subject, self.depth = subject, len(sites.blocks)
        self.heads = [(b, h) for b, h in heads if b in observed.heads]
        self.queries, self.scales = queries_of(observed)
        self._seen = observed.heads
        self._others = {b: torch.cat(head.others) for b, head in observed.heads.items()}
        self.tokens = observed.prompts.input_ids[:ROWS, 0]
        self.p0 = here[:ROWS, sites.inputs].expand(len(self.tokens), -1, -1)
        sample = observed.sample[:, sites.inputs]
        picked = torch.linspace(0, len(sample) - 1, len(self.tokens)).long()
        self.others = sample[picked]
        with together(subject) as start:
            curves = start(self._curves)
            left = {block: start(self._left_without, block) for block in blocks}
            self.curve = curves()
            self._left = {block: margins() for block, margins in left.items()}
        low, high = self.curve[:, :1], self.curve[:, -1:]
        self.draws = expit(low[:, 0]) <= HALF * expit(high[:, 0])
        below = self.curve < (low + high) / 2
        last = self.curve.shape[1] - 1 - below[:, ::-1].argmax(1)
        self.block = np.where(below.any(1), last - 1, EMBEDDING[0])

    def margins(
        self,
        edit: Edit,
        variants: int = 1,
        at: Sequence[int] = (),
        extra: Callable[[], list[Any]] = list,
    ) -> torch.Tensor:
        """Margins with an edited stream, [variants, n, heads].

        at  blocks besides those of the heads at whose input the stream is edited too
        """
        found: dict[int, torch.Tensor] = {}
        count = len(self.tokens)

        def read(block: int, keys: torch.Tensor, leaf: torch.Tensor) -> None:
            own = [head for b, head in self.heads if b == block]
            if not own:
                return
            query = self.queries[block][:count, own].to(keys).float()
            groups = [h * keys.shape[1] // self.queries[block].shape[1] for h in own]
            keys = keys.float().view(variants, count, *keys.shape[1:])[:, :, groups]
            logit = (query * keys).sum(-1) * self.scales[block]
            logit = capped(logit, self._seen[block].softcap)
            found[block] = logit.cpu() - self._others[block][:count, own]

        blocks = sorted({block for block, _ in self.heads} | {b for b in at if b < self.depth})
        tokens = self.tokens.repeat(variants)
        p0_keys(self.subject, tokens, blocks, edit, read, blocks[-1] + 1, extra)
        order = sorted(self.heads)
        rows = torch.cat([found[block] for block in sorted(found)], -1)
        return rows[..., [order.index(head) for head in self.heads]]

    def given(self, block: int, point: int) -> torch.Tensor:
        """P0's stream at x_block with only the writes up to x_point its own; −1: none. [n, d]."""
        if point < 0:
            return self.others[:, block]
        return self.p0[:, point] + self.others[:, block] - self.others[:, point]

    def _curves(self) -> np.ndarray:
        """See `curve`."""
        if not self.heads:
            return np.zeros((0, self.depth + 2))

        def edit(block: int, hidden: torch.Tensor) -> torch.Tensor:
            points = [min(point, block) for point in range(-1, self.depth + 1)]
            rows = torch.cat([self.given(block, point) for point in points])
            return rows.unsqueeze(1).to(hidden)

        found = self.margins(edit, self.depth + 2)
        self.intact = found[-1]
        return found.median(1).values.T.double().numpy()

    def part_of(self, phase: Phase) -> np.ndarray:
        """How much of each head's rise a phase makes, [heads]; NaN for heads before it.

        What its rise adds to the read curve; of a rise of the norm, `without_block` where that is
        more. By direction recognition alone is a rise, and without that nothing later is written.
        """
        start, stop = phase.rise[0], max(phase.rise[1], phase.block) + 1
        added = self._behind(stop, self.between(self.curve[:, start + 1], self.curve[:, stop + 1]))
        return np.fmax(added, self.without_block(phase.block)) if phase.by == "norm" else added

    def without_block(self, block: int) -> np.ndarray:
        """How much of each head's rise goes when a block writes at P0 as at another position.

        P0 runs on from there, so this counts what is read through later writes of its own. −1: the
        embedding. [heads], NaN for heads before it.
        """
        if block not in self._left:
            self._left[block] = self._left_without(block)
        return self._behind(block + 1, self.between(self._left[block], self.curve[:, -1]))

    def _left_without(self, block: int) -> np.ndarray:
        """Margins that are left when this block writes as elsewhere, median over prompts."""
        stop = block + 1
        without = self.given(stop, block)

        def edit(at: int, hidden: torch.Tensor) -> torch.Tensor:
            return without.unsqueeze(1).to(hidden) if at == stop else hidden

        return self.margins(edit, at=[stop])[0].median(0).values.double().numpy()

    def between(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Part of each head's whole rise that lies between two margins [heads], in nats: [heads].

        In nats, or in attention σ(m) where that is more: a head that is just drawn to P0 can lose
        its share with a third of its margin, one that is far beyond loses half its margin first.
        """
        nats, share = self.curve, expit(self.curve)
        parts = (
            (high - low) / np.maximum(nats[:, -1] - nats[:, 0], 1e-6),
            (expit(high) - expit(low)) / np.maximum(share[:, -1] - share[:, 0], 1e-6),
        )
        return np.fmax(*parts)

    def _behind(self, stop: int, values: np.ndarray) -> np.ndarray:
        return np.where([block >= stop for block, _ in self.heads], values, np.nan)
