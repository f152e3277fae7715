"""What a command ends with in a terminal: its answers, in the order in which they are asked for.

The sentences are those of the page (`Findings.brief`); here they are put in order and made to fit.
"""

from __future__ import annotations

from itertools import zip_longest

from rich.cells import cell_len, chop_cells
from rich.console import Console
from rich.text import Text

from sinkscope.report import commands, frames
from sinkscope.report.compare import Compared, policies_compared, runs_compared
from sinkscope.report.parts import QUESTIONS, WEAK, Findings, Said
from sinkscope.report.table import heading, print_stripped, print_tables, rich_table
from sinkscope.report.text import typeset, visible
from sinkscope.result import Result

MOST = 24  # lines: with the path of the report 25 at most
LABEL = 9  # columns of the question
LEAST = 24  # columns of the answers, however narrow the terminal
SHORT = (WEAK, "Unless")  # are shortened before the others are
PANEL = ""  # the question of what is no answer but the name of a BOS policy
LONGEST = 3  # lines of an answer
WEAKNESSES = 3  # that are told; the rest is counted
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
        for line in brief(result, found, console.width):
            console.print(line, soft_wrap=True)
    print_compared(runs_compared(result, *others) if others else policies_compared(result), console)


def print_compared(compared: list[Compared], console: Console) -> None:
    """Print small tables, each with what follows from it."""
    for table, sentence in compared:
        if table.rows:
            print_stripped(rich_table(table).renderable, console)
        for text in wrapped(sentence, console.width):
            console.print(Text(text), soft_wrap=True)


def brief(result: Result, panels: dict[str, list[Findings]], width: int) -> list[Text]:
    """Heading and answers, a line each; a label stands before the first line of a question."""
    model, about = (wrapped(line, width) for line in heading(result))
    first = [line for each in frames.first_positions(result) for line in wrapped(each, width)]
    head = [Text(line, style="bold") for line in model]
    head += [Text(line, "dim") for line in (*about, *first)]
    several = len([panel for panel, found in panels.items() if panel and found]) > 1
    said: list[Said] = []
    for panel, found in panels.items():
        if several and panel and found:
            said.append((PANEL, frames.label(panel)))
        said += answers(found, BESIDE if several else QUESTIONS)
    every = [one for found in panels.values() for one in found]
    said += weaknesses(every, 2 if several else WEAKNESSES)
    return [*head, *_answers(said, width, MOST - len(head))]


def answers(found: list[Findings], questions: tuple[str, ...]) -> list[Said]:
    """What the findings answer of these questions, in their order."""
    said = [each for one in found for each in one.answers]
    told = [each for each in said if each[0] in questions and each[0] != WEAK and each[1]]
    if questions == BESIDE:
        told = list(dict(reversed(told)).items())
    return sorted(told, key=lambda each: questions.index(each[0]))


def weaknesses(found: list[Findings], most: int) -> list[Said]:
    """What is missing, what must be known, and what this does not show: the first few."""
    missing = [text for one in found for label, text in one.answers if label == WEAK]
    by_turns = zip_longest(*(one.notes for one in found))  # so that each BOS policy has its word
    notes = [visible(note) for each in by_turns for note in each if note]
    every = list(dict.fromkeys([*missing, *notes, *(one.limit for one in found if one.limit)]))
    told = every[:most] if len(every) > most + 1 else every
    if len(every) > len(told):
        told.append(f"{len(every) - len(told)} more remarks: --verbose.")
    return [(WEAK, text) for text in told]


def _answers(said: list[Said], width: int, room: int) -> list[Text]:
    """The answers in so many lines: the longest is shortened first, of equal ones the last."""
    wide = max(LEAST, width - LABEL)
    told = [fitted(typeset(text), wide, LONGEST) for _, text in said]
    while sum(map(len, told)) > room and max(map(len, told)) > 1:
        long = [i for i, lines in enumerate(told) if len(lines) > 1]
        at = max(long, key=lambda i: (len(told[i]) + (said[i][0] in SHORT), i))
        told[at] = fitted(typeset(said[at][1]), wide, len(told[at]) - 1)
    lines, before = [], ""
    for (label, text), answer in zip(said, told):
        if label == PANEL:
            lines.append(Text(text, style="bold"))
        else:
            shown = [label if label != before else "", *[""] * (len(answer) - 1)]
            lines += [
                Text.assemble((f"{question:{LABEL}}", "bold"), line)
                for question, line in zip(shown, answer)
            ]
        before = label
    return lines


def fitted(text: str, width: int, longest: int) -> list[str]:
    """A sentence in at most `longest` lines; "…" stands for what had to be left out at its end."""
    lines = wrapped(text, width)
    while len(lines) > longest:
        end = max(text.rfind("; "), text.rfind(". "))
        if end < 0:
            return [*lines[: longest - 1], f"{wrapped(lines[longest - 1], width - 2)[0]} …"]
        text = text[: end + 1]
        lines = wrapped(f"{text} …", width)
    return lines


def wrapped(text: str, width: int) -> list[str]:
    """Lines of at most `width` columns, broken at spaces that may break."""
    lines = [""]
    for word in text.split(" "):
        for piece in chop_cells(word, width):
            longer = f"{lines[-1]} {piece}" if lines[-1] else piece
            if cell_len(longer) <= width:
                lines[-1] = longer
            else:
                lines.append(piece)
    return lines
