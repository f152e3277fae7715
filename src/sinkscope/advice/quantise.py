"""What rounding costs, and what position zero has to do with it.

Everything is simulated in the model's own dtype (`intervene.rounding`): activations of all linear
maps in int8 with one scale for all tokens, for each channel or for each token; keys and values in
int8 and int4; weights of single maps in int4. Each stands beside the same with position zero kept
in full precision, and beside a control that keeps another position.
"""

from __future__ import annotations

from sinkscope.advice.bench import OTHER, Bench
from sinkscope.advice.kernels import beside
from sinkscope.advice.lines import lines, without
from sinkscope.advice.module_lines import lines_that_ignore
from sinkscope.advice.outliers import outliers
from sinkscope.intervene.edits import Edit, RoundCache, RoundInputs
from sinkscope.mixing.dose import Cost
from sinkscope.schema.advise import Advice, AdviceLine, Outlier
from sinkscope.stats import at_most

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
    costs |= bench.cost(_protected(bench, costs, names))
    real, why = beside(bench)
    costs |= real
    facts = {short: _within(bench, costs[name]) for short, name in FACTS.items()}
    return Advice(
        question=QUESTION,
        answer=_answer(bench, costs),
        sentence=_sentence(bench, costs, found),
        value=bench.mean(costs[TENSOR].ce),
        facts={**facts, "p0-outlier": "yes" if any(o["position"] == 0 for o in found) else "no"},
        rows=[
            bench.row(name, cost, control=name.endswith(CONTROL)) for name, cost in costs.items()
        ],
        lines=[*_cache_lines(bench, costs), *_module_lines(bench, names, costs)],
        without=without("skip_layers"),
        outliers=found,
        limits="Simulated by rounding in the model's own dtype with scales from the text itself; "
        f"an engine that calibrates its scales elsewhere, or sums in another order, differs. {why}",
    )


TENSOR = "int8 activations, a scale a tensor"
WITHOUT = "int8 activations, a scale a tensor, these maps left alone"
FACTS = {
    "int8-tensor": TENSOR,
    "int8-channel": "int8 activations, a scale a channel",
    "int8-token": "int8 activations, a scale a token",
    "int8-cache": "int8 cache, a scale a token and head",
    "int4-cache": "int4 cache, a scale a token and head",
}


def _protected(bench: Bench, costs: dict[str, Cost], names: tuple[str, ...]) -> dict[str, Edit]:
    """What might help a scheme that is not fine as it is: P0, a control, the maps left alone."""
    edits: dict[str, Edit] = {}
    for name, make in SCHEMES.items():
        if _within(bench, costs[name]) != "fine":
            edits |= {name + P0: make((0,)), name + CONTROL: make((OTHER,))}
    if names and _within(bench, costs[TENSOR]) != "fine":
        edits[WITHOUT] = RoundInputs(8, "tensor", without=names)
    return edits


def _within(bench: Bench, cost: Cost) -> str | None:
    """fine, costly, or None where the interval lies across the bound."""
    return {True: "fine", False: "costly", None: None}[at_most(bench.mean(cost.ce), bench.within)]


def helps(bench: Bench, costs: dict[str, Cost], name: str) -> bool:
    """Whether P0 in full precision saves more than `within`, and more than the control does."""
    if name + P0 not in costs:
        return False
    gain = bench.saved(costs[name], costs[name + P0])
    other = bench.saved(costs[name], costs[name + CONTROL])
    clear = gain.low is not None and gain.low > bench.within
    return clear and other.high is not None and (gain.low or 0.0) > other.high


def _answer(bench: Bench, costs: dict[str, Cost]) -> str:
    kept = [name for name in SCHEMES if helps(bench, costs, name)]
    if kept:
        return "position zero"
    return "nothing" if _within(bench, costs[TENSOR]) == "fine" else "not position zero"


def _sentence(bench: Bench, costs: dict[str, Cost], found: list[Outlier]) -> str:
    parts = []
    for name in SCHEMES:
        if helps(bench, costs, name):
            alone, kept = (bench.mean(costs[name + end].ce).value for end in ("", P0))
            parts.append(f"{name}: {alone:.3f} nats a token, {kept:.3f} with position 0 exact")
    if parts:
        return f"Keep position zero in full precision. {'; '.join(parts)}."
    plain = bench.mean(costs[TENSOR].ce)
    where = (
        f"{len(found)} linear maps are given outliers" if found else "no map is given an outlier"
    )
    return (
        f"Keeping position zero exact saves nothing beyond {bench.within:g} nats a token: int8 "
        f"activations with one scale cost {plain.value:.3f}, and {where}."
    )


def _cache_lines(bench: Bench, costs: dict[str, Cost]) -> list[AdviceLine]:
    """The smallest cache that is fine; quanto, the backend of transformers, has no 8 bits."""
    if _within(bench, costs[FACTS["int4-cache"]]) == "fine":
        return lines(
            "cache_bits", vllm="int4_per_token_head", k="q4_0", v="q4_0", bits=4, backend="quanto"
        )
    if _within(bench, costs[FACTS["int8-cache"]]) == "fine":
        return lines(
            "cache_bits", vllm="int8_per_token_head", k="q8_0", v="q8_0", bits=8, backend="hqq"
        )
    return []


def _module_lines(bench: Bench, names: tuple[str, ...], costs: dict[str, Cost]) -> list[AdviceLine]:
    """Lines that leave the maps with outliers alone, where that was seen to help."""
    if WITHOUT not in costs:
        return []
    gain = bench.saved(costs[TENSOR], costs[WITHOUT])
    return lines_that_ignore(names) if gain.low is not None and gain.low > bench.within else []
