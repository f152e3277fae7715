"""What a command ends with in a terminal: its answers, in the order in which they are asked for.

The sentences are those of the page (`Findings.brief`); here they are put in order and made to fit.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import zip_longest

from rich.console import Console
from rich.text import Text

from sinkscope.frame import units_wanted
from sinkscope.report import commands, frames
from sinkscope.report.compare import Compared, policies_compared, runs_compared
from sinkscope.report.lines import print_lines, table_lines, wrapped
from sinkscope.report.parts import QUESTIONS, WEAK, Findings, Said
from sinkscope.report.table import heading_lines, print_tables
from sinkscope.report.text import typeset, visible
from sinkscope.result import Result

MOST = 24  # lines: with the path of the report 25 at most
LABEL = 9  # columns of the question
LEAST = 24  # columns of the answers, however narrow the terminal
SPARE, MORE = "Unless", "More"  # an answer that may be left out; how much was
PANEL = ""  # the question of what is no answer but the name of a BOS policy
LONGEST = 3  # lines of an answer, where it has more than one sentence
WEAKNESSES = 3  # that are told
BESIDE = ("Sink", "Proved", "Used")  # of two BOS policies, one sentence each; a table has the rest


def print_brief(result: Result, console: Console, *others: Result, verbose: bool = False) -> None:
    """Print the answers of a result within the width of the console; all it has, without any.

    others   runs that it is compared with
    verbose  print every table instead of the answers
    """
    found = {
        panel: commands.all_findings(result, panel) for panel in [*frames.policies(result), ""]
    }
    if verbose or not any(one.answers for each in found.values() for one in each):
        print_tables(result, console)
    else:
        print_lines(brief(result, found, console.width), console)
    print_compared(runs_compared(result, *others) if others else policies_compared(result), console)


def print_compared(compared: list[Compared], console: Console) -> None:
    """Print small tables, each with what follows from it."""
    for table, sentence in compared:
        shown = table_lines(table, console.width) if table.rows else []
        said = wrapped(sentence, console.width) if sentence else []
        print_lines([*shown, *map(Text, said)], console)


def brief(result: Result, panels: dict[str, list[Findings]], width: int) -> list[Text]:
    """Heading and answers, a line each; a label stands before the first line of a question."""
    head = heading_lines(result, width)
    several = len([panel for panel, found in panels.items() if panel and found]) > 1
    said: list[Said] = []
    for panel, found in panels.items():
        if several and panel and found:
            said.append((PANEL, frames.label(panel)))
        said += answers(found, BESIDE if several else QUESTIONS)
    every = [one for found in panels.values() for one in found]
    said += weaknesses(every)
    wide = max(LEAST, width - LABEL)
    weak = 2 if several else WEAKNESSES
    return [*head, *_shown(fitted(said, wide, MOST - len(head), weak))]


def answers(found: list[Findings], questions: tuple[str, ...]) -> list[Said]:
    """What the findings answer of these questions, in their order."""
    said = [each for one in found for each in one.answers]
    told = [each for each in said if each[0] in questions and each[0] != WEAK and each[1]]
    if questions == BESIDE:
        told = list(dict(reversed(told)).items())
    return sorted(told, key=lambda each: questions.index(each[0]))


def weaknesses(found: list[Findings]) -> list[Said]:
    """What is missing, how many documents to take, what must be known, what is not shown; once."""
    missing = [text for one in found for label, text in one.answers if label == WEAK]
    by_turns = zip_longest(*(one.notes for one in found))  # so that each BOS policy has its word
    notes = [visible(note) for each in by_turns for note in each if note]
    every = dict.fromkeys([*missing, *notes, *(one.limit for one in found if one.limit)])
    needed = {text: units for text in every if (units := units_wanted(text)) is not None}
    most = max(needed, key=needed.__getitem__, default="")  # enough for every command
    first = [*missing, most] if most else missing
    told = dict.fromkeys([*first, *every])
    return [(WEAK, text) for text in told if text not in needed or text == most]


@dataclass
class Answer:
    """A question and the sentences that answer it, within a width."""

    question: str
    said: list[str]
    width: int

    @property
    def lines(self) -> list[str]:
        """The answer as it is printed."""
        return wrapped(" ".join(self.said), self.width)

    def shorten(self) -> None:
        """Leave out the last sentence; the one before it ends the answer."""
        del self.said[-1]
        self.said[-1] = re.sub(r"[.;]$", ".", self.said[-1])


def fitted(said: list[Said], width: int, room: int, weak: int) -> list[Answer]:
    """Answers that take so many lines together, where that is possible.

    Only whole sentences are left out, and they are counted: what would change the verdict, then
    weaknesses, of which `weak` are told at most, then the last of the longest answer, never the
    first of an answer.
    """
    told = [Answer(question, sentences(typeset(text)), width) for question, text in said]
    whole = sum(len(one.said) for one in told)

    def least(question: str) -> Answer | None:
        found = [one for one in told if one.question == question]
        return found[-1] if len(found) > (question == WEAK) else None

    def left_out() -> int:
        return whole - sum(len(one.said) for one in told)

    def full() -> bool:
        return sum(len(one.lines) for one in told) + (left_out() > 0) > room

    for one in told:
        while len(one.said) > 1 and len(one.lines) > LONGEST:
            one.shorten()
    while sum(one.question == WEAK for one in told) > weak and (last := least(WEAK)):
        told.remove(last)
    while full():
        longer = [one for one in told if len(one.said) > 1]
        if spare := least(SPARE) or least(WEAK):
            told.remove(spare)
        elif longer:
            max(reversed(longer), key=lambda one: len(one.lines)).shorten()
        else:
            break
    left = left_out()
    more = f"{left} sentence{'s' if left > 1 else ''}: --verbose."
    return [*told, *([Answer(MORE, [more], width)] if left else [])]


def sentences(text: str) -> list[str]:
    """The parts of a text that stand alone: up to a full stop or semicolon outside brackets."""
    parts = [""]
    for piece in re.split(r"(?<=[.;]) ", text.strip()):
        ended = parts[-1].endswith((".", ";")) and parts[-1].count("(") == parts[-1].count(")")
        parts = [*parts, piece] if ended else [*parts[:-1], f"{parts[-1]} {piece}".lstrip()]
    return parts


def _shown(answers: list[Answer]) -> list[Text]:
    """A label stands before the first line of a question."""
    shown, before = [], ""
    for one in answers:
        if one.question == PANEL:
            shown.append(Text(" ".join(one.said), style="bold"))
        else:
            labels = [one.question if one.question != before else "", *[""] * len(one.lines)]
            shown += [
                Text.assemble((f"{label:{LABEL}}", "bold"), line)
                for label, line in zip(labels, one.lines)
            ]
        before = one.question
    return shown
