"""What could be done about a sink, each tried as an edit: before and after.

Nothing here is trained: a cost says what the model as it is loses, not what one trained otherwise
would lose.
"""

from __future__ import annotations

from sinkscope.advice.bench import OTHER, Bench, on_enough_text
from sinkscope.intervene.edits import RemoveAttention, RemoveValue
from sinkscope.mixing.dropped import text_loss
from sinkscope.schema.advise import Advice
from sinkscope.stats import judged

QUESTION = "What could be done about it?"
ELSEWHERE = {
    "learned": "Its sink is a learned logit",
    "tokens": "Its sink is on tokens wherever they stand",
    "positions": "Its sink is at other positions",
}
ANSWERS = {
    "used": "keep it",
    "free": "not needed",
    "harmful": "better without it",
    None: "undetermined",
}


@on_enough_text(QUESTION)
def advise_remedies(bench: Bench) -> Advice:
    """Which way of taking the sink away costs nothing."""
    if not bench.scan.p0_sink:
        return Advice(
            question=QUESTION,
            answer="does not apply",
            sentence=f"{ELSEWHERE.get(bench.scan.sink['kind'], 'It has no sink')}; what is tried "
            "here acts on position zero alone.",
            facts={"sink-used": "no-sink"},
        )
    heads = bench.sink_heads
    tried = {
        "attention on position 0 removed and shared out": RemoveAttention(heads=heads),
        "half of it removed": RemoveAttention(dose=0.5, heads=heads),
        "the value of position 0 removed, the attention left": RemoveValue(heads=heads),
        f"attention on position {OTHER} removed and shared out": RemoveAttention(
            position=OTHER, heads=heads
        ),
    }
    costs = bench.cost(tried)
    changes = {name: bench.mean(cost.ce) for name, cost in costs.items()}
    before = float(text_loss(bench.subject, bench.prompts, 2).mean())
    free = [
        name for name in list(tried)[:3] if judged(changes[name], bench.within) in ("same", "less")
    ]
    whole = changes[next(iter(tried))]
    used = judged(whole, bench.within)
    word = {"more": "used", "same": "free", "less": "harmful", "unclear": None}[used]
    if free:
        said = f"These cost nothing beyond {bench.within:g} nats a token: {'; '.join(free)}."
    else:
        said = "None of these is free: keep the sink, and protect it where tools allow."
    return Advice(
        question=QUESTION,
        answer=ANSWERS[word],
        sentence="Without attention on position zero in the sink heads the loss goes from "
        f"{before:.3f} to {before + (whole.value or 0.0):.3f} nats a token. {said}",
        value=whole,
        facts={"sink-used": word},
        rows=[bench.row(name, cost, control=str(OTHER) in name) for name, cost in costs.items()],
        limits=f"In the {len(heads)} sink heads, as `mix` has it. A model trained without a sink "
        "(gated attention, a learned sink, "
        "another softmax) is another model: this says nothing of it.",
    )  # fmt: skip
