"""Heads that do nothing: by what they read, and by what taking them out costs.

A head is idle by evidence if it puts nearly all its late attention on position zero and finds
almost no value there (an adaptive no-op, `detect.heads`). Then they are switched off, all at once,
beside as many heads that do not sink.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from sinkscope.advice.bench import Bench, on_enough_text, three
from sinkscope.detect.heads import NO_OP, NOT_A_SINK
from sinkscope.errors import Unsupported
from sinkscope.intervene.edits import Edit, Heads
from sinkscope.mixing.dose import Cost
from sinkscope.observe.sites import find_sites
from sinkscope.schema.advise import Advice, AdviceRow
from sinkscope.stats import at_most, bootstrap, nan_mean
from sinkscope.subject.tokens import token_text

QUESTION = "Which heads do nothing?"
IDLE = 0.9  # late share of P0
DOCUMENTS = 12  # that have a row each
SHOWN = 4  # tokens a document is called by


@on_enough_text(QUESTION)
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
    idle_here = at_most(change, bench.within)
    what = {
        True: "are not needed on this text",
        False: "look idle, but are used",
        None: "look idle; these texts cannot say whether they are used",
    }[idle_here]
    texts = by_document(bench, costs[0])
    worst = max(texts, key=lambda row: row["ce_change"].value or 0.0)
    return Advice(
        question=QUESTION,
        answer={True: f"{len(idle)} heads", False: "none", None: "undetermined"}[idle_here],
        sentence=f"{len(idle)} heads {what}: switched off together they change the loss by "
        f"{three(change.value, '+')} nats a token, by {three(worst['ce_change'].value, '+')} on "
        f"{worst['what'].partition(': ')[2]}, where they are missed most.",
        value=change,
        facts={"idle-heads": {True: float(len(idle)), False: 0.0, None: None}[idle_here]},
        rows=[
            *(bench.row(name, cost, control="other" in name) for name, cost in zip(asked, costs)),
            *(texts if len(texts) <= DOCUMENTS else []),
        ],
        heads=[{"block": b, "head": h, "mass": share} for b, h, share in _shares(bench, idle)],
        limits="On the texts of this run; a head can be idle on prose and busy in code.",
    )  # fmt: skip


def by_document(bench: Bench, cost: Cost) -> list[AdviceRow]:
    """A row for each document of the text: its domain, with an interval over its windows."""
    units = bench.units
    if units is None:
        units = np.arange(len(bench.prompts))
    rows: list[AdviceRow] = []
    for unit in np.unique(units):
        texts = np.flatnonzero(units == unit)
        ids = bench.prompts.input_ids[int(texts[0])].tolist()
        start = 1 if bench.prompts.bos == "with" else 0
        words = "".join(token_text(bench.subject.tokenizer, i) for i in ids[start : start + SHOWN])
        rows.append(
            {
                "what": f"idle heads off: document {unit} ({words.strip()!r} ..)",
                "ce_change": bootstrap(cost.ce[texts]),
                "kl": bootstrap(cost.kl[texts]),
                "control": False,
            }
        )
    return rows


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
    late = nan_mean(data["p0_late"].to_numpy(), 0)
    idle = np.argwhere((kind == NO_OP) & (late >= IDLE))
    others = np.argwhere(kind == NOT_A_SINK)
    return (
        [(int(blocks[layer]), int(head)) for layer, head in idle],
        [(int(blocks[layer]), int(head)) for layer, head in others],
    )


def _shares(bench: Bench, heads: list[tuple[int, int]]) -> list[tuple[int, int, float]]:
    blocks = bench.scan_data["block"].to_numpy().tolist()
    late = nan_mean(bench.scan_data["p0_late"].to_numpy(), 0)
    return [(b, h, float(late[blocks.index(b), h])) for b, h in heads]
