"""Options of the command line: those that many commands share, and those of the settings.

    @options
    def command(loading: LoadSettings, settings: ScanSettings, showing: Showing) -> None: ...

A parameter whose type is a dataclass, such as those of `sinkscope.settings`, stands for its fields:
each becomes an option, with its default, its bound and the meaning that the class docstring gives.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args, get_type_hints

import typer
from typer.models import OptionInfo

from sinkscope.errors import InputError
from sinkscope.settings import field_docs

Json = Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of every random choice.")]
TAKEN = {str: "TEXT", int: "N", float: "X", Path: "PATH"}


@dataclasses.dataclass(frozen=True)
class Printing:
    """What a command prints.

    verbose  print every table too, not only the answers
    quiet    print the path of the report and nothing else
    json     print the summary as JSON
    debug    show tracebacks
    """

    verbose: bool = False
    quiet: bool = False
    json: bool = False
    debug: bool = False

    def __post_init__(self) -> None:
        if self.verbose + self.quiet + self.json > 1:
            raise InputError("--verbose, --quiet and --json exclude each other.")


@dataclasses.dataclass(frozen=True)
class Showing(Printing):
    """Where a command saves its result, and what it prints.

    out    folder for summary.json, arrays.nc and report.html, and circuit.json where one was
           tested; run makes sinkscope-run-NAME, after the model
    force  replace what the folder holds, also if that is the result of another model, or none
    """

    out: Path | None = None
    force: bool = False


def add_command(app: typer.Typer, name: str, command: Callable[..., None], examples: str) -> None:
    """Add a command; examples stand as they are written, and its short help is never cut."""
    shown = f"Examples:\n\n{textwrap.dedent(examples).strip()}".replace("\n\n", "\n\n\b\n")
    if "__signature__" not in vars(command):
        command = options(command)
    _say_what_is_taken(command)
    app.command(name, epilog=shown, short_help=command.__doc__)(command)


def _say_what_is_taken(command: Callable[..., None]) -> None:
    """Name in the help what each option takes; the framework would name its Python type."""
    for parameter in inspect.signature(command).parameters.values():
        type_, *about = get_args(parameter.annotation)
        if about and isinstance(about[0], OptionInfo) and about[0].metavar is None:
            taken = [each for each in (type_, *get_args(type_), *_within(type_)) if each in TAKEN]
            about[0].metavar = TAKEN[taken[0]] if taken else None


def _within(type_: Any) -> list[Any]:
    """The types of the items of a list, which may be left out."""
    return [inner for each in get_args(type_) for inner in get_args(each)]


def options(command: Callable[..., None]) -> Callable[..., None]:
    """Replace the parameters of a command that are settings by one option for each field."""
    hints = inspect.get_annotations(command, eval_str=True)  # as written, in Python 3.10 too
    settings: dict[str, type] = {}
    shown: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if dataclasses.is_dataclass(hints[name]):
            settings[name] = hints[name]
            shown += _fields(hints[name])
        else:
            shown.append(
                parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[name])
            )

    @functools.wraps(command)
    def wrapped(**given: Any) -> None:
        for name, kind in settings.items():
            fields = {each.name for each in dataclasses.fields(kind)} & given.keys()
            given[name] = kind(**{each: given.pop(each) for each in fields})
        command(**given)

    wrapped.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {}
    return wrapped


def _fields(kind: type) -> Iterator[inspect.Parameter]:
    """A parameter for each field of a settings class that the command line shows."""
    hints, docs = get_type_hints(kind), field_docs(kind)
    for each in dataclasses.fields(kind):
        name = each.metadata.get("name", each.name.replace("_", "-"))
        if name is None:
            continue
        choices = get_args(hints[each.name])
        type_ = hints[each.name]
        if str in choices:  # a word or something else is, on the command line, a word
            type_ = str | None if NoneType in choices else str
        said = f"{docs[each.name][0].upper()}{docs[each.name][1:]}."
        about: Any = typer.Option(
            _flag(name, each.default), min=each.metadata.get("at_least"), help=said
        )
        if each.metadata.get("argument"):
            about = typer.Argument(help=said, show_default=False)
        yield inspect.Parameter(
            each.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=each.default,
            annotation=Annotated[type_, about],
        )


def _flag(name: str, default: Any) -> str:
    return f"--{name}/--no-{name}" if default is True else f"--{name}"
