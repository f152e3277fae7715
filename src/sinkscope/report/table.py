"""All findings of a result as lines: for a terminal, for pipes and for notebooks.

Every string that may come from a model passes `text.visible`, so a token cannot carry an escape
sequence into the terminal, and is printed as `Text`, so it cannot be read as markup.
"""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from sinkscope.report import commands, frames
from sinkscope.report.lines import hanging, print_lines, table_lines, wrapped
from sinkscope.report.parts import Findings
from sinkscope.report.text import counted, visible
from sinkscope.result import Result

PLAIN_WIDTH = 110


def render_text(result: Result) -> str:
    """All findings as plain text without colours."""
    return "\n".join(line.plain for line in result_lines(result, PLAIN_WIDTH)) + "\n"


def print_tables(result: Result, console: Console) -> None:
    """Print all findings within the width of the console."""
    print_lines(result_lines(result, console.width), console)


def result_lines(result: Result, width: int) -> list[Text]:
    """All findings as lines: of each BOS policy, then those without one."""
    lines = heading_lines(result, width)
    for panel in [*frames.policies(result), ""]:
        found = commands.all_findings(result, panel)
        if found and panel:
            lines += [Text(), Text(frames.label(panel), style="bold underline")]
        lines += [line for one in found for line in _findings(one, width)]
    return lines


def heading_lines(result: Result, width: int) -> list[Text]:
    """Which model, what was looked at, and what stands first."""
    model, about = heading(result)
    return [
        *(Text(line, style="bold") for line in wrapped(model, width)),
        *(
            Text(line, style="dim")
            for text in (about, *frames.first_positions(result))
            for line in wrapped(text, width)
        ),
    ]


def heading(result: Result) -> tuple[str, str]:
    """Which model, and what was looked at."""
    model, prompts = result.summary.model, result.summary.prompts
    return (
        frames.model_name(result),
        f"{visible(model.architecture)}, {model.parameters:,} parameters, "
        f"{counted(prompts.n, 'prompt')} of {prompts.length} tokens ({visible(prompts.kind)})",
    )


def _findings(found: Findings, width: int) -> list[Text]:
    """Sentences, tables and notes of one command."""
    lines = [Text(line, style="bold") for line in wrapped(found.headline, width)]
    lines += _bullets([*found.sentences, found.limit], width)
    lines += [line for table in found.tables for line in table_lines(table, width)]
    if found.notes:
        lines += [Text("Notes", style="bold"), *_bullets(map(visible, found.notes), width)]
    return lines


def _bullets(sentences: Iterable[str], width: int) -> list[Text]:
    """Sentences, each behind a mark, and a blank line."""
    marked = [line for one in sentences if one for line in hanging("• ", one, width)]
    return [*map(Text, marked), Text()]
