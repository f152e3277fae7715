"""The first screen of a page: the answer, the few numbers it rests on, and the one drawing."""

from __future__ import annotations

from itertools import zip_longest

from sinkscope.report import commands, frames
from sinkscope.report.compare import policies_compared
from sinkscope.report.parts import (
    QUESTIONS,
    WEAK,
    Drawing,
    Figure,
    Findings,
    Part,
    Section,
    Tables,
    Words,
)
from sinkscope.result import Result

FIRST = ("Sink", "Proved", "Used")  # questions whose first answers stand on top, in this order
EVERY = "To do"  # a question all of whose answers are told: each is of another thing to do
NUMBERS = 4
# the picture of a page, the first of these that it has; it is shown here and not in its section
PICTURES = ("circuit", "timeline-course", "heat", "mix-loss", "necessity-tests")


def page_sections(result: Result) -> list[Section]:
    """Every section of a result, behind one with the answer, its numbers and its picture."""
    shown = commands.all_sections(result)
    panels = {
        panel: _top(found)
        for panel in [*frames.policies(result), ""]
        if (found := commands.all_findings(result, panel))
    }
    if not panels:
        return shown
    parts: list[Part] = [Words(panels)]
    compared = policies_compared(result)
    parts += [Tables({"": [table for table, _ in compared]})] if compared else []
    parts += _taken(shown)
    said = " ".join(sentence for _, sentence in compared)
    return [Section("answer", "", said, parts), *(section for section in shown if section.parts)]


def _top(found: list[Findings]) -> Findings:
    """The first answers of all findings, and their numbers in turn."""
    said: dict[str, list[str]] = {}
    for one in found:
        for question, sentence in one.answers:
            if question != WEAK and sentence and (question == EVERY or question not in said):
                said.setdefault(question, []).append(sentence)
    chosen = [said[question] for question in FIRST if question in said] or [*said.values()]
    told = [sentence for each in chosen for sentence in each] or [found[0].headline]
    ranked = sorted(found, key=_asked)
    in_turn = [key for keys in zip_longest(*(one.keys for one in ranked)) for key in keys if key]
    return Findings(told[0], told[1:], in_turn[:NUMBERS])


def _asked(one: Findings) -> int:
    """Which question the findings answer first."""
    asked = [QUESTIONS.index(question) for question, _ in one.answers if question != WEAK]
    return min(asked, default=len(QUESTIONS))


def _taken(shown: list[Section]) -> list[Part]:
    """The picture of the page, taken out of its section."""
    for name in PICTURES:
        for section in shown:
            for part in section.parts:
                if isinstance(part, (Drawing, Figure)) and part.name == name:
                    section.parts.remove(part)
                    return [part]
    return []
