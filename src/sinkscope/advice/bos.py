"""Does the model need its BOS token: loss and sink with it, without it, and with two of them.

The same tokens of text are predicted each time, by models that differ in what stands before them.
What tokenizer, configuration and chat template put first is read off them, not believed.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from sinkscope.advice.bench import Bench, told
from sinkscope.advice.lines import lines, loadable
from sinkscope.circuit.reading import sinks_on
from sinkscope.errors import InputError
from sinkscope.mixing.dropped import text_loss, with_first, without_first
from sinkscope.schema import Measured
from sinkscope.schema.advise import Advice, AdviceLine, AdviceRow
from sinkscope.stats import bootstrap, judged, nan_mean
from sinkscope.subject.load import Subject
from sinkscope.subject.opening import bos_id, resolve_bos
from sinkscope.subject.prompts import Prompts, build_prompts
from sinkscope.subject.tokens import token_text

QUESTION = "Does it need BOS?"
CONTEXT = 2  # tokens of text before the first one that is predicted, in every condition
ANSWERS = {"more": "needed", "less": "harmful", "same": "harmless", "unclear": "undetermined"}


def advise_bos(bench: Bench) -> Advice:
    """Whether BOS is needed, harmless or harmful, and by how much."""
    subject = bench.subject
    try:
        token = bos_id(subject)
    except InputError:
        return Advice(
            question=QUESTION,
            answer="does not apply",
            sentence="This model has no BOS token, so there is none to be added or forgotten.",
            facts={"bos": "none"},
        )
    if bench.too_little:
        return Advice(question=QUESTION, answer="undetermined", sentence=bench.too_little)
    with_it = _with(bench)
    losses = {
        "with": text_loss(subject, with_it, CONTEXT + 1),
        "without": text_loss(subject, without_first(with_it), CONTEXT),
        "twice": text_loss(subject, with_first(with_it, token), CONTEXT + 2),
    }
    units = with_it.units
    change = bootstrap(losses["without"] - losses["with"], units=units)
    double = bootstrap(losses["twice"] - losses["with"], units=units)
    answer = ANSWERS[judged(change, bench.within)]
    does = resolve_bos(subject, "as-is") == "with"
    return Advice(
        question=QUESTION,
        answer=answer,
        sentence=_sentence(bench, answer, change, losses, does, token),
        value=change,
        facts={"bos": answer if answer != "undetermined" else None, "bos-cost": change.value},
        rows=[_row("without BOS", change), _row("with BOS twice", double)],
        lines=_lines(subject, answer),
        limits=" ".join(
            filter(
                None,
                [
                    _sinks(bench, with_it),
                    _habits(subject, token),
                    "On this text: what holds for prose need not hold for chats.",
                ],
            )
        ),
    )


def _with(bench: Bench) -> Prompts:
    asked = {k: v for k, v in dataclasses.asdict(bench.settings).items() if k in _PROMPTS}
    most = bench.subject.max_length or bench.prompts.length + 1
    length = min(bench.prompts.length, most - 1)  # a second BOS has to fit
    return build_prompts(bench.subject, **{**asked, "bos": "with", "length": length}, by_turns=True)


_PROMPTS = ("text", "kind", "n", "seed", "chat_template")


def _row(what: str, change: Measured) -> AdviceRow:
    return {"what": what, "ce_change": change, "control": False}


def _sentence(
    bench: Bench, answer: str, change: Measured, losses: dict[str, np.ndarray], does: bool, token
) -> str:
    name = repr(token_text(bench.subject.tokenizer, token))  # escaped: it is the model's text
    perplexity = {k: float(np.exp(v.mean())) for k, v in losses.items()}
    without = f"without it the loss changes by {told(change)}"
    said = {
        "needed": f"Put {name} first: {without}",
        "harmful": f"Leave {name} out: {without}",
        "harmless": f"{name} makes no difference beyond {bench.within:g} nats a token: {without}",
        "undetermined": f"{bench.texts} cannot say whether {name} is needed: {without}",
    }[answer]
    habit = f" The tokenizer by itself {'puts it first' if does else 'does not put it first'}."
    if bench.subject.tokenizer is None:
        habit = ""
    return (
        f"{said}. The perplexity is {perplexity['with']:.2f} with it and "
        f"{perplexity['without']:.2f} without it.{habit}"
    )


def _sinks(bench: Bench, with_it: Prompts) -> str:
    """The late share of P0 over all heads, with BOS and without."""
    shares = [
        float(nan_mean(sinks_on(bench.subject, each).late, (0, 1)))
        for each in (with_it, without_first(with_it))
    ]
    return f"Late share of position zero: {shares[0]:.1%} with BOS, {shares[1]:.1%} without."


def _habits(subject: Subject, token: int) -> str:
    """How many BOS tokens configuration and chat template bring."""
    parts = []
    config: Any = getattr(subject.model.config.get_text_config(decoder=True), "bos_token_id", None)
    tokenizer = subject.tokenizer
    own = tokenizer.bos_token_id if tokenizer is not None else None
    if tokenizer is not None and own is None and config is not None:
        parts.append("The configuration names a BOS token that the tokenizer does not know as one.")
    if tokenizer is not None and getattr(tokenizer, "chat_template", None):
        chat = [{"role": "user", "content": "a"}]
        try:
            text = tokenizer.apply_chat_template(chat, tokenize=False)
            counts = [
                tokenizer(text, add_special_tokens=added)["input_ids"].count(token)
                for added in (False, True)
            ]
        except Exception as error:  # noqa: BLE001 - templates are other people's programs
            parts.append(f"Its chat template cannot be used ({type(error).__name__}).")
        else:
            parts.append(
                f"The chat template brings {counts[0]} of them; tokenised with special tokens "
                f"there are {counts[1]}."
            )
    return " ".join(parts)


def _lines(subject: Subject, answer: str) -> list[AdviceLine]:
    """Lines that set BOS as it is needed; none where it makes no difference, or that is open."""
    wanted = {"needed": True, "harmful": False}
    return bos_lines(loadable(subject), wanted[answer]) if answer in wanted else []


def bos_lines(name: dict[str, str], wanted: bool) -> list[AdviceLine]:
    """A line for each tool that puts BOS first, or does not; name as of `lines.loadable`."""
    text = "tokenizer.bos_token + text" if wanted else "text"
    flag = str(wanted)
    return lines("bos", **name, flag=flag, lower=flag.lower(), text=text)
