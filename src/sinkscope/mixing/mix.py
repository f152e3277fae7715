"""`mix`: what the sink is for, with the sink, without it, and with a control instead."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from sinkscope.errors import InputError
from sinkscope.mixing.arrays import mix_dataset
from sinkscope.mixing.measured import measure
from sinkscope.mixing.record import MixSettings
from sinkscope.mixing.summary import mix_summary
from sinkscope.provenance import new_summary
from sinkscope.result import Result
from sinkscope.subject.load import Subject
from sinkscope.subject.prompts import Prompts


def mix(
    subject: Subject,
    settings: MixSettings | None = None,
    *,
    prompts: Prompts | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    **changes: Any,
) -> Result:
    """Measure how much positions mix, and what becomes of that when the sink is taken away.

    settings, changes  a MixSettings, or its fields as keywords: mix(subject, pairs=16, bos="both")
    prompts            ready-made Prompts instead of what the settings describe
    progress           called as progress(label, done, total)

    Returns a Result with one group for each BOS policy. Raises InputError, and Unsupported for a
    model whose attention cannot be reached.
    """
    settings = dataclasses.replace(settings or MixSettings(), **changes)
    _check(settings)
    progress = progress or (lambda label, done, total: None)
    chosen = [prompts] if prompts is not None else settings.build(subject)
    found = [measure(subject, each, settings, progress) for each in chosen]
    import xarray

    command = {"name": "mix", **dataclasses.asdict(settings), "swaps": list(settings.swaps)}
    summary = new_summary(subject, chosen, command, settings.seed)
    summary.mix = {each.bos: mix_summary(one) for each, one in zip(chosen, found)}
    groups = {f"mix/{each.bos}": mix_dataset(one) for each, one in zip(chosen, found)}
    return Result(summary, xarray.DataTree.from_dict(groups))


def _check(settings: MixSettings) -> None:
    if settings.pairs < 1:
        raise InputError("at least one pair is needed.")
    if settings.longest is not None and settings.longest < 2:
        raise InputError("the longest prompt of the sweep has at least two tokens.")
