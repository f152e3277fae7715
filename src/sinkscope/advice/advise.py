"""`advise`: what a sink means for those who serve, quantise, evaluate and secure a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch

from sinkscope.advice.arrays import advise_dataset
from sinkscope.advice.bench import Bench
from sinkscope.advice.bos import advise_bos
from sinkscope.advice.first_words import advise_first_words
from sinkscope.advice.half import advise_half
from sinkscope.advice.idle_heads import advise_heads
from sinkscope.advice.quantise import advise_quantisation
from sinkscope.advice.remedies import advise_remedies
from sinkscope.advice.repeats import advise_repeats
from sinkscope.advice.streaming import advise_streaming
from sinkscope.detect.scan import scan
from sinkscope.errors import InputError
from sinkscope.frame import Progress, silent
from sinkscope.progress import shown
from sinkscope.provenance import new_summary
from sinkscope.result import Result
from sinkscope.schema.advise import Advice
from sinkscope.settings import AdviseSettings, PromptSettings, ScanSettings, part_of
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts, build_prompts
from sinkscope.subject.windows import in_turn

QUESTIONS: dict[str, Callable[[Bench], Advice]] = {
    "bos": advise_bos,
    "streaming": advise_streaming,
    "quantisation": advise_quantisation,
    "fp16": advise_half,
    "repeats": advise_repeats,
    "heads": advise_heads,
    "first-words": advise_first_words,
    "remedies": advise_remedies,
}


@shown
def advise(
    subject: Subject,
    settings: AdviseSettings | None = None,
    *,
    progress: Progress = silent,
    **changes: Any,
) -> Result:
    """Answer what users of a model ask because of its sink, each by trying it.

    settings, changes  an AdviseSettings, or its fields as keywords: advise(subject, n=16)
    progress           called as progress(label, done, total); by default a bar

    Returns a Result with an entry for each question, and the scan it rests on. Raises InputError
    for an unknown question, Unsupported for a model whose attention cannot be reached.
    """
    settings = dataclasses.replace(settings or AdviseSettings(), **changes)
    asked = questions(settings.questions)
    if settings.bos == "both":
        raise InputError("advise compares BOS by itself; use --bos as-is, with or without.")
    length = min(settings.length, subject.max_length or settings.length)
    settings = dataclasses.replace(settings, length=length)
    asked_for = dataclasses.asdict(part_of(settings, PromptSettings))
    prompts = build_prompts(subject, **asked_for, by_turns=True)  # intervals count documents
    seen = {k: v for k, v in vars(settings).items() if k not in ("within", "questions")}
    result = scan(
        subject, ScanSettings(**seen, untrained=False), prompts=prompts, progress=progress
    )
    return result.merge(advise_on(subject, prompts, settings, result, asked, progress))


def advise_on(
    subject: Subject,
    prompts: Prompts,
    settings: AdviseSettings,
    scanned: Result,
    asked: Sequence[str] = tuple(QUESTIONS),
    progress: Progress = silent,
) -> Result:
    """The answers alone, from settings.n of the prompts that were scanned, documents by turns."""
    import xarray

    documents = range(len(prompts)) if prompts.units is None else prompts.units.tolist()
    rows = sorted(in_turn(documents)[: settings.n])
    bench = Bench(
        subject, prompts.take(torch.tensor(rows)), settings, scanned.summary.scan[prompts.bos],
        scanned.data[f"scan/{prompts.bos}"].to_dataset().isel(sequence=rows), progress,
    )  # fmt: skip
    command = {"name": "advise", **dataclasses.asdict(settings)}
    summary = new_summary(subject, [prompts], command, settings.seed)
    for name in asked:
        with bench.counted(name):
            summary.advise[name] = QUESTIONS[name](bench)
    few = len(bench.prompts) < len(prompts)
    part = f"On {len(bench.prompts)} of {len(prompts)} prompts." if few else ""
    for one in summary.advise.values():
        one.limits = " ".join(filter(None, [one.limits, bench.about_text, part]))
    return Result(summary, xarray.DataTree.from_dict({"advise": advise_dataset(bench)}))


def questions(asked: str | None) -> list[str]:
    """The questions asked for. Raises InputError for one that there is not."""
    if asked is None:
        return list(QUESTIONS)
    chosen = [name.strip() for name in asked.split(",") if name.strip()]
    for name in chosen:
        if name not in QUESTIONS:
            raise InputError(f"question {name!r} is not one of {', '.join(QUESTIONS)}.")
    return chosen
