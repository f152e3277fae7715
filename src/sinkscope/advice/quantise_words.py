"""What is said of quantisation: an answer, and a sentence that follows from the costs."""

from __future__ import annotations

from sinkscope.advice.bench import Bench, in_nats, three
from sinkscope.advice.maps import MAPS, TENSOR, TOKEN
from sinkscope.advice.prefix import PREFIX
from sinkscope.advice.schemes import CACHE_BITS, CHANNEL, FACTS, P0, PARTS, Found
from sinkscope.advice.weights import NAMES, WRITERS
from sinkscope.mixing.dose import Cost
from sinkscope.stats import judged


def answer_of(found: Found) -> str:
    """What has to be kept in full precision."""
    kept = kept_by(found)
    if kept:
        return " and ".join(filter(None, [", ".join(kept[:-1]), kept[-1]]))
    if found.bench.learned:
        return "no token"
    if all(found.fine(name) for name in FACTS.values() if name in found.costs):
        return "nothing"
    return "nothing that was tried" if found.nothing_saves else "undetermined"


def kept_by(found: Found) -> list[str]:
    """The parts that clearly help some scheme when they are kept in full precision."""
    count = len(found.maps)
    parts = {
        "position zero": bool(found.position) and not found.bench.learned,
        "one linear map" if count == 1 else f"{count} linear maps": bool(found.by_maps),
        "some layers' KV cache": found.spared is not None,
        "the weights that write position zero": bool(found.writers),
        "a token put before every text": found.prefix,
    }
    return [name for name, helps in parts.items() if helps]


def sentence_of(found: Found) -> str:
    """The answer, what every scheme costs, and what was seen to help."""
    learned = _of_learned(found.bench, found.costs) if found.bench.learned else ""
    return " ".join(filter(None, [_lead(found), learned, _schemes(found), *_helped(found)]))


def _lead(found: Found) -> str:
    bound = f"{found.bench.within:g} nats a token"
    answer = answer_of(found)
    return {
        "no token": "",  # said with its reason
        "nothing": f"Nothing has to be kept in full precision within {bound}.",
        "nothing that was tried": "Nothing that was tried in full precision saves more than "
        f"{bound}.",
        "undetermined": f"{found.bench.texts} cannot say what has to be kept in full precision.",
    }.get(answer, f"Keep {answer} in full precision.")


def _schemes(found: Found) -> str:
    """What each scheme costs, and whether that is fine."""
    called = {
        TENSOR: "int8 activations with one scale",
        CHANNEL: "with a scale a channel",
        TOKEN: "with a scale a token",
        **{name: f"{bits} weights" for bits, name in NAMES.items()},
        **{name: f"an int{bits} KV cache" for bits, name in CACHE_BITS.items()},
    }
    word = {True: "fine", False: "costly", None: "undetermined"}
    parts = [
        f"{about} {in_nats(found.bench.mean(cost.ce))}, {word[found.fine(name)]}"
        for name, about in called.items()
        if (cost := found.costs.get(name)) is not None
    ]
    rest = ""
    if found.covered < 1:
        rest = (
            f" Activations and weights were rounded in maps with {found.covered:.0%} of the "
            "weights of the blocks; the others, such as those of experts, stayed exact."
        )
    return f"Rise of the loss, in nats a token: {'; '.join(parts)}.{rest}"


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


def _helped(found: Found) -> list[str]:
    """A sentence on each part that helps: each scheme without it and with it."""
    costs, said = found.costs, []
    left = {True: "fine", False: "still costly", None: "perhaps still costly"}

    def change(before: Cost, after: Cost) -> str:
        return f"{nats(before)} becomes {nats(after)}, {left[found.bench.affordable(after)]}"

    def changes(schemes: list[str], end: str) -> str:
        return "; ".join(f"{name}, {change(costs[name], costs[name + end])}" for name in schemes)

    if found.position and not found.bench.learned:
        said.append(
            f"With position zero exact: {changes(found.position, P0)}. No tool listed here keeps a "
            "single position so."
        )
    if found.by_maps:
        said.append(f"With the maps that outliers reach exact: {changes(found.by_maps, MAPS)}.")
    if found.spared:
        one = found.spared
        said.append(
            f"With the cache of blocks {', '.join(map(str, one.layers))} exact, int4 costs "
            f"{nats(one.without)} instead of {nats(one.plain)}, on other texts than those by which "
            "the blocks were chosen."
        )
    if found.writers:
        said.append(f"With the weights of P0's writers exact: {changes(found.writers, WRITERS)}.")
    if found.prefix:
        said.append(
            f"With a token put before every text and kept exact: {TENSOR}, "
            f"{change(costs[TENSOR], costs[PREFIX[0]])}."
        )
    return said


def nats(cost: Cost) -> str:
    """Mean rise of the loss."""
    return three(float(cost.ce.mean()))
