"""The application: its commands, and how every error becomes one sentence and an exit code."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
import time
from typing import Annotated

import typer

import sinkscope
from sinkscope.cli import commands, common, doctor, index, lab, models, report, sweep
from sinkscope.cli.ending import INTERRUPTED, TERMINATED, terminated
from sinkscope.cli.options import add_command
from sinkscope.errors import InputError, Interrupted, SinkscopeError, is_out_of_memory, is_panic
from sinkscope.files import disk_is_full, written
from sinkscope.report.text import visible

app = typer.Typer(
    name="sinkscope",
    help="Find attention sinks in language models, trace how they are built, and prove it.",
    epilog="Exit codes: 0 done; 1 an --expect not met, or a run of a sweep failed; 2 bad usage or "
    "input; 3 model not supported; 4 out of memory or disk; 70 an error in sinkscope itself; "
    "130 interrupted; 143 terminated.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

UNEXPECTED = 70  # EX_SOFTWARE of sysexits.h: neither usage nor input


def _version(show: bool) -> None:
    if show:
        typer.echo(f"sinkscope {sinkscope.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", "-V", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


for _name, _examples in commands.EXAMPLES.items():
    add_command(app, _name, getattr(commands, _name), _examples)
for _command in (sweep, index, report, models, doctor):
    add_command(app, _command.__name__.rpartition(".")[2], _command.command, _command.EXAMPLES)
app.add_typer(lab.app, name="lab")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    sentence = ""
    _open_streams()
    written.clear()
    common.begun[:] = [(time.time(), arguments)]
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name that is no UTF-8 must not end the output
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        _refuse_no_folder()
        _refuse_empty(arguments)
        code = app(arguments, prog_name="sinkscope", standalone_mode=False)
        if code == INTERRUPTED:  # the framework turns Ctrl-C into an exit of its own
            code, sentence = _interruption()
    except SystemExit as error:  # rich ends so where the reader of its output left (`| head`)
        if not isinstance(error.__context__, BrokenPipeError):
            raise
        code = 0
    except BaseException as error:  # noqa: BLE001 - the last resort; panics of Rust are no Exception
        if "--debug" in arguments and not isinstance(error, typer.Exit):
            import traceback

            traceback.print_exc()
        code, sentence = explain(error)
    if sentence:
        print(f"sinkscope: {_harmless(sentence)}", file=sys.stderr)
    _flush()
    sys.exit(code if isinstance(code, int) else 0)


def _open_streams() -> None:
    """Put the null device where a stream was closed, lest a file of ours takes its number."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            with contextlib.suppress(OSError):
                os.close(number)
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


def _refuse_no_folder() -> None:
    """Raise InputError where the folder that the command was begun in is gone."""
    try:
        os.getcwd()
    except OSError:
        raise InputError("the current folder is gone: change to one that is there.") from None


def _refuse_empty(arguments: list[str]) -> None:
    """Raise InputError for an empty argument, which as a path would be the current folder."""
    for before, each in zip(["", *arguments], arguments, strict=False):
        if not each or (each.startswith("--") and each.endswith("=")):
            what = (each or before).rstrip("=")
            named = f"what is given for {what}" if what.startswith("--") else "an argument"
            raise InputError(f"{named} is empty: is a variable of the shell not set?")


def _interruption() -> tuple[int, str]:
    """Exit code and sentence for Ctrl-C or SIGTERM, and what there is already."""
    what = "terminated" if terminated else "interrupted"
    there = f"what was finished lies in {written[-1]}" if written else "nothing was written"
    return TERMINATED if terminated else INTERRUPTED, f"{what}; {there}."


def _harmless(sentence: str) -> str:
    """The sentence, in which names from files cannot steer the terminal."""
    return "\n".join(visible(line) for line in sentence.split("\n"))


def explain(error: BaseException) -> tuple[int, str]:
    """Exit code and one sentence for an error."""
    if isinstance(error, SinkscopeError):
        ended = isinstance(error, Interrupted) and terminated
        return TERMINATED if ended else error.exit_code, str(error)
    if isinstance(error, typer.Abort) and isinstance(error.__cause__, EOFError):
        error = error.__cause__  # the framework takes the end of any file for Ctrl-D
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return _interruption()
    if isinstance(error, typer.Exit):
        return error.exit_code, ""
    if type(error).__name__ == "NoArgsIsHelpError":  # nothing was asked for, so nothing is wrong
        typer.echo(str(error))
        return 0, ""
    as_usage = getattr(error, "format_message", None)
    if as_usage is not None:  # an error of click; typer may bring a copy of its own
        return 2, as_usage()
    first = (str(error).strip().splitlines() or [""])[0]
    if is_out_of_memory(error):
        return 4, "out of memory; use a shorter --length or a smaller --n."
    if disk_is_full(error):
        return 4, "the disk is full; nothing was written."
    if isinstance(error, BrokenPipeError):
        return 0, ""
    if isinstance(error, OSError) and error.filename is not None:  # of the user's disk, not of ours
        return 2, f"{error.filename}: {error.strerror or first}."
    if is_panic(error):
        return 2, f"a library gave up on a file of the model or its tokenizer: {first}."
    return UNEXPECTED, (
        f"unexpected {type(error).__name__}: {first} "
        "(run again with --debug for the traceback, and please report it)"
    )


def _flush() -> None:
    """Flush stdout; a reader that left (`| head`) or a full disk must not end in a traceback."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno == errno.ENOSPC:
            print("sinkscope: the disk is full; the output is not whole.", file=sys.stderr)
            sys.exit(4)
