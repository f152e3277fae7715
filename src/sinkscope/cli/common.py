"""What several commands do alike: load, show progress, save, print, hold against `--expect`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sinkscope
from sinkscope.cli.expect import exit_on_expect, refuse_unknown
from sinkscope.cli.options import Printing, Showing
from sinkscope.errors import InputError, SinkscopeError, first_line, is_out_of_memory
from sinkscope.files import disk_is_full, prove_writable
from sinkscope.pace import stages_of
from sinkscope.progress import progress_bar as progress_bar
from sinkscope.settings import LoadSettings, PromptSettings
from sinkscope.subject.documents import refuse_no_text

if TYPE_CHECKING:
    from sinkscope.frame import Progress
    from sinkscope.result import Result
    from sinkscope.subject.load import Subject

begun: list[tuple[float, list[str]]] = []  # when this command line began, and its arguments


def stay_offline(offline: bool) -> None:
    """Forbid the Hub for this process; huggingface_hub reads this when it is first imported."""
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"


def load_subject(loading: LoadSettings) -> Subject:
    """Load the model that the options describe, with transformers' own chatter off."""
    stay_offline(loading.offline)
    os.environ.setdefault("TQDM_DISABLE", "1")  # the bar of unpacking GGUF has no other switch
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
    showing: Showing,
    expect: str | None = None,
    known: tuple[str, ...] = (),
) -> Result:
    """Load a model, run the command of that name on it, save, print, hold against `expect`."""
    refuse_unknown(expect, known)
    check_showing(showing)
    if settings.kind == "text":
        refuse_no_text(settings.text)

    def work(progress: Progress) -> Result:
        subject = opened(loading, showing, progress)
        return getattr(sinkscope, name)(subject, settings, progress=progress)

    stages = stages_of(name, vars(settings), writes=showing.out is not None)
    result = carry_out(work, showing, stages)
    exit_on_expect(result, expect)
    return result


def carry_out(
    work: Callable[[Progress], Result],
    showing: Showing,
    stages: Sequence[tuple[str, float]] = (),
) -> Result:
    """Do the work, save its result and print it; of several processes the first does so."""
    with watched(showing, stages) as progress:
        result = work(progress)
        from sinkscope.ranks import rank

        if rank():
            showing = dataclasses.replace(showing, out=None, quiet=True, json=False)
        page = saved(result, showing, progress)
    show(result, showing, page)
    return result


def opened(loading: LoadSettings, showing: Showing, progress: Progress) -> Subject:
    """The model of the options. Refuses, before any work, to replace what is known of another."""
    progress("loading", 0, 1)
    subject = load_subject(loading)
    there = None if showing.out is None or showing.force else _held(showing.out)
    if there and there.get("weights_sha256") != subject.identity["weights_sha256"]:
        raise InputError(
            f"{showing.out} holds the result of another model, {there.get('id')}: name another "
            "folder with --out, or replace it with --force."
        )
    return subject


def _held(folder: Path) -> dict[str, Any]:
    """What the summary in a folder says of its model; nothing where there is no such summary."""
    from sinkscope.files import latest
    from sinkscope.result import SUMMARY

    try:
        return dict(json.loads(latest(folder, SUMMARY).read_text(encoding="utf-8"))["model"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}  # no result, or none that can be read


def name_of(model: str | None) -> str:
    """A model as part of the name of a folder: the last part of its path or Hub id."""
    if model is None:
        return "bundled"
    last = os.path.basename(os.path.abspath(os.path.expanduser(model))).removesuffix(".gguf")
    return re.sub(r"[^\w.-]+", "-", last)[:80] or "model"


def watched(
    showing: Printing, stages: Sequence[tuple[str, float]] = ()
) -> contextlib.AbstractContextManager[Progress]:
    """The progress display, unless nothing is shown; of several processes the first has it."""
    if not showing.quiet and os.environ.get("RANK", "0") == "0":
        return progress_bar(stages)
    from sinkscope.frame import silent

    return contextlib.nullcontext(silent)


def check_device(device: str) -> None:
    """Refuse a device to train on that is not there."""
    import torch

    if device != "cpu" and not (device == "cuda" and torch.cuda.is_available()):
        raise InputError(
            f"--device {device!r} is not there: cpu, or cuda on a machine that has it."
        )


def check(out: Path | None) -> None:
    """Refuse an output folder that cannot be one, before any work is done."""
    if out is not None:
        if out.exists() and not out.is_dir():
            raise InputError(f"{out} is a file; a folder is wanted.")
        prove_writable(out)


def takes_page(folder: Path, showing: Printing) -> bool:
    """Whether a page can be written beside saved results; of a folder of others it is said.

    Raises InputError where the name of the page is all that would be printed.
    """
    try:
        check(folder)
    except InputError as error:
        if showing.quiet:
            raise
        print(f"sinkscope: no page was written: {error}", file=sys.stderr)
        return False
    return True


def check_showing(showing: Showing) -> None:
    """`check`, and refuse to replace files of our names that no result is known to have written."""
    from sinkscope.result import ARRAYS, REPORT, SUMMARY

    check(showing.out)
    if showing.out is None or showing.force or _held(showing.out):
        return
    for name in (SUMMARY, ARRAYS, REPORT):
        if os.path.lexists(showing.out / name):
            raise InputError(
                f"{showing.out} holds a {name}, but no result that can be read: name another "
                "folder with --out, or replace it with --force."
            )


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
        raise InputError(
            f"{folder} cannot be drawn: its files lack something, or do not fit together "
            f"({type(error).__name__}: {first_line(error)[:-1]}). If sinkscope wrote them so, "
            "please report it."
        ) from error


def saved(result: Result, showing: Showing, progress: Progress) -> Path | None:
    """Save a result where a folder is given; the page of it."""
    from sinkscope.provenance import made

    result.summary.made = made(*begun[-1]) if begun else None
    if showing.out is None:
        return None
    progress("report", 0, 1)
    page = result.save(showing.out) / "report.html"
    progress("report", 1, 1)
    return page


def show(result: Result, showing: Printing, page: Path | None, *others: Result) -> None:
    """Print a result: its answers, the summary as JSON, or every table; and where its page is.

    others  runs that it is compared with
    """
    from sinkscope.report.text import visible

    place = visible(page or "")  # a name may hold what would steer a terminal
    if showing.quiet:
        print(place, end="\n" if place else "")
        return
    if showing.json:
        sys.stdout.write(result.to_json() + "\n")
    else:
        from rich.console import Console

        from sinkscope.report.brief import print_brief

        print_brief(result, Console(), *others, verbose=showing.verbose)
    if page is not None:
        print(f"Report: {place}", file=sys.stderr if showing.json else sys.stdout)
    elif isinstance(showing, Showing) and not showing.json:
        print("No report was written: --out FOLDER writes one.")
