"""Who writes what sink heads read of position zero: named along their keys, then taken away.

Along the sink direction alone, the largest writer is whoever makes P0 longest, read or not. So
units are ranked by the w_i, which they add to the logits of the sink heads over what they write
elsewhere (`circuit.naming`). The named units are the fewest that make 90 % of it, and the same of
each group of heads that one block gives what they read: a tenth of the whole may be most of what
the heads of one group need. Units of a sublayer that write against each other, so that their
difference is what is read, are named together.

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

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sinkscope.circuit.components import (
    MOST,
    Components,
    enough_components,
    main_components,
    part_of,
    raised,
    these_components,
)
from sinkscope.circuit.naming import Naming
from sinkscope.circuit.phase_parts import WRITER, PhaseParts
from sinkscope.circuit.phases import HALF
from sinkscope.circuit.unit import HEAD, NEURON, Unit, by_block
from sinkscope.circuit.writes import Writes
from sinkscope.observe.together import together


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
    needed = _needed(naming, found.units, along_u)
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
    more_than = 0 if found is fewest else len(fewest.writers)
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


def _needed(naming: Naming, read: Sequence[Unit], along_u: tuple[Components, Writes]) -> list[Unit]:
    """Who writes along u, is not read, and yet takes half of the rise with it.

    Only units of a sublayer that write half as much along u as those that are read: the mark by
    which P0 is told is needed too, and no amplification. Nobody where what is read is written at
    the others: what P0 must then have is no part of it.
    """
    if naming.at_others:
        return []
    others = [unit for unit in along_u[0].units if unit not in read and unit.block < naming.stop]
    least = HALF * (part_of(along_u[1], read) or 0.0)
    with together(naming.subject) as start:
        sets = [
            [Unit(block, kind, index) for index in chosen]
            for kind in (HEAD, NEURON)
            for block, chosen in by_block(others, kind).items()
        ]
        large = [units for units in sets if (part_of(along_u[1], units) or 0.0) >= least]
        asked = [(units, start(naming.lost, units)) for units in large]
        return [unit for units, lost in asked if lost() >= HALF for unit in units]
