"""How many first tokens must a sliding cache keep (Xiao et al., arXiv 2309.17453)?

Loss of the tokens behind the window with a cache that keeps 0, 1, 2, 4 or 8 first tokens, in two
windows. Every number is held against the cache of the same size that keeps eight: what a short
context itself costs is not the sink's matter.
"""

from __future__ import annotations

import numpy as np

from sinkscope.advice.bench import Bench, told
from sinkscope.advice.cache_heads import streaming_heads
from sinkscope.advice.elsewhere import tokens_that_stay
from sinkscope.advice.lines import lines, without
from sinkscope.errors import Unsupported
from sinkscope.intervene.edits import SlidingCache
from sinkscope.mixing.dose import Cost
from sinkscope.schema import Measured
from sinkscope.schema.advise import Advice, AdviceLine, AdviceRow
from sinkscope.stats import at_most, bootstrap

QUESTION = "How many first tokens must a short cache keep?"
KEPT = (0, 1, 2, 4, 8)
PARTS = (2, 4)  # windows: a half and a quarter of the text
OPENVINO_BLOCK = 32
MLX_KEEPS = 4  # first tokens, fixed there


def advise_streaming(bench: Bench) -> Advice:
    """The smallest number of first tokens that costs no more than `within`."""
    length = int(bench.prompts.lengths.min())
    windows = sorted({length // part for part in PARTS})
    if bench.learned:
        return Advice(
            question=QUESTION,
            answer="no token",
            sentence="The sink of this model is a learned logit, not a token: there is none to "
            "keep. Serve it with a backend that knows learned sinks.",
            lines=lines("learned"),
        )
    others = sorted({kind for kind in bench.layers if kind != "full"})
    if others:
        return Advice(
            question=QUESTION,
            answer="does not apply",
            sentence=f"Not every layer keeps the whole text ({', '.join(others)} layers): a "
            "sliding cache of first and recent tokens is not how such a model is served.",
        )
    reason = _too_little(bench, length)
    if reason:
        return Advice(question=QUESTION, answer="undetermined", sentence=reason)
    try:
        costs = {window: _costs(bench, window) for window in windows}
    except Unsupported as error:
        return Advice(question=QUESTION, answer="does not apply", sentence=str(error))
    keep, sure = smallest(costs, bench.within, bench.units)
    found = Advice(
        question=QUESTION,
        answer=_answer(keep, sure),
        sentence=_sentence(bench, costs, keep, sure),
        value=_worst(bench, costs, min(keep, KEPT[-2]))[1],  # of the most against itself: none
        facts={"kv-keep": None if keep == KEPT[-1] and not sure else float(keep)},
        rows=[row for window, each in costs.items() for row in _rows(bench, window, each)],
        without=without("keep") if 0 < keep < KEPT[-1] else [],
        limits=f"Texts of {length} tokens, so the cache was full for {length - windows[0]} tokens "
        "at most; longer streams were not tried.",
    )
    stay, said, rows = tokens_that_stay(bench, windows[0], keep, costs[windows[0]][keep])
    found.rows += rows
    found.facts["keep-tokens"] = stay
    found.sentence = f"{found.sentence} {said}".strip()
    if keep < KEPT[-1]:
        found.lines = lines_that_keep(keep, windows[-1], bench.subject.anatomy.model_type)
        found.heads, rows, about = streaming_heads(bench, max(keep, 1), windows[0])
        found.rows += rows
        found.limits += f" {about}"
    return found


def _too_little(bench: Bench, length: int) -> str:
    """Why these texts are not enough for an answer; empty where they are."""
    if length < 4 * 2 * KEPT[-1]:
        return f"Texts of {length} tokens are too short for a window that slides."
    return bench.too_little


def _costs(bench: Bench, window: int) -> dict[int, Cost]:
    edits = {f"cache of {window} that keeps {k}": SlidingCache(window, k) for k in KEPT}
    return dict(zip(KEPT, bench.cost(edits, first=window).values(), strict=True))


def smallest(
    costs: dict[int, dict[int, Cost]], within: float, units: np.ndarray | None = None
) -> tuple[int, bool]:
    """The smallest kept number that is shown to do in every window, and whether fewer will not.

    costs  window -> kept number -> cost, the largest kept number among them
    units  [n] the document of each text, over which intervals are taken
    """
    unclear = False
    for keep in KEPT:
        change = [
            bootstrap(each[keep].ce - each[KEPT[-1]].ce, units=units) for each in costs.values()
        ]
        verdicts = [at_most(one, within) for one in change]
        if all(verdicts):
            return keep, not unclear
        unclear = unclear or False not in verdicts
    return KEPT[-1], not unclear


def _answer(keep: int, sure: bool) -> str:
    if keep == KEPT[-1]:
        return f"{keep} or more" if sure else "undetermined"
    return str(keep) if sure else f"at most {keep}"


def _sentence(bench: Bench, costs: dict[int, dict[int, Cost]], keep: int, sure: bool) -> str:
    """The answer, beside what it costs to keep none, the next fewer, and that many."""
    below = KEPT[max(KEPT.index(keep) - 1, 0)]
    parts = []
    for each in sorted({0, below, keep} - {KEPT[-1]}):
        window, change = _worst(bench, costs, each)
        parts.append(
            f"keeping {each or 'none'} changes the loss by {told(change)} at a window of {window}"
        )
    facts = (
        f"against keeping {KEPT[-1]}, {', '.join(parts)}, the worst tried; {bench.within:g} is "
        "accepted"
    )
    if keep == KEPT[-1] and not sure:
        return f"{bench.texts} cannot tell how many first tokens suffice: {facts}."
    if keep == 0:
        return f"No first token has to stay, so there is nothing to set: {facts}."
    fewer = "" if sure else f" Whether fewer are, {bench.texts.lower()} cannot tell."
    what = f"The first {_tokens(keep)} to stay" if sure else _enough(keep)
    return f"{what}: {facts}.{fewer}"


def _worst(bench: Bench, costs: dict[int, dict[int, Cost]], keep: int) -> tuple[int, Measured]:
    """The window in which keeping so few does worst, and what it costs there against the most.

    By the upper end of the interval, as `smallest` decides; by the value where there is none.
    """
    changes = {w: bench.saved(each[keep], each[KEPT[-1]]) for w, each in costs.items()}
    return max(changes.items(), key=lambda item: _upper(item[1]))


def _upper(change: Measured) -> float:
    return change.value or 0.0 if change.high is None else change.high


def _enough(keep: int) -> str:
    return "One first token is enough" if keep == 1 else f"{keep} first tokens are enough"


def _tokens(keep: int) -> str:
    return "token has" if keep == 1 else f"{keep} tokens have"


def _rows(bench: Bench, window: int, costs: dict[int, Cost]) -> list[AdviceRow]:
    return [
        bench.row(f"a cache of {window} that keeps {keep} first tokens", cost, control=keep == 0)
        for keep, cost in costs.items()
    ]


def lines_that_keep(keep: int, window: int, family: str) -> list[AdviceLine]:
    """Lines that keep the first tokens; none where nothing has to be kept.

    family  the model type; one tool knows a single one
    """
    if not keep:
        return []
    blocks = -(-keep // OPENVINO_BLOCK) * OPENVINO_BLOCK
    recent = max(OPENVINO_BLOCK, window // OPENVINO_BLOCK * OPENVINO_BLOCK)
    total = blocks + recent + OPENVINO_BLOCK
    values = {"keep": keep, "window": window, "blocks": blocks, "recent": recent, "total": total}
    if keep <= MLX_KEEPS:
        values["mlx"] = window
    if family == "mistral":
        values["mlc"] = window
    return lines("keep", **values)
