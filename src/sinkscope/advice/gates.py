"""Gates: what an answer must be for a build to pass, such as kv-keep<=4 or bos=needed."""

from __future__ import annotations

import math
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
    "maps-exact": "quantisation",
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
    "maps-exact": TRIED,
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
    questions, gates = list(asked), []
    for text in texts:
        match = re.fullmatch(r"\s*([a-z0-9-]+)\s*(<=|>=|=)\s*([^\s<>=]+)\s*", text)
        gate = Gate(match[1], match[2], _bound(match[3])) if match else None
        wrong = _wrong(gate, questions)
        if gate is None or wrong:
            raise InputError(f"--gate {text!r}: {wrong}.")
        gates.append(gate)
    return gates


def _bound(text: str) -> str | float:
    try:
        number = float(text)
    except ValueError:
        return text
    return text if math.isnan(number) else number


def _wrong(gate: Gate | None, asked: list[str]) -> str:
    """Why it cannot be a gate; empty where it can."""
    if gate is None:
        return "it is not of the form kv-keep<=4 or bos=needed"
    fact, bound = gate.fact, gate.bound
    if fact not in FACTS:
        return f"{fact!r} is not one of {', '.join(FACTS)}"
    if FACTS[fact] not in asked:
        return f"the question {FACTS[fact]} is not asked"
    number = fact in NUMBERS
    if not number if isinstance(bound, float) else bound not in WORDS.get(fact, ()):
        can_be = [*WORDS.get(fact, ()), *(["a number"] if number else [])]
        return f"{fact} is one of {', '.join(can_be)}"
    if isinstance(bound, str) and gate.relation != "=":
        return "a word can only be compared by ="
    return ""
