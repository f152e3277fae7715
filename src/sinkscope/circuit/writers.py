"""Who writes what sink heads read of position zero: named along their keys, then taken away.

Along the sink direction alone, the largest writer is whoever makes P0 longest, read or not. So
units are ranked by what they add to the logits of the sink heads, over what they write elsewhere:
with the norms frozen, unit i of block b adds

    w_i = mean_h ⟨g_h, Δ^i_0 − mean_t Δ^i_t⟩ / P_h,   over heads h of blocks behind b,

with g_h the gradient of the head's logit and P_h what all blocks that raise it add, so that a head
with long keys counts no more than another. The named units are the fewest that make 90 % of it, and
the same of each group of heads that one block gives what they read: a tenth of the whole may be
most of what the heads of one group need. Units of a sublayer that write against each other, so that
their difference is what is read, are named together.

Units that write along the sink direction and are read by no head are named too where the heads lose
half of their rise without them, because later writes of P0 need them.

What was named is then taken away: each named unit's write at P0 becomes its mean over the other
positions, with P0's later writes held as they are, and again with P0 running on. If the heads keep
more than half of their share of P0 both times, a tenth of a long write may be all that they need:
the next units are named too, as few as end that, up to 99 % of what is read.
If all heads together keep more than half even so, these units are not what makes the sink: none is
named but those of groups that lose theirs, where other heads read something else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from sinkscope.circuit.components import (
    MOST,
    Components,
    enough_components,
    main_components,
    part_of,
    raised,
    these_components,
)
from sinkscope.circuit.head_reads import HeadReads
from sinkscope.circuit.keys import SinkLogits
from sinkscope.circuit.phase_parts import WRITER, PhaseParts
from sinkscope.circuit.phase_reads import GROUP
from sinkscope.circuit.phases import HALF
from sinkscope.circuit.unit import HEAD, NEURON, Unit, by_block
from sinkscope.circuit.writes import Key, Writes, dense_maps, written_along
from sinkscope.observe.p0_stream import p0_states
from sinkscope.observe.residual import residual_hooks
from sinkscope.observe.sites import Sites
from sinkscope.observe.together import Later, together
from sinkscope.subject.load import Subject


@dataclass(frozen=True)
class Named:
    """The units that are named, and how that was checked.

    components  what is named; writes: what its shares are parts of (`components`): what raises
                the heads' logits, or the sink direction where units are named that no head reads
    kept        share of P0 that the heads keep without the named units, over intact; None: untested
    rejected    what was not named since the heads keep more than half without it
    vocabulary  part that the named units make of it over first tokens drawn evenly from the
                vocabulary; `prompts` over those of the prompts
    fewest      how many make 90 % of it, where they are not enough and more are named; else 0
    of_heads    how many heads the units are named for and `kept` is of, where it is some; else 0
    """

    components: Components
    writes: Writes
    kept: float | None = None
    rejected: Components | None = None
    prompts: float | None = None
    vocabulary: float | None = None
    fewest: int = 0
    of_heads: int = 0


class Naming:
    """What the sink heads of one phase read, and who wrote it.

    groups  masks over the heads: those that one block gives what they read, where there are several
            such blocks and a tenth of the heads or more belongs to it
    """

    def __init__(
        self,
        subject: Subject,
        sites: Sites,
        logits: SinkLogits,
        reads: HeadReads,
        heads: Sequence[tuple[int, int]],
        usual: Mapping[Key, torch.Tensor],
        d: torch.Tensor,
        tokens: torch.Tensor,
        vocabulary: torch.Tensor,
        start: Callable[..., Later],
    ) -> None:
        """What is written is asked for at once, so that it takes one way through the blocks.

        d           [L+1, d] what the embedding and each block wrote at P0, less at the others
        tokens      [n] first tokens of the prompts
        vocabulary  [m] such as are drawn evenly from the vocabulary, to compare with
        start       of the `together` within which the naming is done
        """
        self.subject, self.sites, self.reads = subject, sites, reads
        chosen = [i for i, head in enumerate(logits.heads) if head in set(heads)]
        self._rows = [reads.heads.index(logits.heads[i]) for i in chosen]
        gradient = logits.gradient.mean(0)[chosen]
        blocks = torch.tensor([logits.heads[i][0] for i in chosen])
        earlier = torch.arange(len(d)) <= blocks[:, None]  # row 0 is the embedding
        added = (gradient @ d.T) * earlier
        scale = added.clamp_min(0).sum(1, keepdim=True).clamp_min(1e-9)
        self._gradient, self._blocks = gradient / scale / len(chosen), blocks
        self._embedding = (added[:, 0] / scale[:, 0]) / len(chosen)
        self.stop = int(blocks.max())
        self.usual = usual
        given = torch.from_numpy(reads.block)[self._rows]
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
            return self._gradient[chosen & (self._blocks > block)].sum(0)

        found = written_along(self.subject, self.sites, tokens, along, self.stop, self.usual)
        total = dict(found.total)
        for name, units in found.units.items():
            shared = found.shared.get(name)
            total[name] = float(units.sum()) + (0.0 if shared is None else float(shared.sum()))
        embedding = float(self._embedding[chosen].sum())
        return replace(found, embedding=embedding, total=total, bias={})

    def kept(self, units: Sequence[Unit]) -> list[float] | None:
        """Part of their share that the heads keep without these units' writes; None: no telling.

        Of all heads together, and of each of `groups`. The smaller of two: with later writes of P0
        as they are, which no backup can fill in for, and with P0 running on, which takes along what
        later blocks write because of these.
        """
        own = [unit for unit in units if unit.block < self.stop]
        if not own or any(unit.kind not in (HEAD, NEURON) for unit in own):
            return None
        hooks = self._ablated(own)
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
        return [min(a, b) / whole for a, b, whole in zip(held, run, intact)]

    def lost(self, units: Sequence[Unit]) -> float:
        """Part of the heads' rise that goes without these units, when P0 runs on from there."""
        hooks = self._ablated(units)
        if hooks is None:
            return 0.0
        left = self._running_on(hooks).median(0).values.numpy()
        gone = self.reads.between(left, self.reads.curve[:, -1])
        return float(gone[self._rows].mean())

    def _shares(self, margins: torch.Tensor) -> list[float]:
        share = margins[:, self._rows].sigmoid().mean(0)
        return [float(share.mean()), *(float(share[one].mean()) for one in self.groups)]

    def _running_on(self, hooks: Any) -> torch.Tensor:
        return self.reads.margins(lambda block, hidden: hidden, extra=hooks)[0]

    def _behind(self, block: int, hooks: Any) -> torch.Tensor:
        """P0's stream behind a block whose units are ablated, [n, d]."""

        def read(keep: Any) -> Any:
            seen = residual_hooks(self.subject, keep)
            return lambda: [*hooks(), *seen()]

        return p0_states(self.subject, self.reads.tokens, read, block + 1)[:, block + 1]

    def _ablated(self, units: Sequence[Unit]) -> Any:
        """Hooks that mean-ablate these heads and neurons at P0; None where they are in experts."""
        modules = self.subject.anatomy.modules(self.subject.model)
        places: list[tuple[Any, torch.Tensor, torch.Tensor]] = []
        for kind, name in ((HEAD, "attention"), (NEURON, "mlp")):
            for block, chosen in by_block(units, kind).items():
                index = next(
                    i for b, i, n in self.sites.writes if (b, n) == (block, f"{block}.{name}")
                )
                sublayer = self.sites.blocks[block][index]
                key: Key = (block, str(index))
                if ("", sublayer.projection) not in dense_maps(sublayer) or key not in self.usual:
                    return None
                usual = self.usual[key]
                mask = torch.zeros(sublayer.heads if kind == HEAD else len(usual), dtype=torch.bool)  # type: ignore[arg-type]
                mask[chosen] = True
                mask = mask.repeat_interleave(len(usual) // len(mask)).to(usual.device)
                places.append((sublayer.projection.owner(modules[block]), mask, usual))  # type: ignore[union-attr]

        def make() -> list[Any]:
            def swap(mask: torch.Tensor, usual: torch.Tensor) -> Any:
                return lambda module, args: (
                    torch.where(mask, usual.to(args[0]), args[0]),
                    *args[1:],
                )

            return [o.register_forward_pre_hook(swap(mask, usual)) for o, mask, usual in places]

        return make


def name_writers(naming: Naming, along_u: tuple[Components, Writes]) -> Named:
    """The units behind what the heads read.

    along_u  who writes along the sink direction, and all that is written along it
    """
    read = naming.own()
    found, writes = main_components(read), read
    each = [group() for group in naming.of_groups]
    apart = {unit for one in each for unit in main_components(one).units}
    if not apart <= {*found.units}:
        found = replace(these_components(read, {*found.units, *apart}), whole=found.whole)
    needed = _needed(naming, found.units, along_u[0])
    if needed:
        writes = along_u[1]
        found = these_components(writes, {*found.units, *needed})
    left, fewest = naming.kept(found.units), found
    if left is not None and left[0] > HALF:
        more = [unit for one in (read, *each) for unit in main_components(one, MOST).units]
        found, left = enough_components(naming.kept, writes, found, left, more)
    kept, of = None if left is None else left[0], 0
    if left is not None and left[0] > HALF:
        own = _of_some(naming, each, left[1:])
        if own is None:
            whole = Components((), along_u[0].whole or found.whole)
            return Named(whole, along_u[1], kept, rejected=found)
        units, kept, of = own
        found = fewest = replace(these_components(writes, units), whole=found.whole)
    elsewhere = part_of(naming.elsewhere(), found.units)
    more_than = 0 if found is fewest else len(fewest.units)
    return Named(found, writes, kept, None, part_of(read, found.units), elsewhere, more_than, of)


def _of_some(
    naming: Naming, each: Sequence[Writes], left: Sequence[float]
) -> tuple[set[Unit], float, int] | None:
    """The units of the groups of heads that lose half without theirs, by these units alone.

    each, left  what is written for each of `naming.groups`, and what it keeps without all found
    Returns them, the most that such a group keeps without them, and how many heads that are.
    """
    own = [i for i, rest in enumerate(left) if rest <= HALF]
    units = {unit for i in own for unit in main_components(each[i]).units}
    alone = naming.kept(list(units)) if own else None
    if alone is None or max(alone[1 + i] for i in own) > HALF:
        return None
    heads = sum(int(naming.groups[i].sum()) for i in own)
    return units, max(alone[1 + i] for i in own), heads


def with_named(part: PhaseParts, named: Named) -> PhaseParts:
    """The most read phase with the named writers and their shares.

    Its takers stay, with their shares along u: what is taken back need not be read.
    """
    if not part.most_read:
        return part
    total = raised(named.writes) or 1.0
    read = {n: w / total for n, w in named.writes.total.items() if n not in part.writes.takers}
    share = part.writes.share | read
    writers = [name for name in read if share[name] >= WRITER]
    return replace(
        part,
        writes=replace(
            part.writes,
            share=share,
            writers=tuple(sorted(writers, key=lambda name: -share[name])),
            components=named.components,
        ),
    )


def _needed(naming: Naming, read: Sequence[Unit], along_u: Components) -> list[Unit]:
    """Who writes along u, is not read, and yet takes half of the rise with it."""
    others = [unit for unit in along_u.units if unit not in read and unit.block < naming.stop]
    with together(naming.subject) as start:
        sets = [
            [Unit(block, kind, index) for index in chosen]
            for kind in (HEAD, NEURON)
            for block, chosen in by_block(others, kind).items()
        ]
        asked = [(units, start(naming.lost, units)) for units in sets]
        return [unit for units, lost in asked if lost() >= HALF for unit in units]
