"""What several commands do alike: load, show progress, save, print, hold against `--expect`."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

import sinkscope
from sinkscope.cli.options import Debug as Debug
from sinkscope.cli.options import Json as Json
from sinkscope.cli.options import Seed as Seed
from sinkscope.cli.progress import progress_bar as progress_bar
from sinkscope.errors import InputError, SinkscopeError, is_out_of_memory
from sinkscope.files import disk_is_full, prove_writable
from sinkscope.pace import planned
from sinkscope.settings import LoadSettings, PromptSettings

if TYPE_CHECKING:
    from sinkscope.result import Result
    from sinkscope.subject.load import Subject

SINK = ("sink", "no-sink")  # what a scan can be held against
VERDICTS = (  # what verify can be held against; the classes are those of causal/verdict.py
    *("p0-circuit", "bos-token", "position-embedding", "learned-sink", "query-bias"),
    *("rotary-distance", "other", "none", "undetermined"),
)
WHOLE = ("none", "undetermined")  # the others may be joined: p0-circuit+bos-token


def stay_offline(offline: bool) -> None:
    """Forbid the Hub for this process; huggingface_hub reads this when it is first imported."""
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"


def load_subject(loading: LoadSettings) -> Subject:
    """Load the model that the options describe, with transformers' own chatter off."""
    stay_offline(loading.offline)
    from transformers.utils import logging

    from sinkscope.subject.load import load

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    options = dataclasses.asdict(loading)
    return load(options.pop("model"), **options)


def measure(
    name: str,
    loading: LoadSettings,
    settings: PromptSettings,
    out: Path | None,
    as_json: bool,
    expect: str | None = None,
    known: tuple[str, ...] = (),
) -> None:
    """Load a model, run the command of that name on it, save, print, hold against `expect`."""
    check(out, expect, known)
    subject = load_subject(loading)
    rows = getattr(settings, "rows", settings.n)
    stages = planned(name, settings.n, rows, policies=2 if settings.bos == "both" else 1)
    with progress_bar(stages) as progress:
        result = getattr(sinkscope, name)(subject, settings, progress=progress)
    save_and_show(result, out, as_json)
    exit_on_expect(result, expect)


def check_device(device: str) -> None:
    """Refuse a device to train on that is not there."""
    import torch

    if device != "cpu" and not (device == "cuda" and torch.cuda.is_available()):
        raise InputError(
            f"--device {device!r} is not there: cpu, or cuda on a machine that has it."
        )


def check(out: Path | None, expect: str | None = None, known: tuple[str, ...] = ()) -> None:
    """Refuse an output folder or an expectation that cannot be one, before any work is done."""
    if out is not None:
        if out.exists() and not out.is_dir():
            raise InputError(f"{out} is a file; --out wants a folder.")
        prove_writable(out)
    if expect is None:
        return
    parts = expect.split("+")
    if not set(parts) <= set(known) or (len(parts) > 1 and set(parts) & {*SINK, *WHOLE}):
        raise InputError(f"--expect {expect!r} is not one of {', '.join(known)}.")


@contextlib.contextmanager
def drawn_from(folder: Path) -> Iterator[None]:
    """What goes wrong while saved results are drawn is what their files hold, or lack."""
    try:
        yield
    except SinkscopeError:
        raise
    except Exception as error:
        if disk_is_full(error) or is_out_of_memory(error) or isinstance(error, BrokenPipeError):
            raise
        first = (str(error).strip().splitlines() or [""])[0]
        raise InputError(
            f"{folder} cannot be drawn: its files lack something, or do not fit together "
            f"({type(error).__name__}: {first}). If sinkscope wrote them so, please report it."
        ) from error


def save_and_show(result: Result, out: Path | None, as_json: bool) -> None:
    """Save a result where a folder is given, and print it."""
    folder = result.save(out) if out is not None else None
    show(result, as_json)
    if folder is not None:
        print(f"Report: {folder / 'report.html'}", file=sys.stderr if as_json else sys.stdout)


def show(result: Result, as_json: bool) -> None:
    """Print a result: the summary as JSON, or the tables."""
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
    shown = _shown(result, by_scan=expect in SINK)
    wrong = {bos: what for bos, what in shown.items() if {*what.split("+")} != {*expect.split("+")}}
    if wrong or not shown:
        found = ", ".join(f"{what} ({bos} BOS)" for bos, what in wrong.items()) or "no verdict"
        print(f"sinkscope: expected {expect}, found {found}.", file=sys.stderr)
        raise typer.Exit(1)


def _shown(result: Result, by_scan: bool) -> dict[str, str]:
    """BOS policy -> sink or no-sink by the scan, or the verdict."""
    summary = result.summary
    if by_scan:
        said = {True: SINK[0], False: SINK[1], None: "undecided"}
        return {bos: said[one.p0_sink] for bos, one in summary.scan.items()}
    # a policy that was scanned but could not be verified has no verdict
    unverified = dict.fromkeys(summary.scan, "no verdict")
    return unverified | {bos: one.verdict for bos, one in summary.verify.items()}
