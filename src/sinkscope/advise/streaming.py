"""How many first tokens must a sliding cache keep (Xiao et al., arXiv 2309.17453)?

Loss of the tokens behind the window with a cache that keeps 0, 1, 2, 4 or 8 first tokens, in two
windows. Every number is held against the cache of the same size that keeps eight: what a short
context itself costs is not the sink's matter.
"""

from __future__ import annotations

from sinkscope.advise.bench import FEWEST, Bench, at_most, row_of
from sinkscope.advise.cache_heads import streaming_heads
from sinkscope.advise.lines import lines, without
from sinkscope.errors import Unsupported
from sinkscope.intervene.edits import SlidingCache
from sinkscope.mixing.dose import Cost
from sinkscope.schema.advise import Advice, AdviceLine, AdviceRow
from sinkscope.stats import bootstrap, paired_change

QUESTION = "How many first tokens must a short cache keep?"
KEPT = (0, 1, 2, 4, 8)
PARTS = (2, 4)  # windows: a half and a quarter of the text
OPENVINO_BLOCK = 32
ANSWERS = {None: "undetermined", KEPT[-1]: f"{KEPT[-1]} or more"}


def advise_streaming(bench: Bench) -> Advice:
    """The smallest number of first tokens that costs no more than `within`."""
    length = int(bench.prompts.lengths.min())
    windows = sorted({length // part for part in PARTS})
    reason = _refusal(bench, length)
    if reason:
        return Advice(question=QUESTION, answer="does not apply", sentence=reason)
    try:
        costs = {window: _costs(bench, window) for window in windows}
    except Unsupported as error:
        return Advice(question=QUESTION, answer="does not apply", sentence=str(error))
    keep = smallest(costs, bench.within)
    found = Advice(
        question=QUESTION,
        answer=ANSWERS.get(keep, str(keep)),
        sentence=_sentence(bench, costs, keep),
        facts={"kv-keep": keep},
        rows=[row for window, each in costs.items() for row in _rows(window, each)],
        without=without("keep"),
        limits=f"Texts of {length} tokens, so the cache was full for {length - windows[0]} tokens "
        "at most; longer streams were not tried.",
    )
    if keep is not None:
        window = windows[-1]
        found.value = paired_change(costs[window][keep].ce, costs[window][KEPT[-1]].ce)
        # keeping the sink costs one token of the cache, and other texts may need it
        found.lines = _lines(max(keep, int(bench.scan.p0_sink)), window)
        found.heads, rows, about = streaming_heads(bench, max(keep, 1), windows[0])
        found.rows += rows
        found.limits += f" {about}"
    return found


def _refusal(bench: Bench, length: int) -> str:
    """Why the question cannot be asked here; empty where it can."""
    others = sorted({kind for kind in bench.layers if kind != "full"})
    if others:
        return (
            f"Not every layer keeps the whole text ({', '.join(others)} layers): a sliding cache "
            "of first and recent tokens is not how such a model is served."
        )
    if length < 4 * 2 * KEPT[-1]:
        return f"Texts of {length} tokens are too short for a window that slides."
    if len(bench.prompts) < FEWEST:
        return f"{len(bench.prompts)} texts are too few for an interval; {FEWEST} are needed."
    return ""


def _costs(bench: Bench, window: int) -> dict[int, Cost]:
    edits = {f"cache of {window} that keeps {k}": SlidingCache(window, k) for k in KEPT}
    return dict(zip(KEPT, bench.cost(edits, first=window).values(), strict=True))


def smallest(costs: dict[int, dict[int, Cost]], within: float) -> int | None:
    """The smallest kept number whose cost is within the bound in every window; None if unclear.

    It is unclear where a smaller number can neither be shown to do nor not to do.
    """
    for keep in KEPT:
        change = [paired_change(each[keep].ce, each[KEPT[-1]].ce) for each in costs.values()]
        verdicts = [at_most(one, within) for one in change]
        if all(verdicts):
            return keep
        if None in verdicts and False not in verdicts:
            return None
    return None


def _sentence(bench: Bench, costs: dict[int, dict[int, Cost]], keep: int | None) -> str:
    window = max(costs)
    bare = bootstrap(costs[window][0].ce)
    full = bootstrap(costs[window][KEPT[-1]].ce)
    facts = (
        f"at a window of {window}, keeping none costs {bare.value:.3f} nats a token against the "
        f"whole cache, keeping {KEPT[-1]} costs {full.value:.3f}"
    )
    if keep is None:
        return f"{len(bench.prompts)} texts cannot tell how many first tokens suffice: {facts}."
    what = "No first token has" if keep == 0 else f"The first {_tokens(keep)}"
    return f"{what} to stay: {facts}."


def _tokens(keep: int) -> str:
    return "token has" if keep == 1 else f"{keep} tokens have"


def _rows(window: int, costs: dict[int, Cost]) -> list[AdviceRow]:
    return [
        row_of(f"a cache of {window} that keeps {keep} first tokens", cost, control=keep == 0)
        for keep, cost in costs.items()
    ]


def _lines(keep: int, window: int) -> list[AdviceLine]:
    """Lines that keep the first tokens; none where nothing has to be kept."""
    if not keep:
        return []
    blocks = -(-keep // OPENVINO_BLOCK) * OPENVINO_BLOCK
    recent = max(OPENVINO_BLOCK, window // OPENVINO_BLOCK * OPENVINO_BLOCK)
    total = blocks + recent + OPENVINO_BLOCK
    return lines("keep", keep=keep, window=window, blocks=blocks, recent=recent, total=total)
