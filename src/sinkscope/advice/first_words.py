"""How much of what comes late hangs on the first words, and whether a spare first token helps.

The first SPAN tokens of each text are replaced by those of another text, and, as the control, the
same number of tokens a quarter into it. KL of the predictions in the second half from those on the
text as it is. With a spare token put first, the same again: if the sink is what makes first words
weigh more, they weigh less once they are not first.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from sinkscope.advice.bench import Bench, logits_of, on_enough_text
from sinkscope.advice.prefix import spare_token
from sinkscope.intervene.cost import divergences, logit_batches
from sinkscope.mixing.dropped import with_first
from sinkscope.schema import Measured
from sinkscope.schema.advise import Advice
from sinkscope.stats import judged
from sinkscope.subject.prompts import Prompts
from sinkscope.subject.tokens import token_text

COMPARED = {
    "more": "more",
    "less": "less",
    "same": "about as much",
    "unclear": "which weighs more is open",
}
QUESTION = "Do the first words weigh more than others?"
SPAN = 8
ALIKE, LEAST = 0.1, 1e-4  # two effects are alike within this part of one, or so many nats


@on_enough_text(QUESTION)
def advise_first_words(bench: Bench) -> Advice:
    """The effect of the first words against that of later ones, with a spare token and without."""
    prompts = bench.prompts
    length = int(prompts.lengths.min())
    if length < 8 * SPAN:
        few = f"Texts of {length} tokens are too short; {8 * SPAN} are needed."
        return Advice(question=QUESTION, answer="undetermined", sentence=few)
    spare = spare_token(bench)
    found: dict[str, np.ndarray] = {}
    moved = with_first(prompts, spare).first_tokens(prompts.length)
    for name, rows in (("as it is", prompts), ("spare", moved)):
        start = 1 if name == "spare" or prompts.bos == "with" else 0
        for place, at in (("first", start), ("later", length // 4)):
            found[f"{place}, {name}"] = _moved(bench, rows, at, length // 2)
    bos = prompts.bos == "with"
    ratio = bench.mean(found["first, as it is"] - found["later, as it is"])
    relief = bench.mean(found["first, spare"] - found["first, as it is"])
    means = {name: float(values.mean()) for name, values in found.items()}
    side = judged(ratio, max(ALIKE * means["later, as it is"], LEAST))
    helps = judged(relief, max(ALIKE * means["first, as it is"], LEAST)) == "less"
    token = repr(token_text(bench.subject.tokenizer, spare))
    return Advice(
        question=QUESTION,
        answer={"more": "yes", "unclear": "undetermined"}.get(side, "no"),
        sentence=f"Other first words move late predictions by {means['first, as it is']:.4f} nats "
        f"(KL), other words a quarter into the text by {means['later, as it is']:.4f}: "
        f"{COMPARED[side]} ({_in_kl(ratio)}). With {token} put first, the first "
        f"words move them by {means['first, spare']:.4f}, which is "
        f"{'less' if helps else 'not shown to be less'} ({_in_kl(relief)}).",
        value=ratio,
        facts={"first-words": {"more": "more", "unclear": None}.get(side, "not-more"),
               "spare-token": "helps" if helps else "not-shown"},
        rows=[
            {"what": f"{SPAN} other words {_where(name, bos)}", "kl": bench.mean(values),
             "control": name.startswith("later")}
            for name, values in found.items()
        ],
        limits="Words of another text, so that what is said changes as well as where it stands; "
        "the words a quarter into the text are closer to what is predicted.",
    )  # fmt: skip


def _in_kl(change: Measured) -> str:
    """A change of a KL with its interval; what rounds to zero has no minus."""
    ends = [round(each or 0.0, 4) + 0.0 for each in (change.value, change.low, change.high)]
    interval = "" if change.low is None else f", {ends[1]:+.4f} to {ends[2]:+.4f}"
    return f"{ends[0]:+.4f}{interval}"


def _where(name: str, bos: bool) -> str:
    place, rows = name.split(", ")
    where = ("behind BOS" if bos else "first") if place == "first" else "a quarter into the text"
    return where + (", with a spare token before the text" if rows == "spare" else "")


def exchanged(prompts: Prompts, start: int) -> Prompts:
    """SPAN tokens from `start` on are those of the next row."""
    ids = prompts.input_ids.clone()
    ids[:, start : start + SPAN] = prompts.input_ids.roll(1, 0)[:, start : start + SPAN]
    return dataclasses.replace(prompts, input_ids=ids)


def _moved(bench: Bench, prompts: Prompts, start: int, first: int) -> np.ndarray:
    """[n] KL of predictions at positions `first` and later once those tokens are exchanged."""
    other = exchanged(prompts, start)
    found = []
    for before, after in zip(*(logit_batches(bench.subject, each) for each in (prompts, other))):
        a, b = (logits_of(bench.subject, each) for each in (before, after))
        found.append(divergences(a, b, before, first).numpy())
    return np.concatenate(found)
