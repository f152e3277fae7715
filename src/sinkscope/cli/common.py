"""Options that several commands share, and what they do with them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sinkscope.errors import InputError

if TYPE_CHECKING:
    from sinkscope.result import Result
    from sinkscope.subject.load import Subject

Model = Annotated[
    str | None,
    typer.Argument(
        help="Folder or Hub id of a causal model. Default: the bundled model.", show_default=False
    ),
]
Revision = Annotated[str | None, typer.Option(help="Hub revision: branch, tag or commit.")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16 or float16.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps, ..")]
DeviceMap = Annotated[
    str | None, typer.Option(help="Spread over devices, such as auto (needs accelerate).")
]
Text = Annotated[
    str, typer.Option(help="builtin, a .txt or .jsonl file, or hub:NAME for a Hub data set.")
]
Kind = Annotated[
    str, typer.Option("--prompts", help="text, random (token ids) or repeat (one token repeated).")
]
Count = Annotated[int, typer.Option("--n", min=1, help="Number of prompts.")]
Length = Annotated[int, typer.Option(min=2, help="Tokens in each prompt.")]
Bos = Annotated[str, typer.Option(help="BOS policy: as-is, with, without or both.")]
Reader = Annotated[str, typer.Option(help="Attention reader: auto, lean or exact.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of every random choice.")]
Untrained = Annotated[
    bool,
    typer.Option(
        "--untrained/--no-untrained", help="Compare with the same architecture untrained."
    ),
]
Offline = Annotated[bool, typer.Option("--offline", help="Never touch the network.")]
AllowPickle = Annotated[
    bool, typer.Option("--allow-pickle", help="Read pickle weights, which can run code.")
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
Expect = Annotated[
    str | None,
    typer.Option(help="sink or no-sink: exit with 1 if the model turns out otherwise."),
]


def load_subject(
    model: str | None,
    *,
    revision: str | None,
    dtype: str,
    device: str,
    device_map: str | None,
    offline: bool,
    allow_pickle: bool,
    trust_remote_code: bool,
) -> Subject:
    """Load the model that the options describe, with transformers' own chatter off."""
    if offline:
        import os

        os.environ["HF_HUB_OFFLINE"] = "1"  # read by huggingface_hub when it is first imported
    from transformers.utils import logging

    from sinkscope.subject.load import load

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    return load(
        model,
        revision=revision,
        dtype=dtype,
        device=device,
        device_map=device_map,
        offline=offline,
        allow_pickle=allow_pickle,
        trust_remote_code=trust_remote_code,
    )


@contextlib.contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """A progress callback that draws on stderr when that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bars:
        tasks: dict = {}

        def step(label: str, done: int, total: int) -> None:
            if label not in tasks:
                tasks[label] = bars.add_task(label, total=total)
            bars.update(tasks[label], completed=done, total=total)

        yield step


def check_out(out: Path | None) -> None:
    """Refuse an output folder that cannot be one before any work is done."""
    if out is not None and out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; --out wants a folder.")


def check_expect(expect: str | None) -> None:
    """Refuse an expectation that can never be met."""
    if expect not in (None, "sink", "no-sink"):
        raise InputError(f"--expect {expect!r} is neither sink nor no-sink.")


def scan_and_show(
    loading: dict[str, Any],
    settings: dict[str, Any],
    out: Path | None,
    expect: str | None,
    as_json: bool,
) -> None:
    """Load, scan, save where a folder is given, print, and hold the result against `expect`."""
    check_out(out)
    check_expect(expect)
    subject = load_subject(**loading)
    from sinkscope.detect.scan import ScanSettings, scan

    with progress_bar() as progress:
        result = scan(subject, ScanSettings(**settings), progress=progress)
    folder = result.save(out) if out is not None else None
    show(result, as_json)
    if folder is not None:
        print(f"Report: {folder / 'report.html'}", file=sys.stderr if as_json else sys.stdout)
    exit_on_expect(result, expect)


def show(result: Result, as_json: bool) -> None:
    """Print a result: the summary as JSON, or the table."""
    if as_json:
        sys.stdout.write(result.to_json() + "\n")
        return
    from rich.console import Console

    from sinkscope.report.table import render_rich

    render_rich(result, Console())


def exit_on_expect(result: Result, expect: str | None) -> None:
    """Exit with 1 where a BOS policy does not show what was expected."""
    if expect is None:
        return
    wrong = [
        bos for bos, found in result.summary.scan.items() if found.p0_sink != (expect == "sink")
    ]
    if wrong:
        print(
            f"sinkscope: expected {expect}, but {', '.join(wrong)} BOS shows otherwise.",
            file=sys.stderr,
        )
        raise typer.Exit(1)
