"""Gates: what an answer must be for a build to pass, such as kv-keep<=4 or bos=needed."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable
from dataclasses import dataclass

from sinkscope.errors import InputError
from sinkscope.schema import Advice

RELATIONS = {"<=": operator.le, ">=": operator.ge, "=": operator.eq}
# facts that a gate may name -> the question that answers it
FACTS = {
    "bos": "bos",
    "bos-cost": "bos",
    "kv-keep": "streaming",
    "keep-tokens": "streaming",
    "int8-tensor": "quantisation",
    "int8-channel": "quantisation",
    "int8-token": "quantisation",
    "int8-cache": "quantisation",
    "int4-cache": "quantisation",
    "int8-weights": "quantisation",
    "int4-weights": "quantisation",
    "p0-outlier": "quantisation",
    "prefix": "quantisation",
    "writers-exact": "quantisation",
    "skip-layers": "quantisation",
    "fp16": "fp16",
    "largest": "fp16",
    "repeats": "repeats",
    "patch": "repeats",
    "idle-heads": "heads",
    "first-words": "first-words",
    "spare-token": "first-words",
    "sink-used": "remedies",
}
ROUNDED, TRIED = ("fine", "costly"), ("helps", "not-shown", "not-tried")
NUMBERS = ("bos-cost", "kv-keep", "largest", "repeats", "idle-heads")
WORDS: dict[str, tuple[str, ...]] = {  # fact -> the words that it can be
    "bos": ("needed", "harmless", "harmful", "none"),
    "keep-tokens": ("yes", "no"),
    **{fact: ROUNDED for fact in FACTS if fact.startswith("int")},
    "p0-outlier": ("yes", "no"),
    "prefix": TRIED,
    "writers-exact": TRIED,
    "skip-layers": TRIED,
    "fp16": ("safe", "near-the-limit", "overflows"),
    "repeats": ("none",),
    "patch": ("works", "fails"),
    "first-words": ("more", "not-more"),
    "spare-token": ("helps", "not-shown"),
    "sink-used": ("used", "free", "harmful", "no-sink"),
}


@dataclass(frozen=True)
class Gate:
    """One condition on a fact."""

    fact: str
    relation: str
    bound: str | float

    def __str__(self) -> str:
        bound = self.bound if isinstance(self.bound, str) else f"{self.bound:g}"
        return f"{self.fact}{self.relation}{bound}"

    def failure(self, advice: dict[str, Advice]) -> str:
        """Why it is not met; empty where it is. What is not determined does not pass."""
        found = advice[FACTS[self.fact]].facts.get(self.fact)
        if found is None:
            return f"{self}: {self.fact} is not determined"
        if isinstance(found, str) != isinstance(self.bound, str):
            return f"{self}: {self.fact} is {found}"
        met = RELATIONS[self.relation](found, self.bound)
        return "" if met else f"{self}: {self.fact} is {found}"


def parse(texts: Iterable[str], asked: Iterable[str]) -> list[Gate]:
    """Gates as they are written. Raises InputError for one that cannot be one.

    asked  the questions that are answered; a gate on another is refused
    """
    return [_parse(text, list(asked)) for text in texts]


def _parse(text: str, asked: list[str]) -> Gate:
    match = re.fullmatch(r"\s*([a-z0-9-]+)\s*(<=|>=|=)\s*([^\s<>=]+)\s*", text)
    if match is None:
        raise InputError(f"--gate {text!r} is not of the form kv-keep<=4 or bos=needed.")
    fact, relation, bound = match.groups()
    if fact not in FACTS:
        raise InputError(f"--gate: {fact!r} is not one of {', '.join(FACTS)}.")
    if FACTS[fact] not in asked:
        raise InputError(f"--gate {text}: the question {FACTS[fact]} is not asked.")
    try:
        value: str | float = float(bound)
    except ValueError:
        value = bound
    known = WORDS.get(fact, ())
    if isinstance(value, str) and value not in known:
        can_be = [*known, *(["a number"] if fact in NUMBERS else [])]
        raise InputError(f"--gate {text}: {fact} is one of {', '.join(can_be)}.")
    if isinstance(value, float) and fact not in NUMBERS:
        raise InputError(f"--gate {text}: {fact} is one of {', '.join(known)}.")
    if isinstance(value, str) and relation != "=":
        raise InputError(f"--gate {text}: a word can only be compared by =.")
    return Gate(fact, relation, value)
