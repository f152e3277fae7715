"""What weights of few bits cost, and whether those that write position zero matter more."""

from __future__ import annotations

from sinkscope.advice.bench import Bench
from sinkscope.advice.writers import STANDS_OUT, Writers, norm_writers, where_p0_stands_out
from sinkscope.errors import Unsupported
from sinkscope.intervene.edits import RoundWeights
from sinkscope.intervene.edits.rounding import linear_maps
from sinkscope.mixing.dose import Cost
from sinkscope.observe.sites import find_sites

BITS = {"int8": 8, "int4": 4}
NAMES = {each: f"{each} weights, a scale an output" for each in BITS}
WRITERS, OTHERS = ", those of the writers of position zero exact", ", as many others exact"


def rounded_weights(bench: Bench) -> tuple[dict[str, Cost], str]:
    """What int8 and int4 weights cost, with those of P0's writers exact, and of as many others.

    Returns the costs, named by NAMES and the ends WRITERS and OTHERS, and why the writers were not
    tried, if so.
    """
    if bench.no_copy or not linear_maps(bench.subject):
        return {}, f"Weights were not rounded: {bench.no_copy or 'no linear map holds them'}."
    costs = bench.cost({NAMES[each]: RoundWeights(bits) for each, bits in BITS.items()})
    point, ratio = where_p0_stands_out(bench)
    if ratio < STANDS_OUT:
        return costs, "Position zero does not stand out, so no weights write it."
    try:
        sites = find_sites(bench.subject, bench.prompts)
        writers = norm_writers(bench, sites, point)
    except Unsupported as error:
        return costs, f"The neurons that write position zero were not found: {error}"
    for each, bits in BITS.items():
        if bench.affordable(costs[NAMES[each]]) is not True:
            costs |= bench.cost(_protected(bench, writers, NAMES[each], bits), sites=sites)
    return costs, ""


def _protected(bench: Bench, writers: Writers, name: str, bits: int) -> dict[str, RoundWeights]:
    kept = ((WRITERS, writers.neurons), (OTHERS, writers.others(bench.settings.seed)))
    return {
        name + end: RoundWeights(bits, neurons=(writers.block, neurons)) for end, neurons in kept
    }
