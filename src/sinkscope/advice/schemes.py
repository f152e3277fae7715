"""What is rounded, and what is tried where that costs too much.

Everything is simulated in the model's own dtype (`intervene.rounding`): activations of all linear
maps in int8 with one scale for all tokens, for each channel or for each token; keys and values in
int8 and int4; weights in int8 and int4. What costs too much is tried again with position zero in
full precision, beside a control that keeps another position; with the maps that are given outliers
left alone; behind a token that is put first; with the weights that write position zero exact. An
int4 cache that costs too much is tried without the layers that it hurts most.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from sinkscope.advice.bench import OTHER, Bench
from sinkscope.advice.cache_layers import Spared, left_alone
from sinkscope.advice.maps import MAPS, OTHER_MAPS, TENSOR, TOKEN, maps_help, maps_left_alone
from sinkscope.advice.outliers import outliers
from sinkscope.advice.prefix import PREFIX, prefixed
from sinkscope.advice.weights import NAMES, OTHERS, WRITERS
from sinkscope.intervene.edits import Edit, RoundCache, RoundInputs
from sinkscope.intervene.edits.rounding import linear_maps
from sinkscope.mixing.dose import Cost
from sinkscope.schema.advise import Outlier

CHANNEL = "int8 activations, a scale a channel"
INT8, INT4 = "int8 cache, a scale a token and head", "int4 cache, a scale a token and head"
# scheme -> the edit with these positions in full precision
ACTIVATIONS = {
    TENSOR: lambda exact: RoundInputs(8, "tensor", exact),
    CHANNEL: lambda exact: RoundInputs(8, "channel", exact),
    TOKEN: lambda exact: RoundInputs(8, "token", exact),
}
CACHES = {
    INT8: lambda exact: RoundCache(8, "both", "token", exact),
    INT4: lambda exact: RoundCache(4, "both", "token", exact),
    "int4 cache, a scale a channel": lambda exact: RoundCache(4, "both", "channel", exact),
}
PARTS = {
    "int4 keys alone, a scale a token": RoundCache(4, "key"),
    "int4 values alone, a scale a token": RoundCache(4, "value"),
}
SCHEMES = ACTIVATIONS | CACHES
CACHE_BITS = {4: INT4, 8: INT8}  # the fewest first
FACTS = {
    "int8-tensor": TENSOR,
    "int8-channel": CHANNEL,
    "int8-token": TOKEN,
    "int8-cache": INT8,
    "int4-cache": INT4,
    "int8-weights": NAMES["int8"],
    "int4-weights": NAMES["int4"],
}
P0, CONTROL = ", position 0 exact", f", position {OTHER} exact"
CONTROLS = (CONTROL, OTHERS, OTHER_MAPS, *PREFIX[1:])


@dataclass(frozen=True)
class Found:
    """What was rounded and what that cost, by name; which parts in full precision help.

    layers  what leaving layers out of an int4 cache does, or why that was not tried; "" where the
            cache does not need it
    """

    bench: Bench
    costs: dict[str, Cost]
    outliers: list[Outlier]
    layers: Spared | str

    @cached_property
    def covered(self) -> float:
        """Share of the blocks' matrices that lies in linear maps, and so could be rounded."""
        blocks = self.bench.subject.anatomy.modules(self.bench.subject.model)
        matrices = {id(p): p.numel() for b in blocks for p in b.parameters() if p.dim() > 1}
        inside = {id(p) for _, m in linear_maps(self.bench.subject) for p in m.parameters()}
        rounded = sum(size for key, size in matrices.items() if key in inside)
        return rounded / max(sum(matrices.values()), 1)

    def fine(self, name: str) -> bool | None:
        """Whether a scheme costs no more than the bound; None where that is open.

        Activations and weights that could be rounded in part only are never shown to be fine.
        """
        word = self.bench.affordable(self.costs[name])
        return None if word and self.covered < 1 and name not in CACHES else word

    @property
    def maps(self) -> tuple[str, ...]:
        """The linear maps that are given outliers, by path."""
        return tuple(one["module"] for one in self.outliers)

    def helped(self, end: str, control: str) -> list[str]:
        """The schemes in which that helps clearly, and more than its control."""
        tried = [name for name in self.costs if name + end in self.costs]
        by = self.costs
        return [n for n in tried if self.bench.helps(by[n], by[n + end], by[n + control])]

    @property
    def position(self) -> list[str]:
        """The schemes in which P0 in full precision helps."""
        return self.helped(P0, CONTROL)

    @property
    def by_maps(self) -> list[str]:
        """The schemes in which leaving the maps with outliers alone helps."""
        return maps_help(self.bench, self.costs)

    @property
    def writers(self) -> list[str]:
        """The bits of weights at which those of P0's writers in full precision help."""
        return self.helped(WRITERS, OTHERS)

    @property
    def prefix(self) -> bool:
        """Whether a token put first and kept exact helps."""
        exact, inexact, _ = PREFIX
        by = self.costs
        return exact in by and self.bench.helps(by[TENSOR], by[exact], by[inexact])

    @property
    def spared(self) -> Spared | None:
        """The layers to leave out of an int4 cache, where that makes it fine."""
        return self.layers if isinstance(self.layers, Spared) and self.layers.helps else None

    @property
    def nothing_saves(self) -> bool:
        """Whether all that was tried is shown to save no more than the bound."""
        ends = (P0, MAPS, WRITERS)
        gains = [
            self.bench.saved(self.costs[name.removesuffix(end)], cost)
            for name, cost in self.costs.items()
            for end in ends
            if name.endswith(end)
        ]
        if PREFIX[0] in self.costs:
            gains.append(self.bench.saved(self.costs[TENSOR], self.costs[PREFIX[0]]))
        if isinstance(self.layers, Spared):
            gains.append(self.layers.bench.saved(self.layers.plain, self.layers.without))
        return all(gain.high is not None and gain.high <= self.bench.within for gain in gains)


def tried(bench: Bench, weights: dict[str, Cost]) -> Found:
    """Every scheme, and what might help one that is not fine; of weights, with their writers."""
    seen = outliers(bench)
    names = tuple(one["module"] for one in seen)
    costs = bench.cost({**{name: make(()) for name, make in SCHEMES.items()}, **PARTS}) | weights
    dear = [name for name in (*SCHEMES, *NAMES.values()) if not fine(bench, costs, name)]
    edits: dict[str, Edit] = {
        name + end: SCHEMES[name]((at,))
        for name in dear
        if name in SCHEMES
        for end, at in ((P0, 0), (CONTROL, OTHER))
    }
    costs |= bench.cost(edits | maps_left_alone(bench, dear, names))
    if TENSOR in dear and bench.prompts.bos != "with":
        costs |= prefixed(bench)
    layers = left_alone(bench, INT4, CACHES[INT4](())) if INT4 in dear else ""
    return Found(bench, costs, seen, layers)


def fine(bench: Bench, costs: dict[str, Cost], name: str) -> bool:
    """Whether a scheme is shown to cost no more than the bound, or was not tried."""
    return name not in costs or bench.affordable(costs[name]) is True
