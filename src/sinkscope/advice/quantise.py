"""What rounding costs, and what position zero has to do with it.

Everything is simulated in the model's own dtype (`intervene.rounding`): activations of all linear
maps in int8 with one scale for all tokens, for each channel or for each token; keys and values in
int8 and int4; weights of single maps in int4. Each stands beside the same with position zero kept
in full precision, and beside a control that keeps another position. Where an int4 cache costs too
much, it is tried without the layers that it hurts most.
"""

from __future__ import annotations

from sinkscope.advice.bench import OTHER, Bench, three, told
from sinkscope.advice.cache_layers import DRAWN, LEFT, left_alone
from sinkscope.advice.kernels import beside
from sinkscope.advice.lines import lines, without
from sinkscope.advice.module_lines import lines_that_ignore
from sinkscope.advice.outliers import outliers
from sinkscope.advice.prefix import PREFIX, prefixed
from sinkscope.advice.weights import NAMES, OTHERS, WRITERS, rounded_weights
from sinkscope.intervene.edits import Edit, RoundCache, RoundInputs
from sinkscope.mixing.dose import Cost
from sinkscope.schema.advise import Advice, AdviceLine, Outlier
from sinkscope.stats import judged

QUESTION = "What must quantisation leave alone?"
# scheme -> the edit with these positions in full precision
ACTIVATIONS = {
    "int8 activations, a scale a tensor": lambda exact: RoundInputs(8, "tensor", exact),
    "int8 activations, a scale a channel": lambda exact: RoundInputs(8, "channel", exact),
    "int8 activations, a scale a token": lambda exact: RoundInputs(8, "token", exact),
}
CACHES = {
    "int8 cache, a scale a token and head": lambda exact: RoundCache(8, "both", "token", exact),
    "int4 cache, a scale a token and head": lambda exact: RoundCache(4, "both", "token", exact),
    "int4 cache, a scale a channel": lambda exact: RoundCache(4, "both", "channel", exact),
}
PARTS = {
    "int4 keys alone, a scale a token": RoundCache(4, "key"),
    "int4 values alone, a scale a token": RoundCache(4, "value"),
}
SCHEMES = ACTIVATIONS | CACHES
P0, CONTROL = ", position 0 exact", f", position {OTHER} exact"


def advise_quantisation(bench: Bench) -> Advice:
    """What int8 and int4 cost, what keeping P0 saves, and which maps to leave alone."""
    if bench.too_little:
        return Advice(question=QUESTION, answer="undetermined", sentence=bench.too_little)
    found = outliers(bench)
    costs = bench.cost({**{name: make(()) for name, make in SCHEMES.items()}, **PARTS})
    names = tuple(one["module"] for one in found)
    costs |= _protected(bench, costs, names)
    weights, no_writers = rounded_weights(bench)
    real, no_kernel = beside(bench)
    layers: list[int] = []
    if not bench.affordable(costs[INT4]):
        layers, spared = left_alone(bench, INT4, CACHES[INT4](()))
        costs |= spared
    costs |= weights | real
    facts = {short: _word(bench, costs[name]) for short, name in FACTS.items() if name in costs}
    return Advice(
        question=QUESTION,
        answer=_answer(bench, costs),
        sentence=_sentence(bench, costs, found),
        value=bench.mean(costs[TENSOR].ce),
        facts={
            **facts,
            "p0-outlier": "yes" if any(o["position"] == 0 for o in found) else "no",
            "prefix": _shown(costs, prefix_helps(bench, costs), PREFIX[0]),
            "writers-exact": _shown(costs, bool(writers_help(bench, costs)), WRITERS),
            "skip-layers": _shown(costs, layers_help(bench, costs), LEFT),
        },
        rows=[
            bench.row(name, cost, control=name.endswith(CONTROLS)) for name, cost in costs.items()
        ],
        lines=[*_cache_lines(bench, costs, layers), *_module_lines(bench, names, costs)],
        without=[*without("cache_bits"), *without("skip_layers")],
        outliers=found,
        limits="Simulated by rounding in the model's own dtype with scales from the text itself; "
        "an engine that calibrates its scales elsewhere, or sums in another order, differs. "
        f"{no_writers} {no_kernel}".strip(),
    )


