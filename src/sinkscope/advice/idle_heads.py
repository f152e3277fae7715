"""Heads that do nothing: by what they read, and by what taking them out costs.

A head is idle by evidence if it puts nearly all its late attention on position zero and finds
almost no value there (an adaptive no-op, `detect.heads`). Then they are switched off, all at once,
beside as many heads that do not sink.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from sinkscope.advice.bench import Bench
from sinkscope.detect.heads import NO_OP, NOT_A_SINK
from sinkscope.errors import Unsupported
from sinkscope.intervene.edits import Edit, Heads
from sinkscope.observe.sites import find_sites
from sinkscope.schema.advise import Advice
from sinkscope.stats import judged

QUESTION = "Which heads do nothing?"
IDLE = 0.9  # late share of P0


def advise_heads(bench: Bench) -> Advice:
    """How many heads are idle, and what switching them off costs."""
    idle, others = _by_evidence(bench)
    if not idle:
        return Advice(
            question=QUESTION,
            answer="none",
            sentence=f"No head puts {IDLE:.0%} of its late attention on position zero and finds "
            "next to nothing there.",
            facts={"idle-heads": 0.0},
        )
    rng = np.random.default_rng(bench.settings.seed)
    drawn = [others[i] for i in rng.permutation(len(others))[: len(idle)]]
    try:
        sites = find_sites(bench.subject, bench.prompts)
        asked = {f"{len(idle)} idle heads off": off(idle)}
        if drawn:
            asked[f"{len(drawn)} other heads off"] = off(drawn)
        costs = list(bench.cost(asked, sites=sites).values())
    except Unsupported as error:
        return Advice(question=QUESTION, answer="does not apply", sentence=str(error))
    change = bench.mean(costs[0].ce)
    enough = not bench.too_little
    verdict = judged(change, bench.within) if enough else "unclear"
    what = {
        "same": "do nothing on this text",
        "more": "look idle, but are used",
        "less": "look idle, and the loss falls without them",
        "unclear": "look idle; these texts cannot say whether they are used",
    }[verdict]
    worst = int(np.nanargmax(costs[0].ce))
    return Advice(
        question=QUESTION,
        answer=f"{len(idle)} heads" if verdict == "same" else "undetermined"
        if verdict == "unclear" else "none",
        sentence=f"{len(idle)} heads {what}: switched off together they change the loss by "
        f"{change.value:+.3f} nats a token, by {costs[0].ce[worst]:+.3f} on text {worst}, where it "
        "is most.",
        value=change,
        facts={"idle-heads": None if verdict == "unclear" else float(len(idle))
               if verdict == "same" else 0.0},
        rows=[bench.row(name, cost, control="other" in name) for name, cost in zip(asked, costs)],
        heads=[{"block": b, "head": h, "mass": share} for b, h, share in _shares(bench, idle)],
        limits="On the texts of this run; a head can be idle on prose and busy in code.",
    )  # fmt: skip


def off(heads: list[tuple[int, int]]) -> tuple[Edit, ...]:
    """The edits that switch heads off at every position."""
    by_block: dict[int, list[int]] = defaultdict(list)
    for block, head in sorted(heads):
        by_block[block].append(head)
    return tuple(Heads(block, tuple(each), position=None) for block, each in by_block.items())


def _by_evidence(bench: Bench) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Idle heads, and heads that do not sink: (block, head)."""
    data, blocks = bench.scan_data, bench.scan_data["block"].to_numpy()
    kind = data["head_class"].to_numpy()
    late = np.nanmean(data["p0_late"].to_numpy(), 0)
    idle = np.argwhere((kind == NO_OP) & (late >= IDLE))
    others = np.argwhere(kind == NOT_A_SINK)
    return (
        [(int(blocks[layer]), int(head)) for layer, head in idle],
        [(int(blocks[layer]), int(head)) for layer, head in others],
    )


def _shares(bench: Bench, heads: list[tuple[int, int]]) -> list[tuple[int, int, float]]:
    blocks = bench.scan_data["block"].to_numpy().tolist()
    late = np.nanmean(bench.scan_data["p0_late"].to_numpy(), 0)
    return [(b, h, float(late[blocks.index(b), h])) for b, h in heads]
