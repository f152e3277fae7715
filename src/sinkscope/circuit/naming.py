"""What each unit of position zero writes that sink heads read, and what they keep without it.

With the norms frozen, unit i of block b adds to the logits of the sink heads, over what it writes
elsewhere,

    w_i = mean_h ⟨g_h, Δ^i_0 − mean_t Δ^i_t⟩ / P_h,   over heads h of blocks behind b,

with g_h the gradient of the head's logit and P_h what all blocks that raise it add, so that a head
with long keys counts no more than another. Units are taken away by mean ablation: the write at P0
becomes its mean over the other positions; neurons of routed experts are switched off (`ablated`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from sinkscope.circuit.ablated import Hooks, ablated
from sinkscope.circuit.head_reads import HeadReads
from sinkscope.circuit.keys import SinkLogits
from sinkscope.circuit.phase_parts import WRITER
from sinkscope.circuit.phase_reads import GROUP
from sinkscope.circuit.phases import HALF
from sinkscope.circuit.unit import EXPERT, Unit
from sinkscope.circuit.writes import Key, Writes, written_along
from sinkscope.observe.p0_stream import p0_states
from sinkscope.observe.residual import residual_hooks
from sinkscope.observe.sites import Sites
from sinkscope.observe.together import Later, together
from sinkscope.subject.load import Subject


@dataclass(frozen=True)
class Read:
    """What the sink heads of a phase read, before it is divided up.

    gradient   [heads, d] along which a write counts, head by head
    added      [heads, L+1] what the embedding and each block add along it, P0 over the others
    left_out   blocks whose units are not named
    at_others  the block that gives most heads what they read does it by its writes elsewhere
    """

    gradient: torch.Tensor
    added: torch.Tensor
    left_out: set[int]
    at_others: bool


def what_is_read(
    gradient: torch.Tensor,
    blocks: torch.Tensor,
    main: int,
    p0: torch.Tensor,
    others: torch.Tensor,
    over: Sequence[tuple[int, int]],
) -> Read:
    """What heads read of what was written: arguments as of `Naming`.

    gradient  [heads, d] of their logits to P0's stream; blocks [heads] where they stand
    main      the block that gives most of them what they read, −1 the embedding
    """
    apart = p0 - others  # row 0 is the embedding
    main = min(main, len(p0) - 2)  # a head's curve may rise behind all blocks, or not at all
    added = (gradient @ apart.T) * (torch.arange(len(p0)) <= blocks[:, None])
    from_main = float(added[:, main + 1].sum())
    at_others = float((gradient @ p0[main + 1]).sum()) < HALF * from_main
    left_out: set[int] = set()
    for first, last in over:
        rest = added[:, first + 1 : last + 2].sum() / added.sum().clamp_min(1e-9)
        if abs(rest) < WRITER:
            left_out |= {*range(first, last + 1)}
            added[:, first + 1 : last + 2] = 0.0
    if main < 0 or from_main >= WRITER * float(added.clamp_min(0).sum()):
        return Read(gradient, added, left_out, at_others)
    # the others are made long: no logit is linear in that, so its difference is divided up
    gradient = apart[main + 1].expand_as(gradient)
    added = (gradient * gradient).sum(1, keepdim=True) * torch.eye(len(p0))[main + 1]
    return Read(gradient, added, {*range(len(p0))} - {main}, True)


class Naming:
    """What the sink heads of one phase read, and who wrote it.

    groups     masks over the heads: those that one block gives what they read, where there are
               several such blocks and a tenth of the heads or more belongs to it
    at_others  as of `Read`
    """

    def __init__(
        self,
        subject: Subject,
        sites: Sites,
        logits: SinkLogits,
        reads: HeadReads,
        heads: Sequence[tuple[int, int]],
        usual: Mapping[Key, torch.Tensor],
        p0: torch.Tensor,
        others: torch.Tensor,
        tokens: torch.Tensor,
        vocabulary: torch.Tensor,
        start: Callable[..., Later],
        over: Sequence[tuple[int, int]] = (),
    ) -> None:
        """What is written is asked for at once, so that it takes one way through the blocks.

        p0, others  [L+1, d] what the embedding and each block wrote at P0, and at the others
        tokens      [n] first tokens of the prompts
        vocabulary  [m] such as are drawn evenly from the vocabulary, to compare with
        start       of the `together` within which the naming is done
        over        first and last blocks of earlier phases that are taken back: their units are
                    left out where no tenth of what the heads read is of these blocks
        """
        self.subject, self.sites, self.reads = subject, sites, reads
        chosen = [i for i, head in enumerate(logits.heads) if head in set(heads)]
        self._rows = [reads.heads.index(logits.heads[i]) for i in chosen]
        gradient = logits.gradient.mean(0)[chosen]
        blocks = torch.tensor([logits.heads[i][0] for i in chosen])
        given = torch.from_numpy(reads.block)[self._rows]
        main = Counter(given.tolist()).most_common(1)[0][0] if chosen else -1
        read = what_is_read(gradient, blocks, main, p0, others, over)
        self.at_others, self._left_out = read.at_others, read.left_out
        scale = read.added.clamp_min(0).sum(1, keepdim=True).clamp_min(1e-9)
        self._gradient, self._blocks = read.gradient / scale / len(chosen), blocks
        self._embedding = (read.added[:, 0] / scale[:, 0]) / len(chosen)
        self.stop = int(blocks.max())
        self.usual = usual
        groups = [given == block for block in given.unique()] if len(chosen) else []
        large = [group for group in groups if group.sum() >= GROUP * len(chosen)]
        self.groups = large if len(groups) > 1 else []
        self.own = start(self.written, tokens)
        self.of_groups = [start(self.written, tokens, group) for group in self.groups]
        self.elsewhere = start(self.written, vocabulary)

    def written(self, tokens: torch.Tensor, heads: torch.Tensor | None = None) -> Writes:
        """What each unit adds to the logits with these tokens at P0, over elsewhere: the w_i.

        tokens  [n] first tokens, over which it is the mean
        heads   one of `groups`, a mask over the heads that alone count; all by default
        """
        chosen = torch.ones(len(self._blocks), dtype=torch.bool) if heads is None else heads

        def along(block: int) -> torch.Tensor:
            reading = chosen & (self._blocks > block) & (block not in self._left_out)
            return self._gradient[reading].sum(0)

        found = written_along(self.subject, self.sites, tokens, along, self.stop, self.usual)
        total = dict(found.total)
        for name, units in found.units.items():
            shared = found.shared.get(name)
            total[name] = float(units.sum()) + (0.0 if shared is None else float(shared.sum()))
        embedding = float(self._embedding[chosen].sum())
        return replace(found, embedding=embedding, total=total, bias={})

    def kept(self, units: Sequence[Unit]) -> list[float] | None:
        """Part of their share that the heads keep without these units' writes; None: no telling.

        Of all heads together, and of each of `groups`; NaN for one without any share. The smaller
        of two: with later writes of P0 as they are, which no backup can fill in for, and with P0
        running on, which takes along what later blocks write because of these.
        """
        own = [unit for unit in units if unit.block < self.stop and unit.kind != EXPERT]
        hooks = self._ablated(own) if own else None
        if hooks is None:
            return None
        reads = self.reads
        less: dict[int, torch.Tensor] = {}

        def edit(block: int, hidden: torch.Tensor) -> torch.Tensor:
            gone = sum((x for b, x in less.items() if b < block), torch.tensor(0.0))
            return (reads.p0[:, block] - gone).unsqueeze(1).to(hidden)

        with together(self.subject) as start:
            running_on, behind = start(self._running_on, hooks), {}
            for block in sorted({unit.block for unit in own}):
                alone = self._ablated([unit for unit in own if unit.block == block])
                behind[block] = start(self._behind, block, alone)
            less.update({block: reads.p0[:, block + 1] - x() for block, x in behind.items()})
            held, run = self._shares(reads.margins(edit)[0]), self._shares(running_on())
        intact = self._shares(reads.intact)
        if not intact[0]:  # margins so low that their sigmoid underflows
            return None
        return [min(a, b) / whole if whole else math.nan for a, b, whole in zip(held, run, intact)]

    def lost(self, units: Sequence[Unit]) -> float:
        """Part of the heads' rise that goes without these units, when P0 runs on from there."""
        hooks = self._ablated(units)
        if hooks is None:
            return 0.0
        left = self._running_on(hooks).median(0).values.numpy()
        gone = self.reads.between(left, self.reads.curve[:, -1])
        return float(gone[self._rows].mean())

    def _ablated(self, units: Sequence[Unit]) -> Hooks | None:
        return ablated(self.subject, self.sites, self.usual, units)

    def _shares(self, margins: torch.Tensor) -> list[float]:
        share = margins[:, self._rows].sigmoid().mean(0)
        return [float(share.mean()), *(float(share[one].mean()) for one in self.groups)]

    def _running_on(self, hooks: Hooks) -> torch.Tensor:
        return self.reads.margins(lambda block, hidden: hidden, extra=hooks)[0]

    def _behind(self, block: int, hooks: Hooks) -> torch.Tensor:
        """P0's stream behind a block whose units are ablated, [n, d]."""

        def read(keep: Any) -> Any:
            seen = residual_hooks(self.subject, keep)
            return lambda: [*hooks(), *seen()]

        return p0_states(self.subject, self.reads.tokens, read, block + 1)[:, block + 1]