INT4 = "int4 cache, a scale a token and head"
TENSOR = "int8 activations, a scale a tensor"
WITHOUT = "int8 activations, a scale a tensor, these maps left alone"
FACTS = {
    "int8-tensor": TENSOR,
    "int8-channel": "int8 activations, a scale a channel",
    "int8-token": "int8 activations, a scale a token",
    "int8-cache": "int8 cache, a scale a token and head",
    "int4-cache": INT4,
    "int8-weights": NAMES["int8"],
    "int4-weights": NAMES["int4"],
}
CACHE_BITS = {4: INT4, 8: FACTS["int8-cache"]}  # the fewest first
CONTROLS = (CONTROL, OTHERS, DRAWN, *PREFIX[1:])


def _protected(bench: Bench, costs: dict[str, Cost], names: tuple[str, ...]) -> dict[str, Cost]:
    """What might help a scheme that is not fine: P0, a control, a prefix, the maps left alone."""
    edits: dict[str, Edit] = {}
    for name, make in SCHEMES.items():
        if not bench.affordable(costs[name]):
            edits |= {name + P0: make((0,)), name + CONTROL: make((OTHER,))}
    if bench.affordable(costs[TENSOR]):
        return bench.cost(edits)
    if names:
        edits[WITHOUT] = RoundInputs(8, "tensor", without=names)
    return bench.cost(edits) | (prefixed(bench) if bench.prompts.bos != "with" else {})


def _word(bench: Bench, cost: Cost) -> str | None:
    """fine, costly, or None where the interval lies across the bound."""
    return {True: "fine", False: "costly", None: None}[bench.affordable(cost)]


def _shown(costs: dict[str, Cost], helped: bool, tried: str) -> str:
    if not any(name.endswith(tried) for name in costs):
        return "not-tried"
    return "helps" if helped else "not-shown"


def p0_helps(bench: Bench, costs: dict[str, Cost]) -> list[str]:
    """The schemes in which P0 in full precision clearly saves something."""
    tried = [name for name in SCHEMES if name + P0 in costs]
    return [n for n in tried if bench.helps(costs[n], costs[n + P0], costs[n + CONTROL])]


def p0_saves_nothing(bench: Bench, costs: dict[str, Cost]) -> bool:
    """Whether every scheme is fine as it is, or saves no more than the bound with P0 exact."""
    gains = [bench.saved(costs[n], costs[n + P0]) for n in SCHEMES if n + P0 in costs]
    return all(gain.high is not None and gain.high <= bench.within for gain in gains)


def prefix_helps(bench: Bench, costs: dict[str, Cost]) -> bool:
    """Whether a token put first and kept exact does."""
    exact, inexact, _ = PREFIX
    return exact in costs and bench.helps(costs[TENSOR], costs[exact], costs[inexact])


def writers_help(bench: Bench, costs: dict[str, Cost]) -> list[str]:
    """The bits of weights at which those of P0's writers in full precision do."""
    tried = [name for name in NAMES.values() if name + WRITERS in costs]
    return [n for n in tried if bench.helps(costs[n], costs[n + WRITERS], costs[n + OTHERS])]


def layers_help(bench: Bench, costs: dict[str, Cost]) -> bool:
    """Whether an int4 cache is fine once the layers that it hurts most are left alone."""
    if INT4 + LEFT not in costs:
        return False
    spared = costs[INT4 + LEFT]
    helped = bench.helps(costs[INT4], spared, costs[INT4 + DRAWN])
    return helped and bench.affordable(spared) is True


def _answer(bench: Bench, costs: dict[str, Cost]) -> str:
    if bench.learned:
        return "no token"
    if p0_helps(bench, costs):
        return "position zero"
    if layers_help(bench, costs):
        return "some layers' KV cache"
    if bench.affordable(costs[TENSOR]):
        return "nothing"
    return "not position zero" if p0_saves_nothing(bench, costs) else "undetermined"


