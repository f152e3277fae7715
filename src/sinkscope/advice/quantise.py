"""What rounding costs, which parts have to stay in full precision, and lines that keep them so."""

from __future__ import annotations

from sinkscope.advice.bench import Bench, on_enough_text
from sinkscope.advice.cache_layers import Spared
from sinkscope.advice.kernels import beside
from sinkscope.advice.lines import lines, without
from sinkscope.advice.maps import MAPS, TENSOR, lines_that_ignore
from sinkscope.advice.prefix import PREFIX
from sinkscope.advice.quantise_words import answer_of, sentence_of
from sinkscope.advice.schemes import CACHE_BITS, CONTROLS, FACTS, Found, fine, tried
from sinkscope.advice.weights import WRITERS, rounded_weights
from sinkscope.schema.advise import Advice, AdviceLine

QUESTION = "What must quantisation leave alone?"


@on_enough_text(QUESTION)
def advise_quantisation(bench: Bench) -> Advice:
    """What int8 and int4 cost, what keeping P0 saves, and which maps to leave alone."""
    weights, no_writers = rounded_weights(bench)
    real, no_kernel = beside(bench)
    found = tried(bench, weights)
    costs = found.costs | real
    spared = found.layers if isinstance(found.layers, Spared) else None
    no_layers = ""
    if found.layers and not spared:
        no_layers = f"Layers to leave out of an int4 cache were not looked for: {found.layers}."
    return Advice(
        question=QUESTION,
        answer=answer_of(found),
        sentence=sentence_of(found),
        value=bench.mean(costs[TENSOR].ce),
        facts=_facts(found),
        rows=[
            *(bench.row(n, cost, control=n.endswith(CONTROLS)) for n, cost in costs.items()),
            *(spared.rows if spared else []),
        ],
        lines=[*_cache_lines(found), *lines_that_ignore(found.maps, found.by_maps)],
        without=[*without("cache_bits"), *(without("skip_layers") if found.spared else [])],
        outliers=found.outliers,
        limits="Simulated by rounding in the model's own dtype with scales from the text itself; "
        "an engine that calibrates its scales elsewhere, or sums in another order, differs. No "
        "format of floating point, such as fp8, was tried. "
        + " ".join(filter(None, [no_writers, no_kernel, no_layers])),
    )


def _facts(found: Found) -> dict[str, str | float | None]:
    words: dict[bool | None, str | None] = {True: "fine", False: "costly", None: None}
    costs = found.costs

    def shown(helped: bool, tried: bool) -> str:
        return "not-tried" if not tried else "helps" if helped else "not-shown"

    return {
        **{short: words[found.fine(name)] for short, name in FACTS.items() if name in costs},
        "p0-outlier": "yes" if any(one["position"] == 0 for one in found.outliers) else "no",
        "prefix": shown(found.prefix, PREFIX[0] in costs),
        "writers-exact": shown(bool(found.writers), any(n.endswith(WRITERS) for n in costs)),
        "maps-exact": shown(bool(found.by_maps), any(n.endswith(MAPS) for n in costs)),
        "skip-layers": shown(found.spared is not None, isinstance(found.layers, Spared)),
    }


def _cache_lines(found: Found) -> list[AdviceLine]:
    """The smallest cache that is fine, for the whole model and with layers left alone."""
    bench = found.bench
    told: list[AdviceLine] = []
    if found.spared:
        numbers = " ".join(map(str, found.spared.layers))
        told = lines("skip_layers", vllm="int4_per_token_head", layers=numbers)
    small = (each for each, name in CACHE_BITS.items() if fine(bench, found.costs, name))
    bits = next(small, 0)
    if not bits:
        return told
    values = {"vllm": f"int{bits}_per_token_head", "k": f"q{bits}_0", "bits": bits}
    if set(bench.layers) == {"full"}:  # others are refused by transformers
        values["backend"] = "quanto" if bits == 4 else "hqq"  # quanto has no 8 bits
    return [*told, *lines("cache_bits", **values)]
