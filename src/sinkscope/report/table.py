"""The findings in a terminal: rich where it is wanted, plain text for pipes and notebooks.

Every string that may come from a model passes `text.visible`, so a token cannot carry an escape
sequence into the terminal, and is handed to rich as `Text`, so it cannot be read as markup.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from sinkscope.report import commands, frames
from sinkscope.report.parts import Findings, Table
from sinkscope.report.text import counted, visible
from sinkscope.result import Result

PLAIN_WIDTH = 110


def render_text(result: Result) -> str:
    """All findings as plain text without colours."""
    stream = io.StringIO()
    console = Console(file=stream, width=PLAIN_WIDTH, color_system=None, force_terminal=False)
    render_rich(result, console)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def print_tables(result: Result, console: Console) -> None:
    """Print all findings; where that is no terminal, without the padding of tables."""
    with _stripped(console):
        render_rich(result, console)


def print_stripped(shown: RenderableType, console: Console) -> None:
    """Print a table; where that is no terminal, without its padding."""
    with _stripped(console):
        console.print(shown)


@contextlib.contextmanager
def _stripped(console: Console) -> Iterator[None]:
    """What is printed meanwhile reaches a pipe or a file without blanks at the ends of lines."""
    if console.is_terminal:
        yield
        return
    with console.capture() as printed:
        yield
    console.file.write("".join(f"{line.rstrip()}\n" for line in printed.get().splitlines()))


def render_rich(result: Result, console: Console) -> None:
    """Print all findings to a rich console."""
    console.print(_heading(result))
    for panel in [*frames.policies(result), ""]:
        found = commands.all_findings(result, panel)
        if found and panel:
            console.print()
            console.print(Text(frames.label(panel), style="bold underline"))
        for one in found:
            console.print(_findings(one))


def heading(result: Result) -> tuple[str, str]:
    """Which model, and what was looked at."""
    model, prompts = result.summary.model, result.summary.prompts
    revision = f" @ {visible(model.revision)}" if model.revision else ""
    return (
        f"{visible(model.id)}{revision}",
        f"{visible(model.architecture)}, {model.parameters:,} parameters, "
        f"{counted(prompts.n, 'prompt')} of {prompts.length} tokens ({visible(prompts.kind)})",
    )


def _heading(result: Result) -> Text:
    model, about = heading(result)
    return Text(model, style="bold").append(
        "".join(f"\n{line}" for line in (about, *frames.first_positions(result))),
        style="not bold dim",
    )


def _findings(found: Findings) -> Group:
    """Sentences, tables and notes of one command."""
    shown: list[RenderableType] = [
        Text(found.headline, style="bold"),
        *(Text(f"• {sentence}") for sentence in [*found.sentences, found.limit] if sentence),
        Text(),
        *(rich_table(table) for table in found.tables),
    ]
    if found.notes:
        shown.append(Text("Notes", style="bold"))
        shown += [Text(f"• {visible(note)}") for note in found.notes]
        shown.append(Text())
    return Group(*shown)


def rich_table(table: Table) -> Padding:
    """A table as rich draws it."""
    rich = RichTable(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
        header_style="dim",
    )
    for number, name in enumerate(table.columns):
        right = number in table.numeric
        rich.add_column(Text(name), justify="right" if right else "left", no_wrap=right)
    for row in table.rows:
        rich.add_row(*(Text(cell) for cell in row))
    return Padding(Group(Text(table.title, style="bold"), rich), (0, 0, 1, 0))