def _sentence(bench: Bench, costs: dict[str, Cost], found: list[Outlier]) -> str:
    def loss(name: str) -> str:
        return nats(costs[name])

    if bench.learned:
        return f"{_of_learned(bench, costs)} {_of_cache(bench, costs)}"
    kept = p0_helps(bench, costs)
    maps = {0: "no map is", 1: "one map is"}.get(len(found), f"{len(found)} maps are")
    activations = told(bench.mean(costs[TENSOR].ce))
    seen = f"with one scale they cost {activations}, and {maps} given outliers"
    if kept:
        parts = [f"{n}: {loss(n)} nats a token, {loss(n + P0)} with it exact" for n in kept]
        said = (
            f"Keep position zero in full precision. {'; '.join(parts)}. No tool listed here keeps "
            "a single position so."
        )
    elif bench.affordable(costs[TENSOR]):
        said = f"Int8 activations are fine within {bench.within:g} nats a token: {seen}."
    else:
        spared = (
            "saves nothing beyond" if p0_saves_nothing(bench, costs) else "is not shown to save"
        )
        said = (
            f"For int8 activations keeping position zero exact {spared} {bench.within:g} nats a "
            f"token: {seen}."
        )
    if maps_help(bench, costs):
        said += f" With those maps left alone they cost {loss(WITHOUT)}."
    said += f" {_of_cache(bench, costs)}"
    others = [name for name in FACTS.values() if name not in (TENSOR, *CACHE_BITS.values(), *kept)]
    costly = [
        f"{short} ({loss(name)})"
        for short, name in FACTS.items()
        if name in costs and name in others and bench.affordable(costs[name]) is False
    ]
    if costly:
        said += f" Costly here: {', '.join(costly)}."
    if prefix_helps(bench, costs):
        said += f" A token put before every text and kept exact leaves {loss(PREFIX[0])}."
    for name in writers_help(bench, costs):
        said += f" {name}: {loss(name)}, {loss(name + WRITERS)} with P0's writers exact."
    return said


def _of_learned(bench: Bench, costs: dict[str, Cost]) -> str:
    """For a learned sink: no token holds it, so what may be sensitive is the keys or the values."""
    keys, values = (costs[name] for name in PARTS)
    side = {
        "more": "keys are the sensitive part",
        "less": "values are the sensitive part",
        "same": f"neither is more sensitive by {bench.within:g}",
        "unclear": "which of them is more sensitive is open",
    }[judged(bench.mean(keys.ce - values.ce), bench.within)]
    return (
        "The sink is a learned logit, so there is no token to keep: int4 keys alone cost "
        f"{nats(keys)} nats a token, int4 values alone {nats(values)}; {side}."
    )


def _of_cache(bench: Bench, costs: dict[str, Cost]) -> str:
    """What a KV cache of few bits costs, and which of them is fine."""
    word = {True: "fine", False: "costly", None: "undetermined"}
    parts = [
        f"int{bits} costs {told(bench.mean(costs[name].ce))}, {word[bench.affordable(costs[name])]}"
        for bits, name in CACHE_BITS.items()
    ]
    left = ""
    if layers_help(bench, costs):
        left = f" With the layers it hurts most left alone int4 costs {nats(costs[INT4 + LEFT])}."
    return f"A KV cache in {'; in '.join(parts)}.{left}"


def nats(cost: Cost) -> str:
    """Mean rise of the loss."""
    return three(float(cost.ce.mean()))


def _cache_lines(bench: Bench, costs: dict[str, Cost], layers: list[int]) -> list[AdviceLine]:
    """The smallest cache that is fine, for the whole model and with layers left alone."""
    found: list[AdviceLine] = []
    if layers_help(bench, costs):
        numbers = " ".join(map(str, layers))
        found = lines("skip_layers", vllm="int4_per_token_head", layers=numbers)
    bits = next((each for each, name in CACHE_BITS.items() if bench.affordable(costs[name])), 0)
    if not bits:
        return found
    values = {"vllm": f"int{bits}_per_token_head", "k": f"q{bits}_0", "bits": bits}
    if set(bench.layers) == {"full"}:  # others are refused by transformers
        values["backend"] = "quanto" if bits == 4 else "hqq"  # quanto has no 8 bits
    return [*found, *lines("cache_bits", **values)]


def _module_lines(bench: Bench, names: tuple[str, ...], costs: dict[str, Cost]) -> list[AdviceLine]:
    """Lines that leave the maps with outliers alone, where that was seen to help."""
    return lines_that_ignore(names) if maps_help(bench, costs) else []


def maps_help(bench: Bench, costs: dict[str, Cost]) -> bool:
    """Whether int8 activations clearly cost less with the maps that have outliers left alone."""
    if WITHOUT not in costs:
        return False
    gain = bench.saved(costs[TENSOR], costs[WITHOUT])
    return gain.low is not None and gain.low > bench.within
